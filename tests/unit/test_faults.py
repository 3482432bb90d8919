# SPDX-License-Identifier: MIT
"""blkdebug's engine, rule by rule, and what goes beyond it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blockcore.faults.fail import Fail
from blockcore.faults.gate import Gate
from blockcore.faults.injector import FaultInjector
from blockcore.faults.states import StateChange
from blockcore.qapi.names import BlkdebugEvent, FaultIOType
from rules import Host, fail

READ, WRITE, ZEROES = FaultIOType.READ, FaultIOType.WRITE, FaultIOType.WRITE_ZEROES
DISCARD, FLUSH = FaultIOType.DISCARD, FaultIOType.FLUSH
BLOCK_STATUS = FaultIOType.BLOCK_STATUS
READ_AIO, WRITE_AIO = BlkdebugEvent.READ_AIO, BlkdebugEvent.WRITE_AIO
NONE = BlkdebugEvent.NONE

SEED = 7


def rule(event: BlkdebugEvent = NONE, number: int = errno.EIO, **more: Any) -> Fail:
    return fail(id="r", event=event, errno=number, **more)


def loaded(*rules: Fail, changes: tuple[StateChange, ...] = ()) -> FaultInjector:
    """A blkdebug node's injector, just opened."""
    injector = FaultInjector(Host(SEED))
    injector.load(rules, changes)
    return injector


def added(*rules: Fail, seed: int = SEED) -> FaultInjector:
    """Rules given to any node at run time."""
    injector = FaultInjector(Host(seed))
    for options in rules:
        injector.add(options)
    return injector


def request(
    injector: FaultInjector, iotype: FaultIOType = READ, offset: int = 0, nbytes: int = 512
) -> int:
    """The errno a request fails with; 0 if it does not."""
    hit = injector.check(iotype, offset, nbytes)
    if hit is None:
        return 0
    assert isinstance(hit.options, Fail)
    return hit.options.errno


def read_aio(injector: FaultInjector, offset: int = 0) -> int:
    """A read by a format driver."""
    injector.event(READ_AIO)
    return request(injector, READ, offset)


def write_aio(injector: FaultInjector, offset: int = 0) -> int:
    injector.event(WRITE_AIO)
    return request(injector, WRITE, offset)


@pytest.mark.parametrize("iotype", FaultIOType)
def test_without_iotype_all_that_blkdebug_hits(iotype: FaultIOType) -> None:
    wanted = 0 if iotype in (BLOCK_STATUS, FaultIOType.CONNECT) else errno.EIO
    for injector in (loaded(rule()), added(rule())):
        assert request(injector, iotype, nbytes=0 if iotype is FLUSH else 512) == wanted


@pytest.mark.parametrize("iotype", FaultIOType)
@pytest.mark.parametrize("of_rule", FaultIOType)
def test_iotype(of_rule: FaultIOType, iotype: FaultIOType) -> None:
    wanted = errno.EIO if iotype is of_rule else 0
    assert request(added(rule(iotype=of_rule)), iotype) == wanted


def test_rules_wait_for_their_event() -> None:
    injector = loaded(rule(WRITE_AIO))
    assert read_aio(injector) == 0
    assert write_aio(injector) == errno.EIO


def test_an_active_rule_leaks() -> None:
    """Rule 4: until its list is replaced it hits whatever comes."""
    injector = loaded(rule(WRITE_AIO, errno.ENOSPC))
    injector.event(WRITE_AIO)
    for iotype in (WRITE, READ, FLUSH, DISCARD, ZEROES):
        assert request(injector, iotype) == errno.ENOSPC


def test_an_event_with_rules_replaces_the_list() -> None:
    """Rule 2."""
    injector = loaded(rule(WRITE_AIO, errno.ENOSPC), rule(READ_AIO, errno.EIO))
    assert write_aio(injector) == errno.ENOSPC
    assert read_aio(injector) == errno.EIO
    assert request(injector, WRITE) == errno.EIO


def test_an_event_without_rules_changes_nothing() -> None:
    """Rule 5; nor does one whose rules are of another state."""
    injector = loaded(rule(WRITE_AIO, errno.ENOSPC), rule(READ_AIO, state=7))
    injector.event(WRITE_AIO)
    injector.event(BlkdebugEvent.FLUSH_TO_OS)
    assert read_aio(injector) == errno.ENOSPC


def test_all_rules_of_the_event_are_active_and_the_first_decides() -> None:
    """Rule 3."""
    injector = loaded(rule(READ_AIO, 1, sector=1), rule(READ_AIO, 2), rule(READ_AIO, 3, sector=0))
    assert read_aio(injector) == 2
    assert read_aio(injector, 512) == 1


def test_event_none_is_active_from_the_start() -> None:
    """Rule 7: but only once, so that another event's rules end it."""
    injector = loaded(rule(NONE, 1), rule(READ_AIO, 2))
    assert request(injector) == 1
    assert read_aio(injector) == 2
    assert request(injector, WRITE) == 2


def test_errno_0_shadows() -> None:
    assert read_aio(loaded(rule(READ_AIO, 0), rule(READ_AIO, 5))) == 0
    assert read_aio(loaded(rule(READ_AIO, 5), rule(READ_AIO, 0))) == 5


def test_once() -> None:
    injector = loaded(rule(READ_AIO, count=1))
    assert [read_aio(injector) for _ in range(3)] == [errno.EIO, 0, 0]


def test_once_several_times() -> None:
    """Rule 8: fail N times."""
    injector = loaded(*(rule(READ_AIO, number, count=1) for number in (1, 2, 3)))
    assert [read_aio(injector) for _ in range(5)] == [1, 2, 3, 0, 0]


def test_once_waits_for_its_sector() -> None:
    """Rule 6."""
    injector = loaded(rule(READ_AIO, count=1, sector=100))
    offsets = (0, 51200, 51200)
    assert [read_aio(injector, offset) for offset in offsets] == [0, errno.EIO, 0]


def test_errno_0_uses_nothing_up() -> None:
    injector = loaded(rule(READ_AIO, 0, count=1), rule(READ_AIO, 5))
    assert [read_aio(injector) for _ in range(3)] == [0, 0, 0]


def test_negative_errno() -> None:
    """Recorded: blkdebug-cli. The request is not failed; the node sees to that."""
    assert read_aio(loaded(rule(READ_AIO, -5))) <= 0


def state(event: BlkdebugEvent, old: int, new: int) -> StateChange:
    return StateChange(event=event, state=old, new_state=new)


def test_the_state_is_1_at_first() -> None:
    assert write_aio(loaded(rule(WRITE_AIO, state=1))) == errno.EIO
    assert write_aio(loaded(rule(WRITE_AIO, state=2))) == 0
    assert write_aio(loaded(rule(WRITE_AIO, state=0))) == errno.EIO


def test_rules_see_the_old_state() -> None:
    injector = loaded(rule(WRITE_AIO, state=2), changes=(state(WRITE_AIO, 1, 2),))
    assert [write_aio(injector) for _ in range(3)] == [0, errno.EIO, errno.EIO]


def test_the_first_state_change_wins() -> None:
    injector = loaded(changes=(state(WRITE_AIO, 0, 5), state(WRITE_AIO, 1, 6)))
    injector.event(WRITE_AIO)
    assert injector.state == 5


def test_state_changes_make_one_step_at_a_time() -> None:
    """Only the second write fails (recorded: blkdebug-cli, "state: fail only 2nd")."""
    changes = (state(WRITE_AIO, 1, 2), state(WRITE_AIO, 2, 3))
    injector = loaded(rule(WRITE_AIO, state=2, count=1), changes=changes)
    assert [write_aio(injector) for _ in range(3)] == [0, errno.EIO, 0]


def test_state_0_is_any() -> None:
    injector = loaded(changes=(state(READ_AIO, 1, 9), state(WRITE_AIO, 0, 4)))
    for event, wanted in ((READ_AIO, 9), (READ_AIO, 9), (WRITE_AIO, 4)):
        injector.event(event)
        assert injector.state == wanted


PLACES: dict[str, tuple[dict[str, Any], int, int, bool]] = {
    # the rule's place, offset and length of the request, whether it is hit
    "sector, exactly": ({"sector": 8}, 4096, 512, True),
    "sector, within": ({"sector": 8}, 0, 1 << 20, True),
    "sector, ends before": ({"sector": 8}, 0, 4096, False),
    "sector, behind": ({"sector": 8}, 4608, 512, False),
    "sector, first byte only": ({"sector": 8}, 4095, 2, True),
    "sector, but not its first byte": ({"sector": 8}, 4097, 10, False),
    "range, before": ({"offset": 1000, "length": 100}, 0, 1000, False),
    "range, first byte": ({"offset": 1000, "length": 100}, 0, 1001, True),
    "range, last byte": ({"offset": 1000, "length": 100}, 1099, 5, True),
    "range, behind": ({"offset": 1000, "length": 100}, 1100, 5, False),
    "offset alone": ({"offset": 1000}, 1 << 40, 5, True),
    "offset alone, before": ({"offset": 1000}, 0, 1000, False),
    "length alone": ({"length": 1000}, 999, 5, True),
    "length alone, behind": ({"length": 1000}, 1000, 5, False),
    "empty request": ({"offset": 0}, 10, 0, False),
}


@pytest.mark.parametrize(("place", "offset", "nbytes", "is_hit"), PLACES.values(), ids=PLACES)
def test_places(place: dict[str, Any], offset: int, nbytes: int, is_hit: bool) -> None:
    for injector in (added(rule(**place)), loaded(rule(**place))):
        assert request(injector, WRITE, offset, nbytes) == (errno.EIO if is_hit else 0)


@pytest.mark.parametrize("place", [{"sector": 0}, {"offset": 0}, {"length": 1}], ids=str)
def test_a_flush_has_no_place(place: dict[str, Any]) -> None:
    for iotype in (None, FLUSH):
        assert request(added(rule(iotype=iotype, **place)), FLUSH, 0, 0) == 0


def test_added_rules_stand() -> None:
    """Without an event a rule is in force until removed, whatever events come."""
    injector = added(rule(NONE, 7))
    injector.add(rule(READ_AIO, 8))
    assert read_aio(injector) == 8
    assert write_aio(injector) == 8
    injector.remove(injector.rules[1])
    assert request(injector) == 7
    injector.remove(injector.rules[0])
    assert request(injector) == 0 and injector.rules == []


def test_added_rules_may_wait_for_an_event() -> None:
    injector = added(rule(WRITE_AIO, 7))
    assert request(injector, WRITE) == 0
    assert write_aio(injector) == 7


def test_count() -> None:
    injector = added(rule(count=3))
    assert [request(injector) for _ in range(5)] == [errno.EIO] * 3 + [0, 0]
    (used_up,) = injector.rules
    assert used_up.exhausted and (used_up.seen, used_up.hits) == (3, 3)


def test_after() -> None:
    """Only requests that match are let pass."""
    injector = added(rule(after=2, count=2, iotype=WRITE, offset=512))
    request(injector, READ, 512)
    request(injector, WRITE, 0)
    assert [request(injector, WRITE, 512) for _ in range(6)] == [0, 0, 5, 5, 0, 0]
    assert (injector.rules[0].seen, injector.rules[0].hits) == (4, 2)


def test_who_lets_pass_leaves_it_to_the_next() -> None:
    injector = added(rule(NONE, 1, after=1), rule(NONE, 2))
    assert [request(injector) for _ in range(3)] == [2, 1, 1]


def test_rate() -> None:
    injector = added(rule(rate=0.25))
    hits = sum(bool(request(injector, offset=at * 4096)) for at in range(4000))
    assert 900 < hits < 1100
    assert (injector.rules[0].seen, injector.rules[0].hits) == (4000, hits)


def test_rate_at_one_place() -> None:
    """Each touch of a block is decided anew."""
    injector = added(rule(rate=0.25))
    hits = [bool(request(injector)) for _ in range(256)]
    assert 40 < sum(hits) < 90
    assert hits != [bool(request(added(rule(rate=0.25), seed=SEED + 1))) for _ in range(256)]


Work = list[tuple[FaultIOType, int]]


@given(st.permutations([(kind, at * 4096) for kind in (READ, WRITE) for at in range(12)] * 2))
def test_the_order_of_requests_decides_nothing(work: Work) -> None:
    """By block and kind of request the same touches are hit, whatever comes between."""

    def hits(work: Work) -> dict[tuple[FaultIOType, int], list[int]]:
        injector = added(rule(rate=0.5))
        found: dict[tuple[FaultIOType, int], list[int]] = {}
        for kind, offset in work:
            found.setdefault((kind, offset), []).append(request(injector, kind, offset))
        return found

    assert hits(work) == hits(sorted(work))


@pytest.mark.parametrize(("rate", "wanted"), [(0.0, 0), (1.0, errno.EIO)])
def test_rates_that_leave_nothing_to_chance(rate: float, wanted: int) -> None:
    assert request(added(rule(rate=rate))) == wanted


def test_losing_leaves_it_to_the_next() -> None:
    injector = added(rule(NONE, 1, rate=0.5), rule(NONE, 2))
    found = {request(injector, offset=at * 4096) for at in range(64)}
    assert found == {1, 2}


def test_a_changed_rule_keeps_its_place_and_its_counters() -> None:
    injector = added(rule(NONE, 7, count=2), rule(NONE, 8))
    first = injector.rules[0]
    assert request(injector) == 7
    injector.modify(first, rule(NONE, 9, count=3))
    assert [request(injector) for _ in range(3)] == [9, 9, 8]
    assert (first.seen, first.hits, first.exhausted) == (3, 3, True)
    injector.modify(first, rule(NONE, 9, count=4))
    assert [request(injector) for _ in range(2)] == [9, 8]
    injector.modify(first, rule(NONE, 9, count=1))
    assert first.exhausted and request(injector) == 8
    assert injector.rules[0] is first


def test_a_changed_rule_that_waits_for_its_event() -> None:
    injector = added(rule(READ_AIO, 7), rule(READ_AIO, 8))
    assert read_aio(injector) == 7
    injector.modify(injector.rules[0], rule(READ_AIO, 9))
    assert request(injector) == 9
    injector.modify(injector.rules[0], rule(WRITE_AIO, 9))
    assert request(injector) == 8
    assert write_aio(injector) == 9
    assert read_aio(injector) == 8
    injector.modify(injector.rules[0], rule(NONE, 6))
    injector.remove(injector.rules[1])
    assert [request(injector), write_aio(injector)] == [6, 6]


def test_a_changed_rule_of_a_configuration_stands() -> None:
    injector = loaded(rule(NONE, 7), rule(READ_AIO, 8))
    injector.modify(injector.rules[0], rule(NONE, 9))
    assert [request(injector), read_aio(injector)] == [9, 8]
    injector.remove(injector.rules[1])
    assert request(injector) == 9


@pytest.mark.parametrize("used_up", [False, True])
def test_removal(used_up: bool) -> None:
    injector = loaded(rule(READ_AIO, count=1))
    injector.event(READ_AIO)
    if used_up:
        request(injector)
    injector.remove(injector.rules[0])
    assert not injector.rules and read_aio(injector) == 0
    assert injector.trace([READ_AIO]) is None


def test_passing_matters_as_long_as_a_rule_waits_for_the_event() -> None:
    assert loaded(rule(NONE)).trace([READ_AIO]) is None
    assert added(rule(NONE)).trace([READ_AIO]) is None
    assert added(rule(READ_AIO)).trace([WRITE_AIO]) is None
    assert added(rule(READ_AIO, state=2)).trace([READ_AIO]) is None
    assert added(rule(READ_AIO)).trace([READ_AIO]) is not None
    injector = added(rule(READ_AIO, count=1))
    read_aio(injector)
    assert injector.trace([READ_AIO]) is None


def test_only_a_change_of_state_needs_every_event() -> None:
    assert not added(rule(READ_AIO)).changes_state
    assert loaded(changes=(state(READ_AIO, 1, 2),)).changes_state


EVENTS_OF = {
    READ: (READ_AIO,),
    WRITE: (WRITE_AIO, BlkdebugEvent.PWRITEV, BlkdebugEvent.PWRITEV_DONE),
    FLUSH: (BlkdebugEvent.FLUSH_TO_OS,),
    DISCARD: (),
}

some_rules = st.builds(
    rule,
    st.sampled_from([READ_AIO, WRITE_AIO, BlkdebugEvent.PWRITEV_DONE, NONE]),
    st.integers(1, 9),
    sector=st.integers(0, 2) | st.none(),
    iotype=st.none() | st.sampled_from(list(EVENTS_OF)),
    count=st.none() | st.just(1),
    state=st.sampled_from([0, 1, 2]),
)

some_steps = st.one_of(
    st.tuples(st.sampled_from(list(EVENTS_OF)), st.integers(0, 2)),
    st.tuples(st.just("add"), some_rules),
    st.tuples(st.just("remove"), st.integers(0, 3)),
)


@settings(max_examples=300, deadline=None)
@example(
    [rule(WRITE_AIO, sector=0), rule(BlkdebugEvent.PWRITEV_DONE, sector=2)],
    [(WRITE, 1), (READ, 2)],
)
@example(
    [rule(WRITE_AIO, sector=0)],
    [(WRITE, 1), ("add", rule(WRITE_AIO, sector=2)), (READ, 2)],
)
@example(
    [rule(READ_AIO, sector=0), rule(WRITE_AIO, sector=2)],
    [(WRITE, 2), (READ, 1), ("remove", 0), (DISCARD, 2)],
)
@given(st.lists(some_rules, min_size=1, max_size=3), st.lists(some_steps, max_size=20))
def test_requests_that_go_past_leave_behind_what_their_events_would(
    rules: list[Fail], steps: list[tuple[Any, Any]]
) -> None:
    """One injector sees every request, the other only those that its gate keeps."""
    seeing, passed_by = loaded(*rules), loaded(*rules)
    for step, argument in steps:
        if step == "add":
            seeing.add(argument)
            passed_by.add(argument)
        elif step == "remove":
            for injector in (seeing, passed_by):
                if argument < len(injector.rules):
                    injector.remove(injector.rules[argument])
        else:
            found = _carry_out(seeing, step, argument * 512)
            if not _goes_past(passed_by, step, argument * 512):
                assert _carry_out(passed_by, step, argument * 512) == found
            else:
                assert found == 0
        assert [r.hits for r in seeing.rules] == [r.hits for r in passed_by.rules]


def _goes_past(injector: FaultInjector, iotype: FaultIOType, offset: int) -> bool:
    gate = injector.gate(iotype)
    if iotype not in (READ, WRITE) or gate is None or gate.touches(offset, 512):
        return False
    passing = injector.trace(EVENTS_OF[iotype])
    if passing is not None:
        passing()
    return True


def _carry_out(injector: FaultInjector, iotype: FaultIOType, offset: int) -> int:
    """As `BlockNode` does it: the last event of a write comes after it."""
    events = EVENTS_OF[iotype]
    for event in events[:2]:
        injector.event(event)
    number = request(injector, iotype, offset, 0 if iotype is FLUSH else 512)
    for event in events[2:]:
        injector.event(event)
    return number


def test_gates_follow_the_rules() -> None:
    injector = added(rule(iotype=WRITE, offset=0, length=10), rule(iotype=WRITE, sector=1))
    gate = injector.gate(WRITE)
    assert gate is not None and gate.starts == [0, 512] and gate.ends == [10, 513]
    assert not injector.gate(READ)
    injector.add(rule(iotype=READ))
    assert injector.gate(READ) is None
    injector.remove(injector.rules[-1])
    injector.remove(injector.rules[0])
    gate = injector.gate(WRITE)
    assert gate is not None and gate.starts == [512]
    assert injector.gate(READ) is not None


CHANGES: dict[str, Callable[[FaultInjector], object]] = {
    "load": lambda injector: injector.load([rule(READ_AIO)], []),
    "add": lambda injector: injector.add(rule()),
    "add for an event": lambda injector: injector.add(rule(READ_AIO)),
    "modify": lambda injector: injector.modify(injector.rules[0], rule(offset=512)),
    "remove": lambda injector: injector.remove(injector.rules[0]),
    "clear": lambda injector: injector.clear(),
    "use up": lambda injector: request(injector),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_is_told(change: Callable[[FaultInjector], object]) -> None:
    """Whoever goes past the node decides anew then."""
    told: list[int] = []
    injector = FaultInjector(Host(SEED, lambda: told.append(len(injector.rules))))
    injector.add(rule(count=1))
    before = len(told)
    change(injector)
    assert len(told) > before


def test_rules_to_come_are_in_the_gate() -> None:
    """A rule that an event will activate must not be passed by."""
    injector = loaded(rule(READ_AIO, offset=512, length=512))
    gate = injector.gate(READ)
    assert gate is not None and gate.touches(1000, 1) and not gate.touches(0, 512)
    assert read_aio(injector, 512) == errno.EIO


RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda pair: (pair[0], sum(pair))),
    max_size=6,
)


@given(RANGES, st.integers(0, 60), st.integers(1, 20))
def test_gate_touches(ranges: list[tuple[int, int]], offset: int, nbytes: int) -> None:
    inside = {byte for start, end in ranges for byte in range(start, end)}
    wanted = not inside.isdisjoint(range(offset, offset + nbytes))
    assert Gate(ranges).touches(offset, nbytes) == wanted


@given(RANGES)
def test_gate_is_sorted_and_disjoint(ranges: list[tuple[int, int]]) -> None:
    gate = Gate(ranges)
    flat = [edge for pair in zip(gate.starts, gate.ends, strict=True) for edge in pair]
    assert flat == sorted(set(flat))
    assert bool(gate) == bool(ranges)


@given(RANGES, RANGES, st.integers(-20, 20))
def test_gate_union(
    ranges: list[tuple[int, int]], others: list[tuple[int, int]], shift: int
) -> None:
    union = Gate(ranges).union(Gate(others), shift)
    moved = [(start + shift, end + shift) for start, end in others]
    both = Gate([*ranges, *moved])
    assert (union.starts, union.ends) == (both.starts, both.ends)


@given(
    st.lists(
        st.builds(
            rule,
            number=st.integers(1, 9),
            iotype=st.sampled_from([None, READ, WRITE]),
            offset=st.none() | st.integers(0, 40),
            length=st.none() | st.integers(1, 10),
            count=st.none() | st.integers(1, 2),
        ),
        max_size=5,
    ),
    st.lists(
        st.tuples(st.sampled_from([READ, WRITE]), st.integers(0, 60), st.integers(1, 20)),
        max_size=20,
    ),
)
def test_gates_let_nothing_slip(
    rules: list[Fail], requests: list[tuple[FaultIOType, int, int]]
) -> None:
    """With gates the outcome is that of asking every rule."""
    injector = added(*rules)
    left = [[options, 9 if options.count is None else options.count] for options in rules]
    for iotype, offset, nbytes in requests:
        wanted = 0
        for entry in left:
            options, count = entry
            assert isinstance(options, Fail) and isinstance(count, int)
            start = options.offset or 0
            end = 1 << 63 if options.length is None else start + options.length
            if count and options.iotype in (None, iotype):
                if start < offset + nbytes and offset < end:
                    entry[1] = count - (options.count is not None)
                    wanted = options.errno
                    break
        assert request(injector, iotype, offset, nbytes) == wanted
