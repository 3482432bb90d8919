# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/faults.py.
"""A fault rule of a machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from faultline.errors import TimedOut
from faultline.sizes import Size, size_of
from faultline.sync.lent import Lent
from faultline.sync.session import Session
from faultline.wire import wire_names


class Fault(Lent):
    """A rule that has been added: `id` is its name on the control socket.

    `warnings` says why it hits nothing as things are, each a clause.  The end of a block
    removes it; no error if the rule, or the machine, is gone by then.

    >>> with Machine() as m:
    ...     fault = m.fault("vda", iotype="read", errno="EIO", count=1)
    ...     fault.remove()
    """

    def __init__(self, session: Session, id: str, warnings: Iterable[str] = ()) -> None:
        self._session = session
        self.id = id
        self.warnings = tuple(warnings)

    @classmethod
    def add(cls, session: Session, members: Mapping[str, Any]) -> Self:
        """Add a rule; `members` are those of x-fault-add.  Raises CommandError."""
        reply = session.execute("x-fault-add", members)
        return cls(session, reply["id"], reply.get("warnings", ()))

    def info(self) -> dict[str, Any]:
        """Return the rule as x-query-faults has it; raises LookupError if it is gone."""
        for rule in self._session.execute("x-query-faults"):
            if rule["id"] == self.id:
                return dict(rule)
        raise LookupError(f"there is no rule {self.id} any more")

    def hits(self) -> int:
        """Return how many requests the rule has hit; raises LookupError if the rule is gone."""
        return int(self.info()["hits"])

    def wait(self, hits: int = 1, *, timeout: float | None = None) -> int:
        """Wait until the rule has hit so many requests since it was added; return how many.

        Other commands of this machine object wait meanwhile.  Raises TimedOut, and
        LookupError if the rule is removed, or is used up by fewer hits.

        >>> with Machine() as m:
        ...     fault = m.fault("vda", action="hang")
        ...     try:
        ...         fault.wait(2, timeout=0.1)
        ...     except TimedOut as error:
        ...         print(error)
        the rule fault0 has hit 0 requests of 2 within 0.1 s
        """
        limit = self._session.timeout if timeout is None else timeout
        members = {"id": self.id, "hits": hits, "timeout-ms": round(limit * 1000)}
        answer_by = limit + self._session.timeout
        reply = self._session.execute("x-fault-wait", members, timeout=answer_by)
        found = int(reply["hits"])
        if reply["timed-out"]:
            what = f"the rule {self.id} has hit {found} requests of {hits} within {limit:g} s"
            raise TimedOut(what)
        if found < hits:
            raise LookupError(f"the rule {self.id} is over after {found} hits of {hits}")
        return found

    def release(self) -> int:
        """Let the requests go on that the rule keeps hanging; return how many there are.

        Those that come later hang again.

        >>> with Machine() as m:
        ...     fault = m.fault("vda", action="hang", iotype="read")
        ...     fault.release()
        0
        """
        return int(self._session.execute("x-fault-release", {"id": self.id})["released"])

    def modify(
        self, *, offset: Size | None = None, length: Size | None = None, **members: Any
    ) -> None:
        """Change members of the rule, those of x-fault-modify, with ``_`` for ``-``.

        What is not given stays, and so do the counters.  `warnings` is renewed.

        >>> with Machine() as m:
        ...     fault = m.fault("vda", errno="EIO", rate=0)
        ...     print(fault.warnings)
        ...     fault.modify(rate=1, offset="1M")
        ...     print(fault.warnings)
        ("'rate' 0 spares every request",)
        ()
        """
        place = {"offset": size_of(offset), "length": size_of(length)}
        given = wire_names({"id": self.id, **members, **place})
        reply = self._session.execute("x-fault-modify", given)
        self.warnings = tuple(reply.get("warnings", ()))

    def remove(self) -> None:
        """Remove the rule; raises CommandError if it is gone."""
        self._session.execute("x-fault-remove", {"id": self.id})

    def _take_away(self) -> None:
        self.remove()
