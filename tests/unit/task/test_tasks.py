import functools
from datetime import timedelta

import pytest

from duly.errors import DeclarationError
from duly.model.faults import Faults
from duly.model.options import Options
from duly.task import Job, Tasks


class App(Tasks):
    """Remembers what joined."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def joined(self, task):
        self.seen.append(task)


def plain() -> None: ...


# ── names ─────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_named_by_module_and_qualified_name(jobs):
    assert jobs.task(plain).name == "tests.unit.task.test_tasks.plain"


def test_a_task_inside_a_function_is_named_without_locals(jobs):
    @jobs.task
    def inner() -> None: ...

    module = "tests.unit.task.test_tasks"
    assert inner.name == f"{module}.test_a_task_inside_a_function_is_named_without_locals.inner"


def test_a_task_can_be_given_a_name_and_found_by_its_old_ones(jobs):
    task = jobs.task(name="mail.send", aliases=["mail.deliver"])(plain)
    assert (task.name, task.aliases) == ("mail.send", ("mail.deliver",))
    assert jobs.find("mail.send") is jobs.find("mail.deliver") is task
    assert jobs.find("mail.unknown") is None


@pytest.mark.parametrize("options", [{"name": "no spaces"}, {"name": 3}, {"aliases": ["é"]}, {"name": ""}])
def test_a_name_is_letters_digits_and_a_few_signs(jobs, options):
    with pytest.raises(DeclarationError, match="name"):
        jobs.task(**options)


def test_aliases_are_several(jobs):
    with pytest.raises(DeclarationError, match="aliases= must be a list of names"):
        jobs.task(aliases="mail.deliver")


def test_a_function_whose_own_name_will_not_do_is_told_to_take_another(jobs):
    def schön() -> None: ...  # noqa: PLC2401

    with pytest.raises(DeclarationError, match="give it a name="):
        jobs.task(schön)
    assert jobs.task(name="schoen")(schön).name == "schoen"


def test_two_tasks_of_a_name_are_an_error_that_names_both_places(jobs):
    @jobs.task(name="twin")
    def one() -> None: ...

    with pytest.raises(DeclarationError) as caught:

        @jobs.task(name="other", aliases=["twin"])
        def two() -> None: ...

    lines = [one.function.__code__.co_firstlineno, one.function.__code__.co_firstlineno + 5]
    assert all(f"test_tasks.py:{line}" in str(caught.value) for line in lines)
    assert jobs.tasks == (one,)
    assert jobs.find("other") is None


# ── options ───────────────────────────────────────────────────────────────────────────────────


def test_bare_and_called_decorators_declare(jobs):
    @jobs.task
    def bare() -> None: ...

    @jobs.task()
    def called() -> None: ...

    assert jobs.tasks == (bare, called)


def test_the_tasks_own_option_wins_over_its_routers():
    router = Tasks(queue="mail", max_attempts=3)
    task = router.task(max_attempts=5, run_in=60)(plain)
    assert task.options == Options(queue="mail", max_attempts=5, run=timedelta(minutes=1))


def test_a_routers_options_stay_with_its_own_tasks():
    outer, inner = Tasks(queue="outer"), Tasks()
    task = inner.task(plain)
    outer.include(inner)
    assert task.options.queue is None


def test_one_decorator_declares_many(jobs):
    mail = jobs.task(queue="mail", priority=3)

    @mail
    def one() -> None: ...

    @mail
    async def two() -> None: ...

    @mail
    class Three(Job):
        def perform(self) -> None: ...

    assert len(jobs.tasks) == 3
    assert {task.options for task in jobs} == {Options(queue="mail", priority=3)}
    assert [task.signature.is_async for task in jobs] == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qeue": "mail"}, r"task\(\) has no option 'qeue'; did you mean 'queue'\?"),
        ({"nam": "mail"}, "did you mean 'name'"),
        ({"id": 1}, "has no option 'id'"),
        ({"max_attempts": 0}, "from 1 to"),
        ({"effects": "idempotnet"}, "effects='idempotnet' is unknown; did you mean 'idempotent'"),
        ({"retry_on": ValueError}, r"task\(\): retry_on= takes several classes"),
        ({"give_up_on": ("ValueError",)}, r"task\(\): give_up_on= takes exception classes"),
        (
            {"retry_on": (OSError,), "give_up_on": (OSError,)},
            "OSError cannot be in retry_on= and in give_up_on=",
        ),
    ],
)
def test_a_wrong_option_fails_at_import_with_a_hint(jobs, options, message):
    with pytest.raises(DeclarationError, match=message):
        jobs.task(**options)


def test_a_wrong_option_of_a_router_fails_at_import_with_a_hint():
    with pytest.raises(DeclarationError, match="Tasks has no option 'quee'; did you mean 'queue'"):
        Tasks(quee="mail")


@pytest.mark.parametrize("effects", [None, "idempotent", "transactional", "unrepeatable"])
def test_a_task_states_its_effects(jobs, effects):
    task = jobs.task(effects=effects)(plain)
    assert task.effects == effects
    assert (task.transactional, task.unrepeatable) == (effects == "transactional", effects == "unrepeatable")


def test_a_task_names_its_exceptions(jobs):
    task = jobs.task(retry_on=(OSError,), give_up_on=[ValueError])(plain)
    assert task.faults == Faults((OSError,), (ValueError,))


def test_a_result_that_is_to_be_kept_must_be_one_that_can_be(jobs):
    class Socket: ...

    def connect() -> Socket: ...

    with pytest.raises(DeclarationError, match="result"):
        jobs.task(keep_result=True)(connect)
    jobs.task(connect)


# ── what cannot be a task ─────────────────────────────────────────────────────────────────────


class Shop:
    def open(self, hour: int) -> None: ...

    @staticmethod
    def close(hour: int) -> None: ...

    @classmethod
    def lock(cls) -> None: ...


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda: None, "a lambda cannot be a task"),
        (Shop, "cannot be a task: declare a function"),
        (Shop.open, r"Shop\.open is a method, and a worker has no self"),
        (Shop.lock, "cannot be a task"),
        (functools.partial(plain), "cannot be a task"),
        (len, "cannot be a task"),
        (3, "cannot be a task"),
    ],
)
def test_what_is_no_function_is_refused(jobs, thing, message):
    with pytest.raises(DeclarationError, match=message):
        jobs.task(thing)


def test_a_static_method_is_a_function(jobs):
    assert jobs.task(Shop.close).name.endswith("test_tasks.Shop.close")


def test_a_task_is_not_declared_twice(jobs):
    with pytest.raises(DeclarationError, match="is a task already; include the router"):
        Tasks().task(jobs.task(plain))


# ── routers ───────────────────────────────────────────────────────────────────────────────────


def test_tasks_declared_before_and_after_they_were_included_reach_the_app():
    app, middle, inner = App(), Tasks(), Tasks()

    @inner.task
    def early() -> None: ...

    middle.include(inner)
    app.include(middle)

    @inner.task
    def late() -> None: ...

    assert app.tasks == tuple(app) == tuple(app.seen) == (early, late)
    assert app.find(late.name) is late


def test_a_task_that_comes_by_two_ways_comes_once():
    app, left, right, bottom = App(), Tasks(), Tasks(), Tasks()
    for router in (left, right):
        router.include(bottom)
        app.include(router)
    task = bottom.task(plain)
    app.include(left)
    assert app.seen == [task]


def test_routers_that_include_each_other_come_to_an_end():
    one, two = Tasks(), Tasks()
    one.include(two)
    two.include(one)
    task = two.task(plain)
    assert one.tasks == two.tasks == (task,)


def test_a_router_does_not_include_itself_or_what_is_none():
    router = Tasks()
    with pytest.raises(DeclarationError, match="cannot include itself"):
        router.include(router)
    with pytest.raises(DeclarationError, match="no Tasks router"):
        router.include([router])


def test_an_include_with_a_taken_name_takes_in_nothing():
    app, router = App(), Tasks()
    mine = app.task(name="twin")(plain)
    router.task(plain)
    router.task(name="twin")(Shop.close)
    with pytest.raises(DeclarationError, match="two tasks are called 'twin'"):
        app.include(router)
    assert app.tasks == (mine,)


def test_a_later_declaration_that_an_app_refuses_is_not_half_taken():
    app, router = App(), Tasks()
    app.include(router)
    app.task(name="twin")(plain)
    with pytest.raises(DeclarationError, match="two tasks are called 'twin'"):
        router.task(name="twin")(plain)
    assert router.tasks == ()


def test_a_router_in_two_apps_belongs_to_both():
    one, two, router = App(), App(), Tasks()
    one.include(router)
    two.include(router)
    task = router.task(plain)
    assert one.seen == two.seen == [task]
