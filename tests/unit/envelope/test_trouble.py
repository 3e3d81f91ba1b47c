"""An exception becomes text, whatever it is made of, and never takes the arguments with it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.clock import DatabaseClock
from duly.envelope.trouble import LONGEST_MESSAGE, LONGEST_TRACEBACK, LONGEST_TYPE, Trouble
from duly.errors import ArgumentsMisfit, SettingsError


def caught(function) -> BaseException:
    try:
        function()
    except BaseException as exc:
        return exc
    raise AssertionError("it did not raise")


def failing():
    password = "hush-hush"
    raise ValueError(f"{len(password)} went wrong")


def test_it_says_type_message_and_traceback_without_locals():
    trouble = Trouble.of(caught(failing))
    assert (trouble.type, trouble.message) == ("ValueError", "9 went wrong")
    assert "in failing" in trouble.traceback
    assert trouble.traceback.endswith("ValueError: 9 went wrong\n")
    assert trouble.traceback.count("hush-hush") == trouble.traceback.count('= "hush-hush"') == 0


def test_a_class_is_named_with_its_module():
    assert Trouble.of(SettingsError("x")).type == "duly.errors.SettingsError"

    class Local(Exception):
        pass

    assert Trouble.of(Local()).type.endswith("test_a_class_is_named_with_its_module.<locals>.Local")


def test_causes_contexts_and_groups_are_told():
    def caused():
        try:
            failing()
        except ValueError as exc:
            raise RuntimeError("so it ended") from exc

    trouble = Trouble.of(caught(caused))
    assert "9 went wrong" in trouble.traceback
    assert "direct cause" in trouble.traceback
    group = Trouble.of(ExceptionGroup("both", [KeyError("a"), OSError("b")]))
    assert "KeyError: 'a'" in group.traceback
    assert "OSError: b" in group.traceback


def test_frames_of_duly_that_called_the_task_are_left_out():
    class Local:
        def monotonic(self):
            failing()

    exc = caught(lambda: DatabaseClock(Local()).learn(None))
    ours = exc.__traceback__.tb_next.tb_next  # what a worker catches begins in Duly's own frames
    assert "src/duly/clock.py" in ours.tb_frame.f_code.co_filename
    told = Trouble.of(exc.with_traceback(ours)).traceback
    assert "clock.py" not in told
    assert "in failing" in told


def test_a_fault_within_duly_keeps_all_its_frames():
    exc = caught(lambda: DatabaseClock(None).learn(None))
    told = Trouble.of(exc.with_traceback(exc.__traceback__.tb_next.tb_next)).traceback
    assert "clock.py" in told


@pytest.mark.parametrize("broken", [RuntimeError("no"), RecursionError(), MemoryError()])
def test_a_broken_str_does_not_break_it(broken):
    class Bad(Exception):
        def __str__(self):
            raise broken

        __repr__ = __str__

    trouble = Trouble.of(caught(lambda: (_ for _ in ()).throw(Bad())))
    assert trouble.type.endswith("Bad")
    assert type(broken).__name__ in trouble.message
    assert "Bad" in trouble.traceback


def test_a_str_that_gives_no_text_and_broken_notes_do_not_break_it():
    class Worse(Exception):
        @property
        def __notes__(self):
            raise RuntimeError

        def __str__(self):
            return 3  # noqa: PLE0307 - that it is no text is the point

    trouble = Trouble.of(caught(lambda: (_ for _ in ()).throw(Worse())))
    assert "TypeError" in trouble.message
    assert trouble.traceback


def test_long_texts_are_cut_in_the_middle():
    exc = ValueError("begin" + "x" * 100_000 + "end")
    exc.add_note("note " * 10_000 + "last")
    trouble = Trouble.of(exc)
    assert len(trouble.message) == LONGEST_MESSAGE
    assert trouble.message.startswith("begin")
    assert trouble.message.endswith("end")
    assert "left out" in trouble.message
    assert len(trouble.traceback) == LONGEST_TRACEBACK
    assert trouble.traceback.rstrip().endswith("last")
    assert len(Trouble.of(type("X" * 999, (Exception,), {})()).type) <= LONGEST_TYPE


def test_a_message_that_just_fits_is_not_cut():
    assert Trouble.of(ValueError("x" * LONGEST_MESSAGE)).message == "x" * LONGEST_MESSAGE


def test_interruptions_of_the_process_are_told_too():
    assert Trouble.of(KeyboardInterrupt()).type == "KeyboardInterrupt"
    assert Trouble.of(SystemExit(3)).message == "3"


@given(st.text(), st.text(), st.text())
def test_it_comes_back_as_it_went(kind, message, traceback):
    """Lone surrogates too: file names that are not UTF-8 stand in messages as such."""
    trouble = Trouble(kind, message, traceback)
    body = trouble.dump()
    assert body[:1] == b"{"
    assert body.isascii()
    assert set(json.loads(body)) == {"type", "message", "traceback"}
    assert Trouble.load(body) == trouble


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"3", b"\xff", b'{"type":1,"message":"","traceback":""}', b"[" * 100_000]
)
def test_what_is_no_trouble_is_a_misfit(body):
    with pytest.raises(ArgumentsMisfit):
        Trouble.load(body)
