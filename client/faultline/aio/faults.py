# SPDX-License-Identifier: MIT
"""A fault rule of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from faultline.aio.lent import Lent
from faultline.aio.session import Session


class Fault(Lent):
    """A rule that has been added: `id` is its name on the control socket.

    The end of a block removes it; no error if the rule, or the machine, is gone by then.

    >>> async with Machine() as m:
    ...     fault = await m.fault("vda", iotype="read", errno="EIO", count=1)
    ...     await fault.remove()
    """

    def __init__(self, session: Session, id: str) -> None:
        self._session = session
        self.id = id

    @classmethod
    async def add(cls, session: Session, members: Mapping[str, Any]) -> Self:
        """Add a rule; `members` are those of x-fault-add.  Raises CommandError."""
        reply = await session.execute("x-fault-add", members)
        return cls(session, reply["id"])

    async def info(self) -> dict[str, Any]:
        """Return the rule as x-query-faults has it; raises LookupError if it is gone."""
        for rule in await self._session.execute("x-query-faults"):
            if rule["id"] == self.id:
                return dict(rule)
        raise LookupError(f"there is no rule {self.id} any more")

    async def hits(self) -> int:
        """Return how many requests the rule has hit; raises LookupError if the rule is gone."""
        return int((await self.info())["hits"])

    async def remove(self) -> None:
        """Remove the rule; raises CommandError if it is gone."""
        await self._session.execute("x-fault-remove", {"id": self.id})

    async def _take_away(self) -> None:
        await self.remove()
