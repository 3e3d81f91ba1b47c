"""Which pattern mends a divergence: a guess from what differs, and from where the task was stopped."""

from __future__ import annotations

from collections.abc import Collection

from duly.proof.difference import Difference, Fault
from duly.proof.points import Point

_KEYS = {
    "mail": "as its Message-ID",
    "http": "as the header Idempotency-Key",
}


def hint(differences: Collection[Difference], point: Point | None, effects: str | None) -> str:
    """One or two sentences that say what to write instead."""
    faults = {(one.kind, one.fault) for one in differences}
    kinds = {kind for kind, _ in faults}
    if ("effect", Fault.DOUBLED) in faults or ("effect", Fault.MORE) in faults:
        return _of_repeated(next(one for one in differences if one.kind == "effect"), effects)
    if ("effect", Fault.MISSING) in faults:
        return (
            "The database said that it was done before it was, so the next attempt left it out: send first and note "
            'it afterwards, with a key that the receiver knows (effects="idempotent"), or enqueue the sending as a '
            "job of its own in the transaction (session=)"
        )
    if kinds == {"file"}:
        return (
            "Write the whole file each time, under another name, and move it into place with os.replace(); for a new "
            "file take ctx.idempotency_key into its name. Never append"
        )
    if "row" in kinds:
        return _of_rows(faults, point, effects)
    return (
        "The next attempt found what the last one had left, and gave up: see whether it is there first, or write all "
        'of it in one transaction with effects="transactional"'
    )


def _of_repeated(repeated: Difference, effects: str | None) -> str:
    match repeated.effect:
        case "job":
            return 'Give the job that it enqueues a name within this one, .using(child="…"), so that it is made once'
        case "process":
            return (
                "Nobody can take a program back: let it do the same however often it runs, and give it "
                "ctx.idempotency_key to know a repetition by"
            )
    moved = (
        " Enqueue it as a job of its own in the transaction (session=), and there"
        if effects == "transactional"
        else ""
    )
    key = _KEYS.get(repeated.effect, "in what is sent")
    send = "send" if moved else "Send"
    return (
        f"Nothing that is sent can be rolled back.{moved} {send} ctx.idempotency_key {key}, so that the receiver knows "
        'a repetition; or, where it cannot, state effects="unrepeatable"'
    )


def _of_rows(faults: Collection[tuple[str, Fault]], point: Point | None, effects: str | None) -> str:
    if effects == "transactional":
        return (
            "These rows were not written through the session that Duly gave, but by another engine or connection: "
            "write them through it, so that they commit with the job"
        )
    together = 'write all of it through the session that Duly gives, with effects="transactional"'
    if point is None:
        return (
            f"Two attempts at once both looked, and both wrote: let the database refuse the second one by a unique "
            f"constraint, or by optimistic locking; or {together}"
        )
    if ("row", Fault.CHANGED) in faults or ("row", Fault.MISSING) in faults:
        return (
            f"Only a part of it had been committed, and the next attempt took that for the whole, or for nothing: "
            f"{together}; or guard it with ctx.once(…) or a version column in the same transaction"
        )
    return (
        f"It was committed before the job was, and the next attempt did it again: {together}; or let a unique "
        "constraint, or ctx.once(…), refuse the second one"
    )
