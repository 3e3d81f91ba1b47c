"""Requests over TLS are seen before they are encrypted."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duly.proof.points import Moment, Stop
from tests.proof.conftest import Stage

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "bank.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def bank(certificate: Path) -> Iterator[int]:
    """The port of a server that answers each request with *ok*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(line, server_side=True) as secret:
                secret.settimeout(5)
                while secret.recv(4096):
                    secret.sendall(ANSWER)

    thread = threading.Thread(target=serve)
    thread.start()
    yield door.getsockname()[1]
    door.shutdown(socket.SHUT_RDWR)
    door.close()
    thread.join()


def test_sync_request(stage: Stage, bank: int, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=certificate)

    @stage.jobs.task(name="pay")
    def pay(order_id: int) -> None:
        line = http.client.HTTPSConnection("127.0.0.1", bank, context=trust)
        line.request("POST", "/pay", body=b"paid")
        assert line.getresponse().read() == b"ok"
        line.close()

    runs = stage.runs(pay)
    clean, _ = stage.play(runs.clean)
    assert (clean.outcome, clean.notes) == ("succeeded", ())
    (effect,) = clean.effects
    assert (effect.kind, effect.target) == ("http", f"POST https://127.0.0.1:{bank}/pay")
    assert effect.payload is not None
    run, _ = stage.play(runs.crashed, Stop(1, Moment.AFTER))
    assert run.effects == (effect, effect)


def test_async_request(stage: Stage, bank: int, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=certificate)

    @stage.jobs.task(name="apay")
    async def apay(order_id: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bank, ssl=trust)
        writer.write(b"POST /pay HTTP/1.1\r\nHost: bank\r\nContent-Length: 4\r\n\r\npaid")
        assert (await reader.readuntil(b"ok")) == ANSWER
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    clean, _ = stage.play(stage.runs(apay).clean)
    assert (clean.outcome, clean.notes) == ("succeeded", ())
    (effect,) = clean.effects
    assert (effect.kind, effect.target, effect.payload is None) == (
        "http",
        "POST https://127.0.0.1/pay",
        False,
    )
    assert [point.kind for point in clean.points] == ["http", "returned"]
