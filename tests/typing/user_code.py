"""What users write (design, §8), for type checkers alone: nothing here is run.

Every line that ends in ``# wrong: …`` must be reported by mypy --strict and by pyright, and no other.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_type
from uuid import UUID, uuid4

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from duly import Backoff, Call, Context, Duly, Job, JobHandle, Outcome, State, Tasks, given

jobs = Duly("sqlite:///jobs.db")
more = Tasks(queue="reports", max_attempts=3, retry=Backoff(jitter=0.1))
jobs.include(more)
ids = [1, 2, 3]
tomorrow = datetime.now(UTC) + timedelta(days=1)


# ── declaring ─────────────────────────────────────────────────────────────────────────────────


@jobs.task(queue="mail", expires_in=timedelta(hours=1), effects="idempotent")
def send_welcome(user_id: int, *, ctx: Context = given) -> None:
    key: str = ctx.idempotency_key
    number: int = ctx.attempt
    print(key, number, user_id, ctx.cancelled)
    ctx.check()


@jobs.task
def bare(name: str, times: int = 1) -> list[str]:
    return [name] * times


@more.task(effects="transactional", keep_result=True, name="charge", aliases=["shop.pay"])
def charge(order_id: int, *, session: Session = given, connection: Connection = given) -> int:
    return order_id


@more.task
async def fetch(url: str, *, session: AsyncSession = given) -> bytes:
    return url.encode()


@jobs.task(keep_result=True)
async def fetch_all(*urls: str, timeout: float = 5, **headers: str) -> dict[str, bytes]:
    return {}


@jobs.task(queue="mail", max_attempts=3)
class Newsletter(Job):
    text: str
    emails: list[str]

    def perform(self, *, ctx: Context = given) -> int:
        return len(self.emails)


@more.task
class Crawl(Job):
    url: str
    depth: int = 1

    async def perform(self, *, session: AsyncSession = given) -> list[str]:
        return []


@jobs.task
class Idle(Job):
    text: str


@jobs.task(isolated=True, max_memory=256 * 1024**2, max_cpu=timedelta(seconds=30))
def convert(file: str) -> int:
    return len(file)


@jobs.task(isolated=True, max_cpu=1.5)
class Render(Job):
    async def perform(self) -> None: ...


@jobs.task(qeue="mail")  # wrong: a misspelt option
def misspelt() -> None: ...


@jobs.task(effects="sometimes")  # wrong: no such effects
def sometimes() -> None: ...


@jobs.task(max_attempts="three")  # wrong: an option of another type
def three() -> None: ...


@jobs.task(isolated=True, max_memory="256M")  # wrong: bytes are a number
def large() -> None: ...


@more.task(id=uuid4())  # wrong: an id belongs to a call
def identified() -> None: ...


Tasks(quue="mail")  # wrong: a misspelt option of a router


# ── enqueueing ────────────────────────────────────────────────────────────────────────────────

handle = send_welcome.enqueue(user_id=42)
assert_type(handle, JobHandle[None])
assert_type(send_welcome.delay(42), JobHandle[None])
assert_type(bare.enqueue("a", times=2), JobHandle[list[str]])
assert_type(charge.enqueue(1), JobHandle[int])
assert_type(fetch.enqueue("https://"), JobHandle[bytes])
assert_type(fetch_all.enqueue("a", "b", timeout=1.5, accept="*"), JobHandle[dict[str, bytes]])
assert_type(send_welcome.using(run_at=tomorrow, priority=-10).enqueue(42), JobHandle[None])
assert_type(charge.using(run_in=5, id=uuid4()).using(queue="slow").delay(1), JobHandle[int])
assert_type(charge.call(1), Call[int])
assert_type(charge.using(max_run_time=timedelta(minutes=1)).call(order_id=1), Call[int])
assert_type(charge.call(1).enqueue(), JobHandle[int])
assert_type(jobs.enqueue_many(charge.call(i) for i in ids), list[JobHandle[int]])

send_welcome.enqueue("42")  # wrong: an argument of another type
send_welcome.enqueue()  # wrong: an argument is missing
send_welcome.enqueue(usr_id=42)  # wrong: no such argument
send_welcome.delay(42, 43)  # wrong: one too many
send_welcome.call(None)  # wrong: None for an int
bare.enqueue("a", times="2")  # wrong: a named argument of another type
fetch.delay(b"https://")  # wrong: bytes for a str, of an async task
fetch_all.enqueue("a", 2)  # wrong: a gathered argument of another type
send_welcome.using(priorty=1).enqueue(42)  # wrong: a misspelt option
send_welcome.using(priority="high")  # wrong: an option of another type
send_welcome.using(run_at="tomorrow")  # wrong: not a datetime
send_welcome.using(session="the session")  # wrong: not a session
send_welcome.using(priority=1).enqueue("42")  # wrong: an argument of another type after using()
send_welcome.using(priority=1).using(queue="slow").delay()  # wrong: an argument is missing
jobs.enqueue_many([send_welcome.enqueue(1)])  # wrong: handles are not calls
unkind: JobHandle[str] = charge.enqueue(1)  # wrong: its result is an int


# ── job classes ───────────────────────────────────────────────────────────────────────────────

newsletter = Newsletter(text="hi", emails=["a@b"])
assert_type(newsletter, Newsletter)
assert_type(newsletter.text, str)
assert_type(newsletter.perform(), int)
assert_type(newsletter.enqueue(), JobHandle[int])
assert_type(newsletter.delay(), JobHandle[int])
assert_type(newsletter.call(), Call[int])
assert_type(newsletter.using(priority=1).enqueue(), JobHandle[int])
assert_type(newsletter.using(priority=1).using(run_in=5).call(), Call[int])
assert_type(Crawl(url="https://").enqueue(), JobHandle[list[str]])
assert_type(Crawl(url="https://", depth=2).using(queue="slow").delay(), JobHandle[list[str]])
assert_type(jobs.enqueue_many([newsletter.call()]), list[JobHandle[int]])

Newsletter(text=1, emails=[])  # wrong: a field of another type
Newsletter(text="hi")  # wrong: a field is missing
Newsletter(text="hi", emails=[], to="me")  # wrong: no such field
newsletter.enqueue(1)  # wrong: the fields are the arguments
newsletter.using(priorty=1)  # wrong: a misspelt option
newsletter.using(priority=1).enqueue("more")  # wrong: the fields are the arguments
unkinder: JobHandle[str] = newsletter.enqueue()  # wrong: perform returns an int
Idle(text="hi").enqueue()  # wrong: it has no perform
Idle(text="hi").using(priority=1)  # wrong: it has no perform


# ── calling ───────────────────────────────────────────────────────────────────────────────────

assert_type(bare("a"), list[str])
bare(1)  # wrong: an argument of another type
total: str = charge(1)  # wrong: it returns an int


# ── handles ───────────────────────────────────────────────────────────────────────────────────

assert_type(handle.id, UUID)
assert_type(handle.state, State | None)
assert_type(handle.outcome, Outcome | None)
assert_type(handle.attempts, int)
assert_type(handle.error, str | None)
assert_type(handle.refresh(), JobHandle[None])
assert_type(handle.refresh().state, State | None)
assert_type(handle.cancel(), bool)
assert_type(handle.join(timeout=5), Outcome)
assert_type(charge.enqueue(1).result(), int)
assert_type(newsletter.enqueue().result(timeout=None), int)
anything: JobHandle[object] = charge.enqueue(1)

handle.join(timeout="5")  # wrong: seconds are numbers
print(handle.stat)  # wrong: no such attribute
words: str = charge.enqueue(1).result()  # wrong: its result is an int


# ── transactions and async callers ────────────────────────────────────────────────────────────


def buy(session: Session, connection: Connection) -> None:
    charge.using(session=session).enqueue(1)
    charge.using(connection=connection).enqueue(1)
    jobs.enqueue_many([charge.call(1)], session=session)
    charge.using(session=connection)  # wrong: a connection is no session


async def abuy(session: AsyncSession, connection: AsyncConnection) -> None:
    assert_type(await send_welcome.aenqueue(42), JobHandle[None])
    assert_type(await fetch.adelay("https://"), JobHandle[bytes])
    assert_type(await charge.using(session=session).aenqueue(1), JobHandle[int])
    assert_type(await charge.using(connection=connection).call(1).aenqueue(), JobHandle[int])
    assert_type(await newsletter.aenqueue(), JobHandle[int])
    assert_type(await newsletter.adelay(), JobHandle[int])
    assert_type(await Crawl(url="https://").aenqueue(), JobHandle[list[str]])
    assert_type(await fetch("https://", session=session), bytes)
    assert_type(await jobs.aenqueue_many([charge.call(1)]), list[JobHandle[int]])
    assert_type(await (await charge.aenqueue(1)).aresult(), int)
    assert_type(await (await handle.arefresh()).ajoin(), Outcome)
    assert_type(await handle.acancel(), bool)
    await send_welcome.aenqueue("42")  # wrong: an argument of another type
    await fetch.using(priority=1).aenqueue(1)  # wrong: an argument of another type
    await newsletter.aenqueue(1)  # wrong: the fields are the arguments
    await Idle(text="hi").aenqueue()  # wrong: it has no perform
    print((await fetch.aenqueue("https://")).state.upper())  # wrong: there may be none
    fetch("https://").upper()  # wrong: it was not awaited


# ── what a task asks of its context ───────────────────────────────────────────────────────────


def rate(item: str, *, days: int = 1) -> float:
    return len(item) / days


async def arate(item: str) -> float:
    return rate(item)


def steps(ctx: Context) -> None:
    assert_type(ctx.step("rate", rate, "lamp", days=2), float)
    assert_type(ctx.once("key"), bool)
    assert_type(ctx.deadline, datetime)
    assert_type(ctx.remaining(), timedelta)
    ctx.step("rate", rate, 1)  # wrong: an argument of another type
    ctx.step("rate", rate, "lamp", weeks=2)  # wrong: no such argument
    ctx.once("key", keep=5)  # wrong: a time is a timedelta


async def asteps(ctx: Context) -> None:
    assert_type(await ctx.astep("rate", arate, "lamp"), float)
    assert_type(await ctx.astep("rate", rate, "lamp", days=2), float)
    assert_type(await ctx.aonce("key", keep=timedelta(days=1)), bool)
    await ctx.astep("rate", arate, 1)  # wrong: an argument of another type


# ── tests ─────────────────────────────────────────────────────────────────────────────────────

with jobs.inline():
    send_welcome.enqueue(1)
jobs.drain()
