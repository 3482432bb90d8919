# SPDX-License-Identifier: MIT
"""A fault rule of a machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from faultline.aio.lent import Lent
from faultline.aio.session import Session
from faultline.errors import TimedOut
from faultline.sizes import Size, size_of
from faultline.wire import wire_names


class Fault(Lent):
    """A rule that has been added: `id` is its name on the control socket.

    `warnings` says why it hits nothing as things are, each a clause.  The end of a block
    removes it; no error if the rule, or the machine, is gone by then.

    >>> async with Machine() as m:
    ...     fault = await m.fault("vda", iotype="read", errno="EIO", count=1)
    ...     await fault.remove()
    """

    def __init__(self, session: Session, id: str, warnings: Iterable[str] = ()) -> None:
        self._session = session
        self.id = id
        self.warnings = tuple(warnings)

    @classmethod
    async def add(cls, session: Session, members: Mapping[str, Any]) -> Self:
        """Add a rule; `members` are those of x-fault-add.  Raises CommandError."""
        reply = await session.execute("x-fault-add", members)
        return cls(session, reply["id"], reply.get("warnings", ()))

    async def info(self) -> dict[str, Any]:
        """Return the rule as x-query-faults has it; raises LookupError if it is gone."""
        for rule in await self._session.execute("x-query-faults"):
            if rule["id"] == self.id:
                return dict(rule)
        raise LookupError(f"there is no rule {self.id} any more")

    async def hits(self) -> int:
        """Return how many requests the rule has hit; raises LookupError if the rule is gone."""
        return int((await self.info())["hits"])

    async def wait(self, hits: int = 1, *, timeout: float | None = None) -> int:
        """Wait until the rule has hit so many requests since it was added; return how many.

        Other commands of this machine object wait meanwhile.  Raises TimedOut, and
        LookupError if the rule is removed, or is used up by fewer hits.

        >>> async with Machine() as m:
        ...     fault = await m.fault("vda", action="hang")
        ...     try:
        ...         await fault.wait(2, timeout=0.1)
        ...     except TimedOut as error:
        ...         print(error)
        the rule fault0 has hit 0 requests of 2 within 0.1 s
        """
        limit = self._session.timeout if timeout is None else timeout
        members = {"id": self.id, "hits": hits, "timeout-ms": round(limit * 1000)}
        answer_by = limit + self._session.timeout
        reply = await self._session.execute("x-fault-wait", members, timeout=answer_by)
        found = int(reply["hits"])
        if reply["timed-out"]:
            what = f"the rule {self.id} has hit {found} requests of {hits} within {limit:g} s"
            raise TimedOut(what)
        if found < hits:
            raise LookupError(f"the rule {self.id} is over after {found} hits of {hits}")
        return found

    async def release(self) -> int:
        """Let the requests go on that the rule keeps hanging; return how many there are.

        Those that come later hang again.

        >>> async with Machine() as m:
        ...     fault = await m.fault("vda", action="hang", iotype="read")
        ...     await fault.release()
        0
        """
        return int((await self._session.execute("x-fault-release", {"id": self.id}))["released"])

    async def modify(
        self, *, offset: Size | None = None, length: Size | None = None, **members: Any
    ) -> None:
        """Change members of the rule, those of x-fault-modify, with ``_`` for ``-``.

        What is not given stays, and so do the counters.  `warnings` is renewed.

        >>> async with Machine() as m:
        ...     fault = await m.fault("vda", errno="EIO", rate=0)
        ...     print(fault.warnings)
        ...     await fault.modify(rate=1, offset="1M")
        ...     print(fault.warnings)
        ("'rate' 0 spares every request",)
        ()
        """
        place = {"offset": size_of(offset), "length": size_of(length)}
        given = wire_names({"id": self.id, **members, **place})
        reply = await self._session.execute("x-fault-modify", given)
        self.warnings = tuple(reply.get("warnings", ()))

    async def remove(self) -> None:
        """Remove the rule; raises CommandError if it is gone."""
        await self._session.execute("x-fault-remove", {"id": self.id})

    async def _take_away(self) -> None:
        await self.remove()
