# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/faults.py.
"""A fault rule of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from faultline.sync.lent import Lent
from faultline.sync.session import Session


class Fault(Lent):
    """A rule that has been added: `id` is its name on the control socket.

    The end of a block removes it; no error if the rule, or the machine, is gone by then.

    >>> with Machine() as m:
    ...     fault = m.fault("vda", iotype="read", errno="EIO", count=1)
    ...     fault.remove()
    """

    def __init__(self, session: Session, id: str) -> None:
        self._session = session
        self.id = id

    @classmethod
    def add(cls, session: Session, members: Mapping[str, Any]) -> Self:
        """Add a rule; `members` are those of x-fault-add.  Raises CommandError."""
        reply = session.execute("x-fault-add", members)
        return cls(session, reply["id"])

    def info(self) -> dict[str, Any]:
        """Return the rule as x-query-faults has it; raises LookupError if it is gone."""
        for rule in self._session.execute("x-query-faults"):
            if rule["id"] == self.id:
                return dict(rule)
        raise LookupError(f"there is no rule {self.id} any more")

    def hits(self) -> int:
        """Return how many requests the rule has hit; raises LookupError if the rule is gone."""
        return int(self.info()["hits"])

    def remove(self) -> None:
        """Remove the rule; raises CommandError if it is gone."""
        self._session.execute("x-fault-remove", {"id": self.id})

    def _take_away(self) -> None:
        self.remove()
