import asyncio
import threading

from duly.worker.writeturn import WriteTurn


def started(act: object) -> threading.Thread:
    thread = threading.Thread(target=act)  # type: ignore[arg-type]
    thread.start()
    return thread


def waits(turn: WriteTurn, *, pumps: int) -> None:
    """Until so many pumps wait."""
    with turn._changed:
        assert turn._changed.wait_for(lambda: turn._pumps_waiting >= pumps, 10)


class Spied(WriteTurn):
    """Says when a pump begins to wait."""

    def __init__(self) -> None:
        super().__init__(shared=True)
        self.asked = threading.Event()
        changed = self._changed
        real = changed.wait_for

        def wait_for(predicate, timeout=None):  # type: ignore[no-untyped-def]
            self.asked.set()
            return real(predicate, timeout)

        changed.wait_for = wait_for  # type: ignore[method-assign]


def test_the_pump_goes_first() -> None:
    turn, order, running = Spied(), [], threading.Event()

    def pump() -> None:
        with turn.of_pump():
            order.append("pump")

    def task() -> None:
        with turn.of_task():
            order.append("task")

    with turn.of_task():
        running.set()
        turn.asked.clear()
        first = started(task)
        assert turn.asked.wait(10)
        turn.asked.clear()
        second = started(pump)
        assert turn.asked.wait(10)
    first.join()
    second.join()
    assert order == ["pump", "task"]


def test_no_task_enters_while_a_pump_waits_or_writes() -> None:
    turn = WriteTurn(shared=True)
    with turn.of_pump():
        assert not turn._try_task()
    assert turn._try_task()
    assert not turn._try_task()
    turn._leave()
    turn._pumps_waiting = 1
    assert not turn._try_task()
    turn._pumps_waiting = 0


def test_an_error_inside_gives_the_turn_back() -> None:
    turn = WriteTurn(shared=True)
    for door in (turn.of_pump, turn.of_task):
        try:
            with door():
                raise ValueError
        except ValueError:
            pass
        assert not turn._taken


def test_an_async_task_waits_without_holding_up_the_loop() -> None:
    turn, order = WriteTurn(shared=True), []

    async def second(inside: asyncio.Event) -> None:
        await inside.wait()
        async with turn.of_async_task():
            order.append("second")

    async def first(inside: asyncio.Event) -> None:
        async with turn.of_async_task():
            inside.set()
            for _ in range(5):
                await asyncio.sleep(0)  # the loop goes on
            order.append("first")

    async def both() -> None:
        inside = asyncio.Event()
        await asyncio.gather(second(inside), first(inside))

    asyncio.run(both())
    assert order == ["first", "second"]
    assert not turn._taken


def test_a_cancelled_wait_leaves_nothing_taken() -> None:
    turn = WriteTurn(shared=True)

    async def cancelled() -> None:
        async def wait() -> None:
            async with turn.of_async_task():
                raise AssertionError("the turn was taken twice")

        with turn.of_pump():
            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    assert turn._try_task()


def test_where_the_database_has_many_writers_it_is_no_lock() -> None:
    turn = WriteTurn(shared=False)
    with turn.of_pump(), turn.of_pump(), turn.of_task(), turn.of_task():
        assert not turn._taken
