# SPDX-License-Identifier: MIT
"""Queues and turns, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcore.bql.effects import Until
from blockcore.qapi.names import QmpError
from blockcore.rules.throttle import NS_PER_S, Limit, ThrottleConfig
from blockcore.rules.throttle_group import ThrottleGroup, ThrottleMember


class Clockwork:
    """Runs coroutines that await `Until`, in virtual time; notes who ended when."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.waiting: list[tuple[str, Coroutine[Any, Any, None], Until]] = []
        self.log: list[tuple[str, int]] = []

    def start(self, name: str, coro: Coroutine[Any, Any, None]) -> None:
        self._step(name, coro, None)
        self.settle()

    def _step(self, name: str, coro: Coroutine[Any, Any, None], value: bool | None) -> None:
        try:
            effect = coro.send(value)
        except StopIteration:
            self.log.append((name, self.now_ns))
        else:
            assert isinstance(effect, Until)
            self.waiting.append((name, coro, effect))

    def _resume(self, index: int, value: bool) -> None:
        name, coro, _ = self.waiting.pop(index)
        self._step(name, coro, value)

    def settle(self) -> None:
        while True:
            for index, (_, _, until) in enumerate(self.waiting):
                if until.condition():
                    self._resume(index, True)
                    break
            else:
                return

    def run(self, until_ns: int) -> None:
        while True:
            due = [
                (u.deadline_ns, i)
                for i, (_, _, u) in enumerate(self.waiting)
                if u.deadline_ns is not None
            ]
            if not due or min(due)[0] > until_ns:
                self.now_ns = until_ns
                return
            deadline, index = heapq.nsmallest(1, due)[0]
            self.now_ns = max(self.now_ns, deadline)
            self._resume(index, False)
            self.settle()

    def submit(
        self, name: str, member: ThrottleMember, is_write: bool = True, nbytes: int = 1
    ) -> None:
        self.start(name, member.admit(is_write, nbytes, lambda: self.now_ns))

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.log]


def group(avg: int = 10) -> ThrottleGroup:
    return ThrottleGroup("g", ThrottleConfig(iops_total=Limit(avg)), 0)


def test_first_in_first_out_at_avg() -> None:
    clock, member = Clockwork(), ThrottleMember(group())
    for index in range(5):
        clock.submit(str(index), member)
    clock.run(NS_PER_S)
    # capacity is one request: two pass at once, then ten per second
    assert clock.log == [
        ("0", 0),
        ("1", 0),
        ("2", 100_000_000),
        ("3", 200_000_000),
        ("4", 300_000_000),
    ]


def test_members_take_turns() -> None:
    clock, shared = Clockwork(), group()
    a, b, c = (ThrottleMember(shared) for _ in range(3))
    for name, member in [("a", a)] * 5 + [("b", b)] * 2 + [("c", c)]:
        clock.submit(name, member)
    clock.run(2 * NS_PER_S)
    # the third a already waits for its time when the others come
    assert "".join(clock.order) == "aaabcaba"


def test_directions_have_their_own_queues() -> None:
    clock = Clockwork()
    shared = ThrottleGroup("g", ThrottleConfig(bps_read=Limit(10), bps_write=Limit(1_000_000)), 0)
    member = ThrottleMember(shared)
    for name in ("r0", "r1"):
        clock.submit(name, member, is_write=False, nbytes=100)
    clock.submit("w0", member)
    assert clock.order == ["r0", "w0"]


@pytest.mark.parametrize("greedy", [False, True], ids=["reader greedy", "writer greedy"])
def test_neither_direction_starves(greedy: bool) -> None:
    clock, member = Clockwork(), ThrottleMember(group())
    for index in range(40):
        clock.submit("many", member, is_write=greedy)
        if index % 10 == 0:
            clock.submit("few", member, is_write=not greedy)
    clock.run(NS_PER_S)
    assert clock.order.count("few") == 4


def test_drain_lets_everything_go_in_order_and_charges_it() -> None:
    clock, member = Clockwork(), ThrottleMember(group())
    for index in range(6):
        clock.submit(str(index), member)
    member.drain_begin()
    clock.settle()
    assert clock.log == [(str(index), 0) for index in range(6)]
    member.drain_end()
    clock.submit("next", member)
    clock.run(NS_PER_S)
    assert clock.log[-1] == ("next", 500_000_000)


def test_drain_of_one_member_gives_the_turn_to_another() -> None:
    clock, shared = Clockwork(), group()
    a, b = ThrottleMember(shared), ThrottleMember(shared)
    for name, member in (("a", a), ("a", a), ("a", a), ("b", b)):
        clock.submit(name, member)
    a.drain_begin()
    clock.settle()
    clock.run(NS_PER_S)
    # the drained a is charged too, so b, looked at after it, waits for both
    assert clock.log == [("a", 0), ("a", 0), ("a", 0), ("b", 200_000_000)]


def test_new_limits_empty_the_buckets_and_wake_the_head() -> None:
    clock, shared = Clockwork(), group(avg=1)
    member = ThrottleMember(shared)
    for index in range(4):
        clock.submit(str(index), member)
    assert clock.order == ["0"]
    shared.configure(ThrottleConfig(iops_total=Limit(100)), clock.now_ns)
    clock.settle()
    assert clock.order == ["0", "1", "2", "3"]
    shared.configure(ThrottleConfig(), clock.now_ns)
    for _ in range(50):
        clock.submit("x", member)
    assert clock.order.count("x") == 50


def test_refused_limits_change_nothing() -> None:
    shared = group(avg=7)
    before = shared.state
    with pytest.raises(QmpError):
        shared.configure(ThrottleConfig(iops_total=Limit(7, 5)), 0)
    assert shared.state is before


def test_who_gives_up_passes_the_turn_on() -> None:
    clock, shared = Clockwork(), group(avg=1)
    a, b = ThrottleMember(shared), ThrottleMember(shared)
    clock.submit("a0", a)
    clock.submit("a1", a)
    clock.submit("b", b)
    (_, coro, _), *_ = clock.waiting
    clock.waiting.pop(0)
    coro.close()
    clock.settle()
    clock.run(NS_PER_S)
    assert clock.log == [("a0", 0), ("b", 900_000_000)]
    assert not a.queues[True]


def test_leaving_lets_go_and_forgets() -> None:
    clock, shared = Clockwork(), group(avg=1)
    a, b = ThrottleMember(shared), ThrottleMember(shared)
    for name, member in (("a", a), ("a", a), ("b", b)):
        clock.submit(name, member)
    a.leave()
    clock.settle()
    assert clock.order == ["a", "a"]
    assert shared.members == [b]
    clock.run(5 * NS_PER_S)
    assert clock.order[-1] == "b"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 400)), min_size=1, max_size=40
    ),
    st.integers(1, 500),
)
def test_everything_goes_in_order_and_at_the_rate(
    requests: list[tuple[int, bool, int]], avg: int
) -> None:
    clock = Clockwork()
    shared = ThrottleGroup("g", ThrottleConfig(bps_total=Limit(avg)), 0)
    members = [ThrottleMember(shared) for _ in range(3)]
    for index, (which, is_write, nbytes) in enumerate(requests):
        clock.submit(f"{which}{is_write:d}:{index}:{nbytes}", members[which], is_write, nbytes)
    clock.run(10**15)
    assert len(clock.log) == len(requests)
    passed = 0
    last: dict[str, int] = {}
    for name, now in clock.log:
        queue, position, size = name.split(":")
        assert last.get(queue, -1) < int(position)
        last[queue] = int(position)
        passed += int(size)
        # besides the capacity, one request of either direction may go too far
        assert passed <= avg * now / NS_PER_S + avg / 10 + 2 * 400 + 1
