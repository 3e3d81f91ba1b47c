"""Events as log lines: levels, one line each, safe to show."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from duly.model import events
from duly.model.events import Emitter, Event
from duly.observe import logs
from duly.observe.durations import duration
from duly.observe.text import one_line, value

ID = UUID("0198a1c2-8d3e-7f40-9c55-2b1f6f0f9a01")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the logging of the process is put back afterwards."""
    duly, root = logging.getLogger("duly"), logging.getLogger()
    before = (duly.handlers, duly.level, duly.propagate, root.handlers, root.level)
    yield io.StringIO()
    duly.handlers, duly.level, duly.propagate, root.handlers, level = before
    root.setLevel(level)


def told(stream: io.StringIO, event: Event, *, successes: bool = False) -> str:
    """The line for *event*, from its level on; nothing where it is not logged."""
    logs.setup("text", stream=stream)
    emitter = Emitter()
    logs.subscribe(emitter, successes=successes)
    emitter.emit(event)
    return stream.getvalue()


def forget_pytests_logging() -> None:
    """pytest's own handlers come on the root logger with each test, after its fixtures."""
    logging.getLogger().handlers = []


def ended(outcome: str) -> events.JobEnded:
    return events.JobEnded(ID, "shop.charge", "money", outcome, 3, None, 0.0123)


LEVELS = [
    (events.JobRetried(ID, "t", "q", 1, "ValueError", timedelta(seconds=6)), "warning"),
    (ended("failed"), "error"),
    (ended("uncertain"), "error"),
    (ended("rejected"), "error"),
    (ended("expired"), "warning"),
    (ended("cancelled"), "info"),
    (events.SecurityAlert(ID, "t", "q", "edited"), "error"),
    (events.DatabaseLost("gone"), "error"),
    (events.DatabaseFound(20.0), "warning"),
    (events.ChildDied(7, "killed by SIGKILL"), "error"),
    (events.Rescued(2, 1), "warning"),
    (events.JobSuspected(ID, "t", "q", deaths=1), "warning"),
    (events.JobDied(ID, "t", "q", "killed by SIGKILL"), "warning"),
    (events.LeaseWasLost(ID, "t"), "warning"),
    (events.JobPutBack(ID, "t", "q", "unknown task", problem=True), "warning"),
    (events.JobPutBack(ID, "t", "q", "snoozed", problem=False), "info"),
    (events.Started("worker", "w1"), "info"),
    (events.Stopped("worker", "w1"), "info"),
    (events.Notice("look", "error"), "error"),
    (events.Notice("look", "info"), "info"),
    (events.Notice("look", "no level"), "warning"),
]


@pytest.mark.parametrize(("event", "level"), LEVELS)
def test_level_of_an_event(stream: io.StringIO, event: Event, level: str) -> None:
    assert told(stream, event).split()[1] == level


def test_successes_are_logged_only_on_request(stream: io.StringIO) -> None:
    assert told(stream, ended("succeeded")) == ""
    assert told(stream, ended("succeeded"), successes=True).split()[1] == "info"


def test_subscriber_asks_for_successes_only_on_request() -> None:
    emitter = Emitter()
    logs.subscribe(emitter)
    assert not emitter.successes
    logs.subscribe(emitter, successes=True)
    assert emitter.successes


def test_line_has_time_level_pid_and_pairs(stream: io.StringIO) -> None:
    line = told(stream, events.JobRetried(ID, "shop.charge", "money", 2, "ValueError", timedelta(seconds=21)))
    time, level, pid, rest = line.split(maxsplit=3)
    assert time.endswith("Z")
    assert level == "warning"
    assert pid.strip("[]").isdigit()
    assert rest == (
        f"event=job_retried id={ID} task=shop.charge queue=money attempt=2 error=ValueError wait=21s\n"
    )


def test_nothing_is_said_of_what_is_not_known(stream: io.StringIO) -> None:
    assert "cause=" not in told(stream, ended("failed"))


def test_details_hide_no_field_of_the_event(stream: io.StringIO) -> None:
    line = told(stream, events.Started("worker", "w1", {"name": "another", "queues": "*"}))
    assert line.endswith("event=started role=worker name=w1 queues=*\n")


HOSTILE = 'a\nb\r\x1b[31m\x9b2J\u2028\u202e"\\\ud800\x7f'


def test_a_hostile_value_stays_on_its_line_and_in_its_quotes(stream: io.StringIO) -> None:
    line = told(stream, events.SecurityAlert(ID, "t", "q", HOSTILE))
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert line.endswith('cause="a\\nb\\r\\x1b[31m\\x9b2J\\u2028\\u202e\\"\\\\\\ud800\\x7f"\n')


@pytest.mark.parametrize("bare", ["", "a b", "a=b", "'", 'a"b', "a\\b"])
def test_what_could_be_mistaken_is_quoted(bare: str) -> None:
    assert value(bare).startswith('"')


def test_one_line_leaves_printable_text_alone() -> None:
    assert one_line("Grüße = „ja“ \\n") == "Grüße = „ja“ \\n"


def test_json_has_one_object_a_line_with_durations_in_seconds(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    emitter = Emitter()
    logs.subscribe(emitter)
    emitter.emit(events.JobRetried(ID, "t", "q", 1, HOSTILE, timedelta(minutes=2)))
    emitter.emit(ended("failed"))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert list(first)[:5] == ["time", "level", "logger", "pid", "event"]
    assert (first["event"], first["wait"], first["error"]) == ("job_retried", 120.0, HOSTILE)
    assert (second["took"], second["id"], second["attempt"]) == (0.0123, str(ID), 3)


def test_an_events_facts_do_not_replace_those_of_the_record(stream: io.StringIO) -> None:
    logs.setup("json", stream=stream)
    emitter = Emitter()
    logs.subscribe(emitter)
    emitter.emit(events.Started("worker", "w", {"level": "none", "pid": -1}))
    line = json.loads(stream.getvalue())
    assert line["level"] == "info"
    assert line["pid"] > 0


@pytest.mark.parametrize("format_", ["text", "json"])
def test_the_applications_own_records_come_the_same_way(stream: io.StringIO, format_: logs.LogFormat) -> None:
    forget_pytests_logging()
    logs.setup(format_, stream=stream)
    logging.getLogger("shop").info("not asked for")
    logging.getLogger("shop").warning("two\nlines")
    [line] = stream.getvalue().splitlines()
    assert ("shop: two\\nlines" in line) == (format_ == "text")
    assert "shop" in line


def test_verbose_shows_the_applications_info(stream: io.StringIO) -> None:
    forget_pytests_logging()
    logs.setup("text", verbose=True, stream=stream)
    logging.getLogger("shop").info("asked for")
    assert "asked for" in stream.getvalue()


def test_an_application_that_has_set_up_logging_keeps_it(stream: io.StringIO) -> None:
    own = logging.StreamHandler(io.StringIO())
    logging.getLogger().handlers = [own]
    logs.setup("text", stream=stream)
    assert logging.getLogger().handlers == [own]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_traceback_is_kept(stream: io.StringIO, format_: logs.LogFormat) -> None:
    logs.setup(format_, stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("duly").exception("worker process failed")
    assert "ValueError: broken" in stream.getvalue()
    if format_ == "json":
        assert "Traceback" in json.loads(stream.getvalue())["exception"]


DURATIONS = {
    0.0: "0s",
    0.000_4: "0.4ms",
    0.012_34: "12.3ms",
    0.999_9: "1s",
    2.345: "2.35s",
    59.94: "59.9s",
    59.96: "1m",
    245.0: "4m5s",
    3_599.6: "1h",
    3_780.0: "1h3m",
    86_400.0: "1d",
    90_000.0: "1d1h",
    -5.0: "-5s",
}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_duration_is_readable(seconds: float) -> None:
    assert duration(seconds) == DURATIONS[seconds]
    assert duration(timedelta(seconds=seconds)) == DURATIONS[seconds]
