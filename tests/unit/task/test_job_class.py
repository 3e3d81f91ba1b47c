import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from duly.envelope.arguments import Limits, SealedOptions
from duly.errors import DeclarationError, InvalidArguments, InvalidOptions
from duly.task import Context, Injected, Job, JobHandle, given


@pytest.fixture
def newsletter(jobs):
    @jobs.task(queue="mail", max_attempts=3)
    class Newsletter(Job):
        text: str
        emails: list[str] = Field(default_factory=list)

        def perform(self, *, ctx: Context = given) -> int:
            return len(self.emails)

    return Newsletter


def test_the_decorator_returns_the_class(newsletter):
    assert isinstance(newsletter, type)
    assert newsletter(text="hi", emails=["a"]).perform() == 1


def test_its_task_takes_the_job_and_performs_it(newsletter, jobs):
    [task] = jobs.tasks
    assert task.job_class is newsletter
    assert task.function is newsletter.perform
    assert task.name == "tests.unit.task.test_job_class.newsletter.Newsletter"
    assert task.options.queue == "mail"
    assert task.signature.injected == {"ctx": Injected.CONTEXT}
    job = newsletter(text="hi", emails=["a", "b"])
    args, kwargs = task.signature.apply({"job": job})
    assert task.function(*args, **kwargs) == 2


def test_a_job_comes_back_from_its_envelope_as_it_went(newsletter):
    call = newsletter(text="hi", emails=["a"]).call()
    body = call.task.signature.arguments.dump(call.arguments, SealedOptions(), Limits())
    loaded, _ = call.task.signature.arguments.load(body)
    assert loaded == {"job": newsletter(text="hi", emails=["a"])}


def test_each_verb_of_a_job_enqueues_it(newsletter, calls):
    job = newsletter(text="hi")

    async def twins():
        return [await job.aenqueue(), await job.adelay(), await job.using(priority=3).aenqueue()]

    handles = [job.enqueue(), job.delay(), job.call().enqueue(), job.using(priority=3).enqueue()]
    handles += asyncio.run(twins())
    assert all(isinstance(handle, JobHandle) for handle in handles)
    assert all(call.arguments == {"job": job} for call in calls)
    assert [call.options.priority for call in calls] == [None, None, None, 3, None, None, 3]


def test_using_of_a_job_nests_and_takes_no_arguments(newsletter, calls):
    using = newsletter(text="hi").using(priority=3).using(run_in=5)
    using.delay()
    assert (calls[0].options.priority, calls[0].options.run) == (3, timedelta(seconds=5))
    with pytest.raises(InvalidArguments, match="takes 1 positional argument, but 2 were given"):
        using.enqueue("more")
    with pytest.raises(InvalidOptions, match="did you mean 'priority'"):
        newsletter(text="hi").using(priorty=3)


def test_an_async_perform_is_an_async_task(jobs):
    @jobs.task
    class Fetch(Job):
        async def perform(self) -> bytes: ...

    [task] = jobs.tasks
    assert task.signature.is_async
    assert task.signature.returns is bytes
    assert isinstance(Fetch().enqueue(), JobHandle)


# ── wrong fields ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Newsletter: text: Field required"),
        ({"text": "x", "emails": [1]}, r"emails\.0: Input should be a valid string"),
        ({"text": "x", "emials": []}, "emials: Extra inputs are not permitted"),
    ],
)
def test_wrong_fields_are_invalid_arguments_when_the_job_is_made(newsletter, fields, message):
    with pytest.raises(InvalidArguments, match=message) as caught:
        newsletter(**fields)
    assert isinstance(caught.value.__cause__, ValidationError)


def test_a_wrong_value_is_in_neither_message(newsletter):
    with pytest.raises(InvalidArguments) as caught:
        newsletter(text=["hunter2"])
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_a_whole_job_that_does_not_hold_together_is_invalid(jobs):
    class Window(Job):
        low: int
        high: int

        @field_validator("high")
        @classmethod
        def not_negative(cls, high: int) -> int:
            assert high >= 0, "must not be negative"
            return high

        def perform(self) -> None: ...

    with pytest.raises(InvalidArguments, match="high: Assertion failed, must not be negative"):
        Window(low=1, high=-1)


def test_inside_of_validation_the_fault_stays_pydantics(newsletter):
    """So a worker that loads a job is told of a misfit as with any other type, with the path to it."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, newsletter]).validate_json('{"job": {"text": 1}}')
    assert caught.value.errors()[0]["loc"] == ("job", "text")


def test_so_it_does_for_a_job_with_an_init_of_its_own():
    class Odd(Job):
        text: str

        def __init__(self, text: str, **fields):
            super().__init__(text=text, **fields)

        def perform(self) -> None: ...

    assert Odd("hi").text == "hi"
    with pytest.raises(InvalidArguments, match="Odd: text:"):
        Odd(1)
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, Odd]).validate_json('{"job": {"text": 1}}')
    assert caught.value.errors()[0]["loc"][:1] == ("job",)


def test_a_nested_job_is_told_with_its_path(newsletter):
    class Batch(BaseModel):
        all: list[newsletter]

    with pytest.raises(ValidationError) as caught:
        Batch(all=[{"text": 1}])
    assert caught.value.errors()[0]["loc"] == ("all", 0, "text")


# ── wrong classes ─────────────────────────────────────────────────────────────────────────────


def test_a_job_that_was_not_decorated_says_so():
    class Forgotten(Job):
        def perform(self) -> None: ...

    for verb in ("enqueue", "delay", "call", "using"):
        with pytest.raises(DeclarationError, match=r"Forgotten is no task yet: decorate .*@jobs\.task"):
            getattr(Forgotten(), verb)()


def test_a_subclass_of_a_task_is_a_task_only_if_decorated(newsletter, jobs):
    class Special(newsletter): ...

    with pytest.raises(DeclarationError, match="no task yet"):
        Special(text="x").enqueue()
    jobs.task(Special)
    Special(text="x").enqueue()
    assert Special(text="x").call().task is not newsletter(text="x").call().task


def test_a_job_without_perform_is_refused(jobs):
    with pytest.raises(DeclarationError, match="Idle has no method perform"):

        @jobs.task
        class Idle(Job):
            text: str


def test_perform_takes_nothing_but_what_duly_gives(jobs):
    with pytest.raises(
        DeclarationError, match="perform\\(\\) takes 'to', and nobody would give it; make it a field"
    ):

        @jobs.task
        class Send(Job):
            def perform(self, to: str) -> None: ...

    assert jobs.tasks == ()


def test_perform_is_checked_like_a_function(jobs):
    with pytest.raises(DeclarationError, match="must be keyword-only"):

        @jobs.task
        class Send(Job):
            def perform(self, ctx: Context = given) -> None: ...


@pytest.mark.parametrize("verb", ["enqueue", "aenqueue", "delay", "adelay", "call", "using"])
def test_a_method_or_field_cannot_shadow_a_verb(verb):
    for namespace in (
        {verb: lambda self: None},
        {"__annotations__": {verb: int}},
        {"__annotations__": {verb: int}, verb: 1},
    ):
        with pytest.raises(DeclarationError, match=f"Odd defines {verb!r}, which is a verb of every job"):
            type("Odd", (Job,), {"__module__": __name__, **namespace})


def test_a_mixin_cannot_shadow_a_verb_either():
    class Mixin:
        def delay(self) -> None: ...

    with pytest.raises(DeclarationError, match="defines 'delay'"):

        class Odd(Mixin, Job):
            def perform(self) -> None: ...


@pytest.mark.parametrize("hook", ["before_enqueue", "before", "success", "error", "failure", "after"])
def test_hooks_are_refused_until_they_come(jobs, hook):
    odd = type(
        "Odd", (Job,), {"__module__": __name__, "perform": lambda self: None, hook: lambda self, job: 1}
    )
    with pytest.raises(DeclarationError, match=rf"Odd defines {hook}\(\): hooks come with a later release"):
        jobs.task(odd)


def test_a_field_may_be_called_like_a_hook(jobs):
    @jobs.task
    class Sweep(Job):
        after: int
        success: bool = Field(default=True)

        def perform(self) -> None: ...

    assert Sweep(after=3).call().arguments["job"].after == 3
