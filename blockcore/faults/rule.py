# SPDX-License-Identifier: MIT
"""One rule of a node: its options, what it has counted, and what its kind remembers."""

from __future__ import annotations

from blockcore.faults.dice import Dice, RuleDice
from blockcore.faults.options import FaultOptions, Request
from blockcore.faults.scene import RuleState
from blockcore.qapi.events import XFaultTriggered
from blockcore.qapi.names import FaultIOType, UInt64


class FaultRule:
    """A rule of some node: its options and its counters.

    `seen` counts the matching requests that no earlier rule has hit, `hits`
    those that this rule has hit.  `start` and `end` are the byte range; `start` is
    None if the rule has no range.  `added_ns` is when the rule was added.
    `thrown` are the dice of the last request about which chance decides.
    `removed` is whether it is no rule of the node any more.  `of_sweep` says that a sweep
    (x-fault-sweep) arms it; then `taken_by` is the earlier rule that has last hit a request
    which this one matches, if there was any.
    """

    __slots__ = (
        *("added_ns", "dice", "end", "hits", "iotypes", "is_choosy", "options", "seen", "start"),
        *("kind", "of_sweep", "removed", "state", "taken_by", "thrown", "watched"),
    )

    def __init__(self, options: FaultOptions, seed: int, added_ns: int) -> None:
        self.seen = 0
        self.hits = 0
        self.dice = RuleDice(seed, options.id or "")
        self.thrown: Dice | None = None
        self.state = RuleState()
        self.added_ns = added_ns
        self.removed = self.of_sweep = False
        self.taken_by: str | None = None
        self.kind: type[FaultOptions] | None = None
        self.change(options)

    def change(self, options: FaultOptions) -> None:
        """Replace the options; the counters stay, and what the kind remembers if it stays."""
        if self.kind is not type(options):
            self.kind = type(options)
            self.state.memory = options.new_memory()
        self.options = options
        self.iotypes = options.iotypes
        self.watched = options.watched
        self.is_choosy = options.is_choosy
        self.start, self.end = options.byte_range

    @property
    def exhausted(self) -> bool:
        """Whether the rule has hit as many requests as its `count` or `once` allows."""
        return self.options.hits_max is not None and self.hits >= self.options.hits_max

    def strikes(self, iotype: FaultIOType, offset: int, connection: int) -> bool:
        """Count a request that the rule matches, and return whether the rule hits it.

        `connection` is whose it is, 0 for a job's.  If chance decides about it, or about
        what becomes of it, its dice are `thrown`.
        """
        options = self.options
        self.seen += 1
        turn = self.seen - options.after
        if turn <= 0 or turn % options.every:
            return False
        if options.rate >= 1.0 and not options.draws:
            return True
        self.thrown = self.dice.touch(iotype, offset, of_job=connection == 0)
        return options.rate >= 1.0 or self.thrown.fraction() < options.rate

    def concerns(self, iotype: FaultIOType, offset: int, nbytes: int) -> bool:
        """Return whether the rule matches a request by its kind and byte range (rule_check)."""
        return iotype in self.iotypes and self.touches(offset, nbytes)

    def touches(self, offset: int, nbytes: int) -> bool:
        """Return whether a request overlaps the rule's range."""
        if self.start is None:
            return True
        return nbytes > 0 and self.start < offset + nbytes and self.end > offset

    def notice(self, request: Request, connection: int) -> XFaultTriggered:
        """Return the event for a request that the rule has hit; `connection` as for `strikes`."""
        options = self.options
        return XFaultTriggered(
            id=options.id or "",
            node_name=options.node_name,
            action=options.action,
            iotype=request.iotype,
            offset=UInt64(request.offset),
            length=UInt64(request.nbytes),
            connection=connection or None,
            hits=UInt64(self.hits),
        )
