import asyncio
import inspect
from datetime import UTC, datetime, timedelta

import pytest

from duly.errors import DeclarationError, InvalidArguments, InvalidOptions
from duly.model.ids import new_id
from duly.model.options import Options
from duly.task import AsyncTask, Context, Job, JobHandle, SyncTask, Tasks, given

SECRET = "hunter2"


@pytest.fixture
def send(jobs):
    @jobs.task(queue="mail")
    def send(user_id: int, text: str = "hi", *, ctx: Context = given) -> str:
        """Send it."""
        return f"{text} {user_id}"

    return send


def test_a_task_looks_like_its_function(send):
    assert send.__doc__ == "Send it."
    assert send.__name__ == "send"
    assert list(inspect.signature(send).parameters) == ["user_id", "text", "ctx"]
    assert repr(send) == f"<Task {send.name}>"


def test_a_task_called_is_the_function_called(send, calls):
    assert isinstance(send, SyncTask)
    assert send(1, text="yo") == "yo 1"
    assert calls == []


def test_an_async_task_called_gives_its_coroutine(jobs):
    @jobs.task
    async def fetch(n: int) -> int:
        return n + 1

    assert isinstance(fetch, AsyncTask)
    assert asyncio.run(fetch(1)) == 2


@pytest.mark.parametrize("verb", ["enqueue", "delay"])
def test_each_verb_enqueues_a_bound_call(send, calls, verb):
    handle = getattr(send, verb)(1, text="yo")
    assert isinstance(handle, JobHandle)
    [call] = calls
    assert (call.task, call.arguments, call.options, call.target) == (
        send,
        {"user_id": 1, "text": "yo"},
        Options(),
        None,
    )


@pytest.mark.parametrize("verb", ["aenqueue", "adelay"])
def test_each_verb_has_its_async_twin(send, calls, verb):
    assert isinstance(asyncio.run(getattr(send, verb)(1)), JobHandle)
    assert isinstance(asyncio.run(getattr(send.using(priority=1), verb)(1)), JobHandle)
    assert [call.options.priority for call in calls] == [None, 1]


def test_a_call_is_enqueued_when_it_is_told_to(send, calls):
    call = send.call(1)
    assert calls == []
    call.enqueue()
    asyncio.run(call.aenqueue())
    assert calls == [call, call]


def test_a_call_does_not_show_its_arguments(send):
    assert SECRET not in repr(send.call(1, SECRET))
    assert SECRET not in repr(send.using(priority=1).call(1, text=SECRET))


def test_a_wrong_call_never_reaches_the_client(send, calls):
    for verb in (send.enqueue, send.call, send.using(priority=1).enqueue):
        with pytest.raises(InvalidArguments, match="did you mean 'user_id'"):
            verb(usr_id=1)
    assert calls == []


# ── using ─────────────────────────────────────────────────────────────────────────────────────


def test_using_carries_options_and_target(send, calls):
    session, when = object(), datetime(2030, 1, 1, tzinfo=UTC)
    id_ = new_id()
    send.using(run_at=when, priority=-10, id=id_, session=session).enqueue(1)
    assert calls[0].options == Options(run=when, priority=-10, id=id_)
    assert calls[0].target is session


def test_the_nearer_using_wins_and_the_rest_stays(send, calls):
    connection = object()
    outer = send.using(run_in=5, priority=1, connection=connection)
    outer.using(run_at=datetime(2030, 1, 1, tzinfo=UTC), queue="slow").delay(1)
    outer.delay(1)
    near, far = calls
    assert near.options == Options(run=datetime(2030, 1, 1, tzinfo=UTC), priority=1, queue="slow")
    assert near.target is connection
    assert far.options == Options(run=timedelta(seconds=5), priority=1)


def test_a_nearer_session_takes_the_place_of_a_connection(send):
    session = object()
    assert send.using(connection=object()).using(session=session).call(1).target is session


def test_a_session_that_is_none_is_none_given(send):
    assert send.using(session=None).call(1).target is None


def test_session_and_connection_together_are_refused(send):
    with pytest.raises(InvalidOptions, match="give session= or connection=, not both"):
        send.using(session=object(), connection=object())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priorty": 1}, "has no option 'priorty'; did you mean 'priority'?"),
        ({"sesion": 1}, "did you mean 'session'?"),
        ({"run_at": datetime(2030, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"run_at": datetime(2030, 1, 1, tzinfo=UTC), "run_in": 5}, "run_at= or run_in=, not both"),
        ({"max_attempts": 0}, "from 1 to"),
    ],
)
def test_wrong_options_are_refused_at_using(send, options, message):
    with pytest.raises(InvalidOptions, match=message) as caught:
        send.using(**options)
    assert f"using() of {send.name}" in str(caught.value)


# ── where the job would go ────────────────────────────────────────────────────────────────────


def test_a_task_without_an_app_says_how_it_gets_one():
    router = Tasks()

    @router.task
    def lonely() -> None: ...

    lonely.call()
    with pytest.raises(
        DeclarationError, match=r"lonely .*test_task\.py:\d+.* Duly\(include=\[…\]\).*jobs\.load\(\)"
    ):
        lonely.enqueue()


def in_script(function):
    function.__module__ = "__main__"
    return function


def test_a_task_of_the_started_program_is_an_error_at_enqueue_not_at_import(jobs, calls):
    @jobs.task
    @in_script
    def demo() -> None: ...

    assert demo.name.startswith("__main__.")
    for verb in (demo.enqueue, demo.call, demo.using(priority=1).enqueue):
        with pytest.raises(DeclarationError, match="give the task a name=, or move it to a module"):
            verb()
    assert calls == []


def test_a_job_class_of_the_started_program_is_one_too(jobs):
    @jobs.task
    @in_script
    class Demo(Job):
        def perform(self) -> None: ...

    with pytest.raises(DeclarationError, match="give the task a name="):
        Demo().enqueue()


def test_with_a_name_a_task_of_the_started_program_can_be_enqueued(jobs, calls):
    @jobs.task(name="demo")
    @in_script
    def demo() -> None: ...

    demo.enqueue()
    assert calls[0].task.name == "demo"


def test_what_a_function_carries_cannot_hide_what_a_task_is_made_of(jobs):
    def f() -> None: ...

    f.name = "not this"
    assert jobs.task(f).name.endswith(".f")
