"""Verdicts and audits: kept, and the last of each found."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from tests.store.scene import Scene

SOURCE, LATER = "a" * 64, "b" * 64


def save(scene: Scene, task: str, verdict: str, source: str = SOURCE) -> None:
    with scene.store.writing() as connection:
        scene.store.proofs.save(
            connection, task=task, source=source, verdict=verdict, points=7, details="at point 3 …"
        )


def test_the_last_verdict_on_each_task_counts(scene: Scene) -> None:
    save(scene, "shop.pay", "diverges")
    save(scene, "shop.mail", "cannot tell")
    save(scene, "shop.pay", "proved", LATER)
    save(scene, "Shop.pay", "diverges")  # another task: names differ in case
    with scene.store.reading() as connection:
        last = scene.store.proofs.last(connection)
        now = scene.store.clock.now()
    assert {name: proof.verdict for name, proof in last.items()} == {
        "shop.pay": "proved",
        "shop.mail": "cannot tell",
        "Shop.pay": "diverges",
    }
    proof = last["shop.pay"]
    assert (proof.task, proof.source, proof.points, proof.details) == ("shop.pay", LATER, 7, "at point 3 …")
    assert abs(now - proof.at) < timedelta(seconds=10)


def test_of_verdicts_of_one_instant_the_later_one_counts(scene: Scene) -> None:
    save(scene, "shop.pay", "diverges")
    save(scene, "shop.pay", "proved")
    with scene.store.writing() as connection:
        connection.execute(update(scene.store.tables.proofs).values(at=scene.store.clock.now()))
    with scene.store.reading() as connection:
        assert scene.store.proofs.last(connection)["shop.pay"].verdict == "proved"


def test_the_last_audit_is_found(scene: Scene) -> None:
    proofs = scene.store.proofs
    with scene.store.reading() as connection:
        assert proofs.last_audit(connection) is None
    for actor, gaps in (("ada", 5), ("b" * 300, 0)):
        with scene.store.writing() as connection:
            proofs.note_audit(connection, actor=actor, tasks=3, gaps=gaps)
    with scene.store.reading() as connection:
        last = proofs.last_audit(connection)
        assert last is not None
        assert (last.actor, last.tasks, last.gaps) == ("b" * 200, 3, 0)
