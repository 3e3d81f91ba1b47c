"""What a run sees of mails, requests, programs, files and sockets."""

from __future__ import annotations

import asyncio
import http.client
import smtplib
import socket
import subprocess
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from duly import Context, given
from duly.proof.points import Moment, Stop
from tests.proof.conftest import Stage


class Bank(BaseHTTPRequestHandler):
    """Takes every payment, and remembers it."""

    taken: list[tuple[str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append((self.path, self.headers["Idempotency-Key"], body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def bank() -> Iterator[ThreadingHTTPServer]:
    handler = type("TheBank", (Bank,), {"taken": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def taken(bank: ThreadingHTTPServer) -> list[Any]:
    return bank.RequestHandlerClass.taken  # type: ignore[attr-defined, no-any-return]


def test_request_is_one_effect_seen_whole(stage: Stage, bank: ThreadingHTTPServer) -> None:
    host, port = bank.server_address[:2]

    @stage.jobs.task(name="pay", effects="idempotent")
    def pay(order_id: int, *, ctx: Context = given) -> None:
        line = http.client.HTTPConnection(str(host), int(port))
        line.request("POST", "/pay", body=b"x" * 100_000, headers={"Idempotency-Key": ctx.idempotency_key})
        assert line.getresponse().read() == b"ok"
        line.request("POST", "/log", body=b"paid")
        line.getresponse().read()
        line.close()

    runs = stage.runs(pay)
    clean, _ = stage.play(runs.clean)
    assert [(point.kind, point.what) for point in clean.points] == [
        ("http", f"POST http://{host}:{port}/pay"),
        ("http", f"POST http://{host}:{port}/log"),
        ("returned", "the task has returned"),
    ]
    assert [(effect.kind, effect.keyed) for effect in clean.effects] == [("http", True), ("http", False)]
    assert len(taken(bank)) == 2
    run, _ = stage.play(runs.crashed, Stop(1, Moment.BEFORE))
    assert run.effects == clean.effects
    assert len(taken(bank)) == 4
    run, _ = stage.play(runs.crashed, Stop(1, Moment.AFTER))
    assert run.effects == (clean.effects[0], *clean.effects)
    assert len(taken(bank)) == 7


def test_async_request_is_seen(stage: Stage, bank: ThreadingHTTPServer) -> None:
    host, port = bank.server_address[:2]

    @stage.jobs.task(name="apay")
    async def apay(order_id: int) -> None:
        reader, writer = await asyncio.open_connection(str(host), int(port))
        writer.write(b"POST /pay HTTP/1.1\r\nHost: bank\r\nContent-Length: 4\r\n\r\npaid")
        await writer.drain()
        await reader.readuntil(b"ok")
        writer.close()
        await writer.wait_closed()
        await asyncio.to_thread(subprocess.run, ["true"], check=True)

    runs = stage.runs(apay)
    clean, _ = stage.play(runs.clean)
    assert clean.notes == ()
    assert [effect.kind for effect in clean.effects] == ["http", "process"]
    assert [point.kind for point in clean.points] == ["http", "process", "returned"]
    run, _ = stage.play(runs.crashed, Stop(2, Moment.AFTER))
    assert [effect.kind for effect in run.effects] == ["http", "process"] * 2
    run, _ = stage.play(runs.frozen, Stop(1, Moment.BEFORE))
    assert sorted(effect.kind for effect in run.effects) == ["http", "http", "process", "process"]


def test_mail_goes_to_a_stand_in_and_two_sendings_of_it_are_alike(stage: Stage) -> None:
    @stage.jobs.task(name="greet")
    def greet(order_id: int) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "shop@example.com", "you@example.com", "Thank you"
        mail["Message-ID"] = f"<{id(mail)}@shop>"
        mail.set_content("…")
        mail.add_alternative("<p>…", subtype="html")
        with smtplib.SMTP("mail.example.com", 587) as server:
            server.starttls()
            server.login("shop", "secret")
            server.send_message(mail)

    runs = stage.runs(greet)
    clean, _ = stage.play(runs.clean)
    assert [(point.kind, point.what) for point in clean.points[:-1]] == [("mail", "you@example.com")]
    (effect,) = clean.effects
    assert (effect.kind, effect.target, effect.keyed) == ("mail", "you@example.com", False)
    run, _ = stage.play(runs.crashed, Stop(1, Moment.AFTER))
    assert run.effects == (effect, effect)


def test_programs_and_files_are_points(stage: Stage, tmp_path: Path) -> None:
    @stage.jobs.task(name="export")
    def export(order_id: int) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "new").write_text("1")
        (tmp_path / "out" / "new").rename(tmp_path / "out" / "list")
        (tmp_path / "out" / "list").read_text()
        subprocess.run(["true", str(order_id)], check=True)

    clean, _ = stage.play(stage.runs(export).clean)
    assert [(point.kind, point.what.replace(str(tmp_path), "")) for point in clean.points[:-1]] == [
        ("file", "mkdir /out"),
        ("file", "write /out/new"),
        ("file", "rename /out/new /out/list"),
        ("process", "true"),
    ]
    assert [(effect.kind, effect.target) for effect in clean.effects] == [("process", "true")]


def test_other_hosts_are_refused_unless_they_are_allowed(stage: Stage) -> None:
    @stage.jobs.task(name="far", max_attempts=1)
    def far(order_id: int) -> None:
        line = socket.socket()
        line.settimeout(0.05)
        with line:
            line.connect(("192.0.2.1", 80))

    clean, _ = stage.play(stage.runs(far).clean)
    assert clean.outcome == "failed"
    assert "would have reached 192.0.2.1" in clean.notes[0]
    assert "test_outside.py" in clean.notes[0]
    clean, _ = stage.play(stage.runs(far, reach=frozenset({"192.0.2.1"})).clean)
    assert clean.notes == ()


def test_thread_of_the_task_belongs_to_its_attempt(stage: Stage) -> None:
    @stage.jobs.task(name="threaded")
    def threaded(order_id: int) -> None:
        def pay() -> None:
            with stage.engine.begin() as connection:
                connection.execute(text("INSERT INTO payments VALUES (1)"))

        thread = threading.Thread(target=pay)
        thread.start()
        thread.join()

    clean, _ = stage.play(stage.runs(threaded).clean)
    assert [point.kind for point in clean.points] == ["statement", "commit", "returned"]
