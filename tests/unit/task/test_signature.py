import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Annotated, Any, NoReturn, Optional, Unpack

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session
from typing_extensions import TypeAliasType, TypedDict  # pydantic wants this one below 3.12

from duly.envelope.arguments import Limits, SealedOptions
from duly.errors import DeclarationError, InvalidArguments
from duly.task import Context, Injected, Signature, given
from duly.task.hints import hints_of


def signature_of(function):
    return Signature.of(function, hints_of(function, "shop.f", None), "shop.f")


# ── which parameters are whose ────────────────────────────────────────────────────────────────


def test_the_hint_decides_what_duly_gives():
    def f(
        x: int,
        *,
        ctx: Context = given,
        session: Session = given,
        connection: Connection = given,
        flag: bool = False,
    ) -> None: ...

    assert signature_of(f).injected == {
        "ctx": Injected.CONTEXT,
        "session": Injected.SESSION,
        "connection": Injected.CONNECTION,
    }


def test_an_async_task_is_given_async_things():
    async def f(*, s: AsyncSession = given, c: AsyncConnection = given) -> int: ...

    signature = signature_of(f)
    assert signature.is_async
    assert signature.returns is int
    assert signature.injected == {"s": Injected.ASYNC_SESSION, "c": Injected.ASYNC_CONNECTION}


def test_a_subclass_an_annotation_and_a_missing_default_change_nothing():
    class ShopSession(Session): ...

    def f(*, a: ShopSession, b: Annotated[Context, "why not"]) -> None: ...

    assert signature_of(f).injected == {"a": Injected.SESSION, "b": Injected.CONTEXT}


def test_an_alias_of_a_hint_is_the_hint():
    alias = TypeAliasType("alias", Annotated[Session, "the shop's"])

    def f(*, session: alias = given) -> None: ...

    assert signature_of(f).injected == {"session": Injected.SESSION}


def test_a_class_that_is_merely_called_session_is_an_argument():
    class Session(TypedDict):
        user: int

    def f(session: Session) -> None: ...

    assert signature_of(f).injected == {}


def test_an_injected_parameter_must_be_keyword_only():
    def f(x: int, ctx: Context = given) -> None: ...

    with pytest.raises(DeclarationError, match=r"shop\.f: 'ctx' .*keyword-only.*`\*, ctx: Context = given`"):
        signature_of(f)


@pytest.mark.parametrize("hint", [Session | None, Optional[Context], Session | int])  # noqa: UP045
def test_an_injected_parameter_cannot_be_optional(hint):
    def f(*, it: hint = None) -> None: ...

    with pytest.raises(DeclarationError, match=r"'it' is always given by Duly; its type hint is .* alone"):
        signature_of(f)


@pytest.mark.parametrize("hint", [int, scoped_session, Any])
def test_given_needs_a_hint_of_something_that_duly_gives(hint):
    def f(*, it: hint = given) -> None: ...

    with pytest.raises(DeclarationError, match="'it' has the default `given`, but Duly has nothing to give"):
        signature_of(f)


def test_given_without_a_hint_is_an_error():
    def f(*, ctx=given) -> None: ...

    with pytest.raises(DeclarationError, match="nothing to give for a parameter without a type hint"):
        signature_of(f)


def test_a_sync_task_is_told_which_session_to_ask_for():
    def f(*, s: AsyncSession = given) -> None: ...

    with pytest.raises(
        DeclarationError, match="'s' is an AsyncSession, which a sync task cannot use; ask for a Session"
    ):
        signature_of(f)


def test_an_async_task_is_told_which_connection_to_ask_for():
    async def f(*, c: Connection = given) -> None: ...

    with pytest.raises(
        DeclarationError, match="a Connection, which an async task cannot use; ask for an AsyncConnection"
    ):
        signature_of(f)


def test_generators_are_no_tasks():
    def f() -> Iterator[int]:
        yield 1

    async def g() -> AsyncIterator[int]:
        yield 1

    for function in (f, g):
        with pytest.raises(DeclarationError, match="is a generator"):
            signature_of(function)


@pytest.mark.parametrize("hint", [Awaitable[int], Coroutine[Any, Any, int]])
def test_a_plain_function_that_returns_an_awaitable_is_told_to_be_async(hint):
    def f() -> hint: ...

    with pytest.raises(DeclarationError, match="declare it with `async def`"):
        signature_of(f)


def test_a_type_that_cannot_be_stored_is_an_error_that_names_the_parameter():
    class Socket: ...

    def f(x: int, socket: Socket) -> None: ...

    with pytest.raises(DeclarationError, match="'socket'"):
        signature_of(f)


def test_a_result_that_is_not_kept_may_be_anything():
    class Socket: ...

    def f() -> Socket: ...

    signature = signature_of(f)
    with pytest.raises(DeclarationError, match="result"):
        _ = signature.result


def test_a_task_that_never_returns_has_no_result():
    def f() -> NoReturn: ...

    assert signature_of(f).returns is None


def test_the_wrapped_functions_hints_and_parameters_count():
    def traced(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @traced
    def f(x: int, *, ctx: Context = given) -> str: ...

    signature = signature_of(f)
    assert signature.injected == {"ctx": Injected.CONTEXT}
    assert signature.bind((1,), {}) == {"x": 1}


# ── binding ───────────────────────────────────────────────────────────────────────────────────


def plain(user_id: int, name: str = "you", *, loud: bool = False, ctx: Context = given) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "values"),
    [
        ((1,), {}, {"user_id": 1}),
        ((1, "Ada"), {"loud": True}, {"user_id": 1, "name": "Ada", "loud": True}),
        ((), {"name": "Ada", "user_id": 1}, {"user_id": 1, "name": "Ada"}),
    ],
)
def test_only_what_was_given_is_bound(args, kwargs, values):
    assert signature_of(plain).bind(args, kwargs) == values


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "shop.f() misses 1 argument: 'user_id'"),
        ((1, "a", True), {}, "shop.f() takes 2 positional arguments, but 3 were given"),
        ((1,), {"user_id": 2}, "shop.f() got two values for argument 'user_id'"),
        ((), {"usr_id": 1}, "shop.f() got an unexpected argument 'usr_id'; did you mean 'user_id'?"),
        ((1,), {"zzz": 1}, "shop.f() got an unexpected argument 'zzz'; there are loud, name"),
        ((1,), {"ctx": 1}, "shop.f() is given 'ctx' (Context) by Duly; leave it out"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(args, kwargs, message):
    with pytest.raises(InvalidArguments) as caught:
        signature_of(plain).bind(args, kwargs)
    assert str(caught.value) == message


def test_all_missing_arguments_are_named_in_order():
    def f(b: int, a: int, *, c: int) -> None: ...

    with pytest.raises(InvalidArguments, match=r"misses 3 arguments: 'b', 'a', 'c'"):
        signature_of(f).bind((), {})


def test_a_positional_only_argument_cannot_be_named():
    def f(a: int, /) -> None: ...

    with pytest.raises(InvalidArguments, match="takes 'a' by position only"):
        signature_of(f).bind((), {"a": 1})


def test_a_positional_only_name_may_come_again_among_the_options():
    def f(a: int = 0, /, **opts: int) -> tuple[int, dict[str, int]]:
        return a, opts

    signature = signature_of(f)
    for args, kwargs in [((1,), {"a": 2}), ((), {"a": 2})]:
        values = signature.bind(args, kwargs)
        again, by_name = signature.apply(values)
        assert f(*again, **by_name) == f(*args, **kwargs)


def test_required_positional_only_is_missed_when_its_name_is_only_an_option():
    def f(a: int, /, **opts: int) -> None: ...

    with pytest.raises(InvalidArguments, match="misses 1 argument: 'a'"):
        signature_of(f).bind((), {"a": 1})


def test_an_injected_parameter_is_refused_also_where_any_name_goes():
    def f(*, session: Session = given, **opts: int) -> None: ...

    with pytest.raises(InvalidArguments, match="is given 'session'"):
        signature_of(f).bind((), {"session": 1})


def test_no_argument_value_is_ever_in_a_message():
    with pytest.raises(InvalidArguments) as caught:
        signature_of(plain).bind(("hunter2", "hunter2", "hunter2"), {"password": "hunter2"})
    assert "hunter2" not in str(caught.value)


# ── and back ──────────────────────────────────────────────────────────────────────────────────


class Style(TypedDict, total=False):
    bold: bool


def by_position(a: int, b: int = 2, /) -> Any:
    return locals()


def gathering(a: int, b: int = 2, *ids: int, c: int = 3, **opts: int) -> Any:
    return locals()


def mixed(a: int, /, b: int, *, c: int = 3) -> Any:
    return locals()


def styled(a: int, **style: Unpack[Style]) -> Any:
    return locals()


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (plain, (1,), {"loud": True}),
        (by_position, (1,), {}),
        (by_position, (1, 5), {}),
        (gathering, (1,), {}),
        (gathering, (1,), {"b": 4, "x": 9}),
        (gathering, (1, 2, 3, 4), {"c": 0, "y": 8}),
        (gathering, (), {"a": 1, "c": 9}),
        (mixed, (1,), {"b": 2}),
        (mixed, (1, 2), {"c": 4}),
        (styled, (1,), {"bold": True}),
    ],
)
def test_what_was_bound_and_stored_calls_the_function_as_it_was_called(function, args, kwargs):
    signature = signature_of(function)
    body = signature.arguments.dump(signature.bind(args, kwargs), SealedOptions(), Limits())
    values, _ = signature.arguments.load(body)
    again, by_name = signature.apply(values)
    assert function(*again, **by_name) == function(*args, **kwargs)


def test_a_default_added_in_front_of_gathered_arguments_is_filled_in():
    def f(a: int, new: int = 7, *ids: int) -> Any:
        return a, new, ids

    args, kwargs = signature_of(f).apply({"a": 1, "*ids": [2, 3]})  # enqueued when there was no `new`
    assert f(*args, **kwargs) == (1, 7, (2, 3))


def test_a_default_added_in_front_of_a_positional_only_one_is_filled_in():
    def f(a: int, new: int = 7, c: int = 8, /) -> Any:
        return a, new, c

    args, kwargs = signature_of(f).apply({"a": 1, "c": 3})
    assert f(*args, **kwargs) == (1, 7, 3)


def test_apply_leaves_the_values_alone():
    values = {"a": 1, "*ids": [2], "**opts": {"x": 1}}
    signature_of(gathering).apply(values)
    assert values == {"a": 1, "*ids": [2], "**opts": {"x": 1}}


names = st.sampled_from(["a", "b", "c", "ids", "x", "opts"])


@examples(
    st.sampled_from([by_position, gathering, mixed]),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(names, st.integers(), max_size=4),
)
def test_binding_agrees_with_python(function, args, kwargs):
    signature = signature_of(function)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(InvalidArguments):
            signature.bind(tuple(args), kwargs)
    else:
        again, by_name = signature.apply(signature.bind(tuple(args), kwargs))
        assert function(*again, **by_name) == function(*args, **kwargs)
