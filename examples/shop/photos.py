"""Photographs (those that scikit-image ships for its own examples), and thumbnails of them."""

from importlib.metadata import distribution
from pathlib import Path
from uuid import uuid4

from PIL import Image

from .settings import THUMBNAILS

PHOTOS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
SIZES = (320, 240, 160, 96, 48)


def thumbnail(photo: str, size: int) -> Path:
    """Where the thumbnail of *photo* that fits a square of *size* pixels lies, once it is made."""
    return THUMBNAILS / f"{Path(photo).stem}-{size}.jpg"


def shrink(photo: str, size: int) -> None:
    """Make one thumbnail. It appears whole or not at all, however often and wherever a worker is killed."""
    target = thumbnail(photo, size)
    part = target.with_suffix(f".{uuid4().hex}.part")  # duly: reviewed (its name until it is whole)
    with Image.open(_original(photo)) as image:
        picture = image.convert("RGB")
    picture.thumbnail((size, size))
    picture.save(part, "JPEG", quality=85)
    part.replace(target)


def is_whole(picture: Path, size: int) -> bool:
    """Whether *picture* is there, can be decoded to its last byte, and has the size it should have."""
    try:
        with Image.open(picture) as image:
            image.load()
            return max(image.size) == size
    except OSError:
        return False


def _original(photo: str) -> Path:
    return Path(str(distribution("scikit-image").locate_file(f"skimage/data/{photo}")))
