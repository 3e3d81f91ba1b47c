"""A real mail server on loopback. It delivers nothing, and notes what it was given: the outside world.

Like many real ones it is *greylisting*: some addresses get a "451 try again later" the first time.
And it can hold its answer to one mail: taken, but the sender does not know it yet. That is the
worst moment for a sender to die.
"""

import asyncio
import threading
from collections.abc import Collection
from dataclasses import dataclass
from email import message_from_bytes, policy
from types import TracebackType
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mail that the server took."""

    message_id: str
    to: str
    subject: str
    process: int

    @classmethod
    def of(cls, envelope: Envelope) -> Self:
        """What stands in the mail."""
        assert isinstance(envelope.content, bytes)  # as it is unless decode_data is asked for
        mail = message_from_bytes(envelope.content, policy=policy.default)
        return cls(mail["Message-ID"], mail["To"], mail["Subject"], int(mail["X-Sent-By-Process"]))


class Sink:
    """The mail server, in a thread of its own, from ``with`` to the end of its block.

    *greylisted* addresses are refused once; the answer to the mail number *hold_at* is held until
    ``release``, for at most ten seconds.
    """

    def __init__(self, *, greylisted: Collection[str] = (), hold_at: int | None = None) -> None:
        self.received: list[Receipt] = []
        self.refused: set[str] = set()
        self.held: Receipt | None = None
        self.port = 0
        self._greylisted = frozenset(greylisted)
        self._hold_at = hold_at
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mail sink", daemon=True)

    def __enter__(self) -> Self:
        """Listen on a free port of loopback."""
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def release(self) -> None:
        """Answer the held mail at last, if somebody still listens."""
        self._loop.call_soon_threadsafe(self._released.set)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd names its hooks after the commands
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take an address, or refuse it for now."""
        if address in self._greylisted and address not in self.refused:
            self.refused.add(address)
            return "451 4.7.1 Greylisted, please try again later"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Take a mail."""
        receipt = Receipt.of(envelope)
        self.received.append(receipt)
        if len(self.received) == self._hold_at:
            self.held = receipt
            await asyncio.wait_for(self._released.wait(), timeout=10)
        return "250 OK"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(self._connection, host="127.0.0.1", port=0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._leave())
        self._loop.close()

    def _connection(self) -> SMTP:
        return SMTP(self, hostname="mail.example", loop=self._loop)

    async def _leave(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
