# SPDX-License-Identifier: MIT
"""Which request is hit in which round of a test that runs once for each; no I/O.

Each drive of each machine has a rule.  In each round one of them, the rule of
the *current* target, hits the n-th request that it sees; the others count.
n is 1, 2, 3, ... until a round has less than n such requests.  Then another
target that had any is current, until there is none left.  So each request that
the test makes is hit in a round of its own, and the last round is without a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

IOTypes = str | Sequence[str] | None
"""One kind of request, or several; None for those that the action is usual for."""

WORDS = {
    "error": "failing",
    "delay": "delayed",
    "hang": "hanging",
    "drop": "lost",
    "torn": "torn",
    "misdirect": "misdirected",
    "duplicate": "repeated",
    "corrupt": "corrupted",
    "badblock": "in a bad block",
    "disconnect": "ending its connection",
    "readonly": "refused",
}
"""What becomes of a request, by the `action`."""

LIMIT = 1000
"""The number of rounds that a test may have, if its mark does not say."""

NEVER = 1 << 62
"""So many requests that a rule lets pass first, if it is to count them only."""


@dataclass(frozen=True, slots=True)
class EveryIo:
    """The arguments of a mark: which requests are hit, one in each round, and how.

    `node` is a drive or a node, None for each drive; `members` are further ones of
    x-fault-add, such as `action`.  `iotype` None stands for what that action is usual for.
    """

    iotype: IOTypes = None
    errno: str | int | None = None
    node: str | None = None
    limit: int = LIMIT
    members: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        iotype: IOTypes = None,
        /,
        *,
        errno: str | int | None = None,
        node: str | None = None,
        limit: int = LIMIT,
        **members: Any,
    ) -> EveryIo:
        """Make it of the arguments of the mark; raises TypeError if they make no sense."""
        for member in {"count", "after", "every", "once", "rate", "id"} & members.keys():
            raise TypeError(f"every_io takes no {member}: it sets the rules' counts itself")
        if iotype is None and "action" not in members:
            raise TypeError("every_io needs a kind of request, such as 'write', or an action")
        return cls(iotype, errno, node, limit, members)


class Target(NamedTuple):
    """The place of a rule: the numbers of its machine and of its mark, and the drive or node."""

    machine: int
    node: str
    kind: int


class Counts(NamedTuple):
    """What a rule had at the end of a round: the requests that it saw, and those that it failed."""

    seen: int
    hits: int


class Rounds:
    """The rounds of one test; `kinds` are its marks.

    In each round `rule` is asked for the rule of each target, in the order in
    which machines start, and `armed` is told that it is there; `counted` takes
    what became of it, and `over` tells whether that was the last round.
    """

    def __init__(self, kinds: Sequence[EveryIo]) -> None:
        self.kinds = kinds
        self.number = 1
        self.machines = 0
        self._nth = 1
        self._current: Target | None = None
        self._counts: dict[Target, Counts | None] = {}
        self._done: set[Target] = set()

    def rule(self, target: Target) -> dict[str, Any]:
        """Return the members of a target's rule in this round, but for the node's name."""
        kind = self.kinds[target.kind]
        given = {"iotype": kind.iotype, "errno": kind.errno, **kind.members}
        members = {name: value for name, value in given.items() if value is not None}
        if self._current in (None, target):
            return {**members, "after": self._nth - 1, "count": 1}
        return {**members, "after": NEVER}

    def armed(self, target: Target) -> None:
        """Take note that a target has its rule; the first one is current."""
        self._counts[target] = None
        if self._current is None:
            self._current = target

    def counted(self, target: Target, counts: Counts) -> None:
        """Take what became of a rule; a round may be told several times."""
        self._counts[target] = counts

    def over(self) -> bool:
        """End a round that has passed, and return whether it was the last; else the next begins.

        Raises ValueError, which tells why the rounds cannot go on.
        """
        counts = self._known()
        if self.number == 1 and not any(count.seen for count in counts.values()):
            raise ValueError(f"no {self._iotypes()} was made: {self._in_vain()}")
        assert self._current is not None
        current = counts.get(self._current)
        if current is not None and current.hits:
            self._nth += 1
        else:
            self._done.add(self._current)
            left = [at for at, count in counts.items() if count.seen and at not in self._done]
            if not left:
                return True
            self._current, self._nth = left[0], 1
        limit = self.kinds[self._current.kind].limit
        if self.number == limit:
            raise ValueError(f"the test is not over after {limit} rounds, the limit of every_io")
        self.number += 1
        self.machines = 0
        self._counts = {}
        return False

    def _known(self) -> dict[Target, Counts]:
        known = {at: count for at, count in self._counts.items() if count is not None}
        for at in self._counts.keys() - known.keys():
            raise ValueError(
                f"machine {at.machine + 1} ended before it could be asked for the requests "
                f"that it has seen ({self.failing()}): end it with close(), quit() or kill()"
            )
        return known

    def _iotypes(self) -> str:
        return " or ".join(iotype_text(kind.iotype) for kind in self.kinds)

    def _in_vain(self) -> str:
        if not self.machines:
            return "the test has no machine from faultline_machine or faultline_factory"
        if not self._counts:
            nodes = " or ".join(str(kind.node) for kind in self.kinds)
            return f"no machine has a drive or node {nodes}"
        return "every_io needs a test that makes one"

    def failing(self) -> str:
        """Return which request fails in this round, as in "with the 3rd write failing".

        Empty if no rule was there yet.
        """
        if self._current is None:
            return ""
        kind = self.kinds[self._current.kind]
        of = ""
        if len(self._counts) > 1:
            of = f" of {self._current.node}"
        if self.machines > 1:
            of += f" of machine {self._current.machine + 1}"
        return hit_text(self._nth, kind.iotype, kind.members.get("action", "error"), of)


def iotype_text(iotype: IOTypes) -> str:
    """Return kinds of request as a text.

    >>> iotype_text("write"), iotype_text(["read", "write"]), iotype_text(None)
    ('write', 'read or write', 'request')
    """
    if iotype is None:
        return "request"
    return iotype if isinstance(iotype, str) else " or ".join(iotype)


def hit_text(nth: int, iotype: IOTypes, action: str, of: str = "") -> str:
    """Return which request is hit in a round, and what becomes of it.

    >>> hit_text(3, "write", "error"), hit_text(1, None, "torn", " of vda")
    ('with the 3rd write failing', 'with the 1st request of vda torn')
    """
    words = WORDS.get(action, f"hit by {action}")
    return f"with the {ordinal(nth)} {iotype_text(iotype)}{of} {words}"


def ordinal(number: int) -> str:
    """Return a number as 1st, 2nd, 3rd, 4th.

    >>> [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '13th', '21st', '112th']
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{number}{ending or 'th'}"
