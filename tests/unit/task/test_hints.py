"""Hints as texts: this module has the future import, as many users' modules do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from duly.errors import DeclarationError
from duly.task import Context, Injected, Job, given
from duly.task import Context as Ctx

if TYPE_CHECKING:
    from decimal import Decimal


class Address(BaseModel):
    street: str = "of the module"


def test_texts_are_resolved(jobs):
    @jobs.task
    def send(to: Address, *, ctx: Ctx = given) -> int:
        return 1

    assert send.signature.injected == {"ctx": Injected.CONTEXT}
    assert send.signature.returns is int


def test_a_type_local_to_the_function_around_is_found(jobs):
    class Parcel(BaseModel):
        weight: int

    @jobs.task
    def ship(parcel: Parcel) -> Parcel: ...

    assert ship.signature.returns is Parcel


def test_a_type_two_functions_out_is_found_while_they_run(jobs):
    class Parcel(BaseModel):
        weight: int

    def declare():
        @jobs.task(name="ship")
        def ship(parcel: Parcel) -> Parcel: ...

        return ship

    assert declare().signature.returns is Parcel


def test_the_inner_of_two_types_of_a_name_is_meant(jobs):
    class Address(BaseModel):  # hides the module's
        city: str

    @jobs.task
    def send(to: Address) -> Address: ...

    assert send.signature.returns is Address


def test_names_that_are_local_only_where_the_decorator_stands_do_not_count(jobs):
    def declare(function):
        Address = int  # noqa: F841, N806
        return jobs.task(function)

    assert declare(takes_address).signature.returns is Address


def takes_address(to: Address) -> Address: ...


def test_perform_of_a_local_job_class_is_resolved(jobs):
    class Parcel(BaseModel):
        weight: int

    @jobs.task
    class Ship(Job):
        parcel: Parcel

        def perform(self, *, ctx: Context = given) -> Parcel:
            return self.parcel

    assert Ship.__duly_task__.signature.returns is Parcel


def test_a_hint_hidden_behind_type_checking_is_an_error_that_says_so(jobs):
    with pytest.raises(DeclarationError, match=r"'Decimal' of 'amount'.*outside of `if TYPE_CHECKING:`"):

        @jobs.task
        def charge(amount: Decimal) -> None: ...


def test_a_hidden_result_is_an_error_too(jobs):
    with pytest.raises(DeclarationError, match="'Decimal' of the result"):

        @jobs.task
        def charge(amount: int) -> Decimal: ...


def test_a_hidden_hint_of_a_field_is_an_error(jobs):
    with pytest.raises(DeclarationError, match=r"Charge: .*its fields is not there at run time"):

        @jobs.task
        class Charge(Job):
            amount: Decimal

            def perform(self) -> None: ...


def test_a_hint_that_is_no_expression_is_an_error(jobs):
    with pytest.raises(DeclarationError, match="type hints cannot be read"):

        @jobs.task
        def send(to: "no type") -> None: ...  # noqa: F722


def test_declaring_a_task_loads_no_database_library():
    program = """
        import sys
        from duly.task import Context, Job, Tasks, given
        jobs = Tasks(queue="mail")
        @jobs.task(effects="idempotent")
        def send(user_id: int, *, ctx: Context = given) -> None: ...
        @jobs.task
        class Newsletter(Job):
            text: str
            async def perform(self) -> None: ...
        heavy = {"sqlalchemy", "psycopg", "sqlite3", "alembic", "aiosqlite"}
        print(sorted(heavy & sys.modules.keys()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
