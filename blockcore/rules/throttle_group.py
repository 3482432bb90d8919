# SPDX-License-Identifier: MIT
"""Who may go next: the queues and turns of the drives that share limits.

The rules are those of QEMU's `block/throttle-groups.c`; what its timers do is
expressed as conditions and deadlines that a coroutine awaits.  Requests of one
member and direction go in the order in which they came, members take turns,
and a request that waited for its time goes then even if one of the other
direction went in between: neither direction starves the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from blockcore.bql.effects import Until
from blockcore.rules.throttle import ThrottleConfig, ThrottleState


class ThrottleGroup:
    """Limits that several drives share.

    In each direction one member at a time has the turn: only its oldest
    request may go or wait for its time.  Whoever went passes the turn on to
    the next member in the ring that has requests waiting.
    """

    def __init__(self, name: str, config: ThrottleConfig, now_ns: int) -> None:
        self.name = name
        self.members: list[ThrottleMember] = []
        self.turns: dict[bool, ThrottleMember | None] = {False: None, True: None}
        self.configure(config, now_ns)

    def configure(self, config: ThrottleConfig, now_ns: int) -> None:
        """Adopt `config` for every member, or QmpError; it empties the buckets.

        Requests that already wait are looked at again under the new limits.
        """
        config.validate()
        self.state = ThrottleState(config, now_ns)

    def pass_turn(self, is_write: bool) -> None:
        """Give the turn to the next member with a request that has to wait, or to none."""
        holder = self.turns[is_write]
        start = self.members.index(holder) + 1 if holder is not None else 0
        ring = (*self.members[start:], *self.members[:start])
        self.turns[is_write] = next((m for m in ring if m.is_waiting(is_write)), None)


class ThrottleMember:
    """One drive in a group: its waiting requests per direction, oldest first."""

    def __init__(self, group: ThrottleGroup) -> None:
        self.group = group
        self.drained = 0
        """Drained sections in progress; while there are any, nothing waits."""
        self.queues: dict[bool, deque[ThrottleTicket]] = {False: deque(), True: deque()}
        group.members.append(self)

    def is_waiting(self, is_write: bool) -> bool:
        """Whether the member can make use of a turn."""
        return bool(self.queues[is_write]) and not self.drained

    def drain_begin(self) -> None:
        """Let everything go at once, in order, until the matching `drain_end`."""
        self.drained += 1
        for is_write, holder in self.group.turns.items():
            if holder is self:
                self.group.pass_turn(is_write)

    def drain_end(self) -> None:
        """End a drained section; requests queue again after the last."""
        assert self.drained
        self.drained -= 1
        for is_write in self.queues:
            self._claim(is_write)

    def leave(self) -> None:
        """Leave the group for good; requests still waiting are let go."""
        self.drain_begin()
        self.group.members.remove(self)

    def enter(self, is_write: bool) -> ThrottleTicket:
        """Queue a request; it must end in `ThrottleTicket.account` or `.withdraw`."""
        ticket = ThrottleTicket(self, is_write)
        self.queues[is_write].append(ticket)
        self._claim(is_write)
        return ticket

    async def admit(self, is_write: bool, nbytes: int, monotonic_ns: Callable[[], int]) -> None:
        """Wait until a request of `nbytes` bytes may go, and charge it.

        `monotonic_ns` is the clock of the deadlines of `Until`.
        """
        ticket = self.enter(is_write)
        try:
            while not ticket.may_go(now_ns := monotonic_ns()):
                await Until(ticket.changed, ticket.deadline_ns)
            ticket.account(now_ns, nbytes)
        finally:
            ticket.withdraw()

    def _claim(self, is_write: bool) -> None:
        """Take the turn if nobody has it."""
        if self.group.turns[is_write] is None and self.is_waiting(is_write):
            self.group.turns[is_write] = self


class ThrottleTicket:
    """A request in the queue of its member and direction."""

    __slots__ = ("_judged_by", "deadline_ns", "is_write", "member")

    def __init__(self, member: ThrottleMember, is_write: bool) -> None:
        self.member = member
        self.is_write = is_write
        self.deadline_ns: int | None = None
        """When the request may go, once it is its turn; None until then."""
        self._judged_by: ThrottleState | None = None

    def may_go(self, now_ns: int) -> bool:
        """Whether to go now; if not, wait until `changed`, or `deadline_ns` if there is one.

        The wait is computed once, when the turn comes, and again only if the
        limits change: as with QEMU's timers, who waited that long goes.
        """
        if self.member.drained:
            return True
        if not self._has_turn():
            return False
        state = self.member.group.state
        if self._judged_by is not state:
            self._judged_by = state
            self.deadline_ns = now_ns + state.wait_ns(now_ns, self.is_write)
        assert self.deadline_ns is not None
        return now_ns >= self.deadline_ns

    def changed(self) -> bool:
        """A condition for `Until`: whether `may_go` has something new to say."""
        return self.member.drained > 0 or (
            self._judged_by is not self.member.group.state and self._has_turn()
        )

    def account(self, now_ns: int, nbytes: int) -> None:
        """The request goes: charge it and let the next one have its turn."""
        self.member.group.state.account(now_ns, self.is_write, nbytes)
        self.withdraw()

    def withdraw(self) -> None:
        """Leave the queue without being charged; nothing happens if already gone."""
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
    """All groups of a machine, by name; one without members is made anew when it is named."""

    def __init__(self) -> None:
        self._groups: dict[str, ThrottleGroup] = {}

    def __getitem__(self, name: str) -> ThrottleGroup:
        return self._groups[name]

    def limit(
        self, member: ThrottleMember | None, config: ThrottleConfig, name: str, now_ns: int
    ) -> ThrottleMember | None:
        """Put a member, or a new one, into the group of that name, which gets the limits.

        Gives who is a member then: no limit at all takes one out of its group.
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
