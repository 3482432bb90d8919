# SPDX-License-Identifier: MIT
"""Queues and turns of the drives that share I/O limits.

The rules are those of QEMU's `block/throttle-groups.c`.  QEMU uses timers; here
a coroutine awaits a condition with a deadline (`ThrottleMember.admit`).

Requests of one member and direction (read or write) go in the order of their
arrival.  Members take turns.  A request computes its wait once, when its turn
comes, and goes when that time is over, even if a request of the other direction
has gone meanwhile: no direction can starve the other.

Everything runs under the big lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from blockcore.bql.effects import Until
from blockcore.rules.throttle import ThrottleConfig, ThrottleState


class ThrottleGroup:
    """Limits that several drives share (ThrottleGroup).

    In each direction at most one member has the turn (`turns`, by `is_write`).
    Only the oldest request of that member may go or wait for its time.  After
    it has gone, the turn passes to the next member in the ring that has
    requests waiting.
    """

    def __init__(self, name: str, config: ThrottleConfig, now_ns: int) -> None:
        self.name = name
        self.members: list[ThrottleMember] = []
        self.turns: dict[bool, ThrottleMember | None] = {False: None, True: None}
        self.configure(config, now_ns)

    def configure(self, config: ThrottleConfig, now_ns: int) -> None:
        """Set the limits of all members and empty the buckets; raise QmpError if they are invalid.

        Waiting requests compute their wait anew (throttle_group_config).
        """
        config.validate()
        self.state = ThrottleState(config, now_ns)

    def pass_turn(self, is_write: bool) -> None:
        """Give the turn to the next member with a waiting request, if any (next_throttle_token)."""
        holder = self.turns[is_write]
        start = self.members.index(holder) + 1 if holder is not None else 0
        ring = (*self.members[start:], *self.members[:start])
        self.turns[is_write] = next((m for m in ring if m.is_waiting(is_write)), None)


class ThrottleMember:
    """One drive in a group (ThrottleGroupMember).

    `queues` has the waiting requests of each direction, by `is_write`, oldest
    first.
    """

    def __init__(self, group: ThrottleGroup) -> None:
        self.group = group
        self.drained = 0
        """Number of drained sections in progress; requests do not wait during one."""
        self.queues: dict[bool, deque[ThrottleTicket]] = {False: deque(), True: deque()}
        group.members.append(self)

    def is_waiting(self, is_write: bool) -> bool:
        """Return whether the member has a request that needs the turn in order to go."""
        return bool(self.queues[is_write]) and not self.drained

    def drain_begin(self) -> None:
        """Let all requests go at once, in order, until the matching `drain_end`."""
        self.drained += 1
        for is_write, holder in self.group.turns.items():
            if holder is self:
                self.group.pass_turn(is_write)

    def drain_end(self) -> None:
        """End a drained section; after the last one, requests queue again."""
        assert self.drained
        self.drained -= 1
        for is_write in self.queues:
            self._claim(is_write)

    def leave(self) -> None:
        """Leave the group for good; requests that still wait are let go."""
        self.drain_begin()
        self.group.members.remove(self)

    def enter(self, is_write: bool) -> ThrottleTicket:
        """Queue a request; the caller must call `account` or `withdraw` of the ticket."""
        ticket = ThrottleTicket(self, is_write)
        self.queues[is_write].append(ticket)
        self._claim(is_write)
        return ticket

    async def admit(self, is_write: bool, nbytes: int, monotonic_ns: Callable[[], int]) -> None:
        """Wait until a request of `nbytes` bytes may go, and charge it.

        `monotonic_ns` is the machine's clock.  A request that is abandoned
        meanwhile leaves the queue without a charge
        (throttle_group_co_io_limits_intercept).
        """
        ticket = self.enter(is_write)
        try:
            while not ticket.may_go(now_ns := monotonic_ns()):
                await Until(ticket.changed, ticket.deadline_ns)
            ticket.account(now_ns, nbytes)
        finally:
            ticket.withdraw()

    def _claim(self, is_write: bool) -> None:
        """Take the turn if no member has it."""
        if self.group.turns[is_write] is None and self.is_waiting(is_write):
            self.group.turns[is_write] = self


class ThrottleTicket:
    """A request in the queue of its member and direction."""

    __slots__ = ("_judged_by", "deadline_ns", "is_write", "member")

    def __init__(self, member: ThrottleMember, is_write: bool) -> None:
        self.member = member
        self.is_write = is_write
        self.deadline_ns: int | None = None
        """Monotonic ns at which the request may go; None before its turn."""
        self._judged_by: ThrottleState | None = None

    def may_go(self, now_ns: int) -> bool:
        """Return whether the request may go now; if not, ask again after a wait.

        The wait ends when `changed` is true, or at `deadline_ns` if that is set.
        """
        if self.member.drained:
            return True
        if not self._has_turn():
            return False
        state = self.member.group.state
        # The wait is computed once, when the turn comes, and anew only if the limits change.  As
        # with a timer of QEMU's, the request goes when that time is over, whatever requests of
        # the other direction have put into the shared buckets meanwhile.
        if self._judged_by is not state:
            self._judged_by = state
            self.deadline_ns = now_ns + state.wait_ns(now_ns, self.is_write)
        assert self.deadline_ns is not None
        return now_ns >= self.deadline_ns

    def changed(self) -> bool:
        """Return whether the answer of `may_go` may be another one now; a condition for `Until`."""
        return self.member.drained > 0 or (
            self._judged_by is not self.member.group.state and self._has_turn()
        )

    def account(self, now_ns: int, nbytes: int) -> None:
        """Charge the request of `nbytes` bytes, which goes now, and pass the turn on."""
        self.member.group.state.account(now_ns, self.is_write, nbytes)
        self.withdraw()

    def withdraw(self) -> None:
        """Leave the queue without a charge; a request that has left it already may call this."""
        queue = self.member.queues[self.is_write]
        if self not in queue:
            return
        had_turn = self._has_turn()
        queue.remove(self)
        if had_turn:
            self.member.group.pass_turn(self.is_write)

    def _has_turn(self) -> bool:
        member = self.member
        return member.group.turns[self.is_write] is member and (
            member.queues[self.is_write][0] is self
        )


class ThrottleGroups:
    """The throttle groups of a machine, by name.

    A group ends with its last member: when its name is used again, a new group
    is made.
    """

    def __init__(self) -> None:
        self._groups: dict[str, ThrottleGroup] = {}

    def __getitem__(self, name: str) -> ThrottleGroup:
        return self._groups[name]

    def limit(
        self, member: ThrottleMember | None, config: ThrottleConfig, name: str, now_ns: int
    ) -> ThrottleMember | None:
        """Put a drive into the group `name`, set that group's limits, and return its member.

        `member` is the drive's present member, if any; it leaves a group of
        another name.  Without any limit in `config` the drive leaves its group,
        and None is returned.  Raises QmpError if `config` is invalid.
        """
        if member is not None and (not config.enabled or member.group.name != name):
            member.leave()
            member = None
        if config.enabled and member is None:
            group = self._groups.get(name)
            if group is None or not group.members:
                group = self._groups[name] = ThrottleGroup(name, config, now_ns)
            member = ThrottleMember(group)
        if member is not None:
            member.group.configure(config, now_ns)
        return member
