"""The object a user makes: what it refuses, what it costs, what its options mean."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from duly import Backoff, Duly, Tasks
from duly.envelope.keys import new_key
from duly.errors import ConfigurationError, DeclarationError, DulyError, SettingsError
from duly.model.ids import new_id


def test_making_one_and_declaring_tasks_costs_no_database_library() -> None:
    script = (
        "import sys\nfrom duly import Duly\njobs = Duly('postgresql://nobody@127.0.0.1:1/none')\n"
        "@jobs.task(name='note')\ndef note(n: int) -> None: ...\n"
        "costly = {'sqlalchemy', 'alembic', 'psycopg', 'rich', 'typer'}\n"
        "sys.exit(', '.join(costly & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_takes_a_url_an_engine_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Duly("sqlite:///a.db").settings.database_url == "sqlite:///a.db"
    assert Duly().settings.database_url == "sqlite:///duly.db"
    monkeypatch.setenv("DULY_DATABASE_URL", "sqlite:///b.db")
    assert Duly().settings.database_url == "sqlite:///b.db"
    assert Duly("sqlite:///a.db").settings.database_url == "sqlite:///a.db"
    Duly(create_engine("sqlite://"))


@pytest.mark.parametrize("wrong", [7, object(), ["sqlite://"]])
def test_what_is_neither_is_refused(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="URL or a SQLAlchemy Engine"):
        Duly(wrong)


def test_an_async_engine_has_a_place_of_its_own() -> None:
    engine: Any = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(SettingsError, match="async_engine=engine"):
        Duly(engine)
    Duly("sqlite:///a.db", async_engine=engine)


@pytest.mark.parametrize(
    "url",
    [
        "jobs.db",
        "mongodb://x/y",
        "postgresql+asyncpg://x/y",
        "sqlite+aiosqlite:///x",
        "postgresql+psycopg2://x/y",
    ],
)
def test_a_url_that_no_worker_could_use_is_an_error_in_one_line(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _ = Duly(url).store
    assert "\n" not in str(caught.value)


def test_a_url_with_a_password_is_not_shown() -> None:
    with pytest.raises(DulyError) as caught:
        _ = Duly("odd://me:hunter2@host/name").store
    assert "hunter2" not in str(caught.value)


def test_an_in_memory_database_is_refused() -> None:
    with pytest.raises(SettingsError, match="in-memory"):
        _ = Duly("sqlite://").store


def test_a_schema_is_for_postgresql() -> None:
    with pytest.raises(SettingsError, match="use prefix="):
        _ = Duly("sqlite:///a.db", schema="jobs").store


def test_bad_settings_are_all_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_LEASE", "soon")
    monkeypatch.setenv("DULY_THREADS", "0")
    with pytest.raises(SettingsError, match=r"(?s)DULY_LEASE.*DULY_THREADS|DULY_THREADS.*DULY_LEASE"):
        Duly("sqlite:///a.db")


def test_bad_keys_are_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DULY_KEYS", "mykey:tooshortsecret")
    with pytest.raises(SettingsError) as caught:
        Duly("sqlite:///a.db")
    assert "tooshortsecret" not in str(caught.value)


def test_keys_come_by_argument_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = new_key(), new_key()
    assert Duly("sqlite:///a.db").sealer.key_id is None
    monkeypatch.setenv("DULY_KEYS", one)
    assert Duly("sqlite:///a.db").sealer.key_id == one.partition(":")[0]
    assert Duly("sqlite:///a.db", keys=two).sealer.key_id == two.partition(":")[0]
    assert two.partition(":")[2] not in repr(vars(Duly("sqlite:///a.db", keys=two)))


# ── options ───────────────────────────────────────────────────────────────────────────────────


def test_the_nearer_level_wins() -> None:
    app = Duly(
        "sqlite:///a.db", queues={"mail": {"priority": 3, "max_attempts": 5}}, max_attempts=7, priority=1
    )

    @app.task(queue="mail", priority=9)
    def mail() -> None: ...

    @app.task
    def plain() -> None: ...

    options = app.options_of(mail, None)
    assert (options.queue, options.priority, options.max_attempts) == ("mail", 9, 5)
    elsewhere = app.options_of(mail, "other")
    assert (elsewhere.priority, elsewhere.max_attempts) == (9, 7)
    defaults = app.options_of(plain, None)
    assert (defaults.queue, defaults.priority, defaults.max_attempts) == ("default", 1, 7)
    assert (defaults.retry, defaults.expires) == (Backoff(), timedelta(days=90))


def test_an_apps_own_queue_has_its_queues_options() -> None:
    app = Duly("sqlite:///a.db", queue="bulk", queues={"bulk": {"priority": 50}})

    @app.task
    def plain() -> None: ...

    options = app.options_of(plain, None)
    assert (options.queue, options.priority) == ("bulk", 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_atempts": 3}, "did you mean 'max_attempts'"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"queues": {"mail": {"qeue": 1}}}, "queue 'mail'"),
        ({"queues": {"a b": {}}}, "a b"),
        ({"queue": "a b"}, "a b"),
    ],
)
def test_a_wrong_option_is_found_at_once(options: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Duly("sqlite:///a.db", **options)


# ── include ───────────────────────────────────────────────────────────────────────────────────


def test_routers_and_modules_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    router, module, later = Tasks(), ModuleType("now_tasks"), ModuleType("later_tasks")
    module.tasks = Tasks()  # type: ignore[attr-defined]
    later.tasks = Tasks()  # type: ignore[attr-defined]
    later.app = Duly("sqlite:///other.db")  # type: ignore[attr-defined]  # an app is not a router to include
    for name, tasks in (("a", router), ("b", module.tasks), ("c", later.tasks), ("d", later.app)):

        @tasks.task(name=name)
        def note() -> None: ...

    monkeypatch.setitem(sys.modules, "later_tasks", later)
    app = Duly("sqlite:///a.db", include=[router, module, "later_tasks"])
    assert {task.name for task in app.tasks} == {"a", "b"}
    app.load()
    app.load()
    assert {task.name for task in app.tasks} == {"a", "b", "c"}
    assert app.find("c").client is app.client  # type: ignore[union-attr]


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no_such_module_here"):
        Duly("sqlite:///a.db", include=["no_such_module_here"]).load()


@pytest.mark.parametrize("wrong", [7, object()])
def test_what_cannot_be_included_is_refused(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="include="):
        Duly("sqlite:///a.db", include=[wrong])


def test_a_handle_is_made_of_an_id_or_its_text() -> None:
    app, job = Duly("sqlite:///a.db"), new_id()
    assert app.handle(job) == app.handle(str(job)) == app.handle(job.hex)
    with pytest.raises(ValueError, match="UUID"):
        app.handle("not an id")


# ── strict ────────────────────────────────────────────────────────────────────────────────────


def nothing_said() -> None: ...


def test_a_strict_app_takes_no_task_that_does_not_state_its_effects() -> None:
    app = Duly("sqlite:///a.db", strict=True)
    with pytest.raises(
        DeclarationError, match=r"test_app\.nothing_said .*does not state its effects.*add effects="
    ):
        app.task(nothing_said)
    assert app.tasks == ()
    app.task(effects="idempotent")(nothing_said)
    Duly("sqlite:///a.db").task(nothing_said)


def test_nor_one_that_comes_with_a_router() -> None:
    before, after, inner = Tasks(), Tasks(), Tasks()
    before.task(nothing_said)
    with pytest.raises(DeclarationError, match="this app is strict"):
        Duly("sqlite:///a.db", include=[before], strict=True)
    app = Duly("sqlite:///a.db", include=[after], strict=True)
    after.include(inner)
    with pytest.raises(DeclarationError, match="this app is strict"):
        inner.task(nothing_said)
    assert [router.tasks for router in (app, after, inner)] == [(), (), ()]
