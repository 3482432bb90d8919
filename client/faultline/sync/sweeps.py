# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/sweeps.py.
"""The rounds of a workload in which one request after the other is hit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from faultline.errors import FaultlineError
from faultline.every_io import hit_text, iotype_text
from faultline.sync.faults import Fault
from faultline.sync.lent import Lent
from faultline.sync.session import Session


class SweepRound(Fault):
    """One round: a rule that hits the `nth` request that it matches, and no other.

    `str()` tells which, as in "with the 3rd write failing".

    >>> with Machine() as m:
    ...     with m.sweep("vda", iotype="write") as sweep:
    ...         round = next(sweep)
    ...         print(round, round.fired())
    with the 1st write failing False
    """

    def __init__(self, session: Session, id: str, nth: int, text: str) -> None:
        super().__init__(session, id)
        self.nth = nth
        self._text = text

    def fired(self) -> bool:
        """Return whether the rule has hit its request by now."""
        return self.hits() > 0

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<SweepRound {self._text}>"


class Sweep(Lent):
    """Rounds that a loop goes through: the Nth request is hit in the Nth.

    The last round is the one whose request did not come: all went well in it.  A
    loop that is left early leaves the rule of its round, unless it stands in a
    block of the sweep's own (``with``); an error that leaves the block is
    given the round as a note.

    >>> target = {"driver": "null-co", "node-name": "target", "size": 65536}
    >>> with Machine(Drive(size="64k"), blockdevs=[target]) as m:
    ...     for round in m.sweep("target", iotype="write-zeroes", errno="ENOSPC"):
    ...         m.blockdev_backup(device="vda", target="target", sync="full", job_id="b")
    ...         try:
    ...             m.job("b").wait()
    ...             print(round.nth, "is whole")
    ...         except JobFailed as failed:
    ...             print(round.nth, failed.error)
    1 No space left on device
    2 is whole
    """

    def __init__(self, session: Session, members: Mapping[str, Any], limit: int) -> None:
        self._session = session
        self._members = members
        self._limit = limit
        self._id: str | None = None
        self._round: SweepRound | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SweepRound:
        """End a round, and begin the next; raises FaultlineError if that makes no sense."""
        members = self._members if self._id is None else {"id": self._id}
        reply = self._session.execute("x-fault-sweep", members)
        self._id, nth = reply["id"], reply.get("nth")
        if nth is None:
            self._id = None
            if self._round is not None and self._round.nth == 1 and not reply["seen"]:
                what = iotype_text(self._members.get("iotype"))
                node, taker = self._members["node-name"], reply.get("taken-by")
                why = f", which the rule '{taker}' did not hit" if taker else ""
                raise FaultlineError(f"no {what} came to {node}{why}: there is nothing to sweep")
            raise StopIteration
        if nth > self._limit:
            self._take_away()
            raise FaultlineError(f"the sweep is not over after {self._limit} rounds, its limit")
        text = hit_text(nth, self._members.get("iotype"), self._members.get("action", "error"))
        self._round = SweepRound(self._session, reply["id"], nth, text)
        return self._round

    def _take_away(self) -> None:
        if self._id is not None:
            id, self._id = self._id, None
            self._session.execute("x-fault-remove", {"id": id})

    def _note(self) -> str | None:
        return None if self._round is None else str(self._round)
