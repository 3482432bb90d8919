# SPDX-License-Identifier: MIT
"""The states that a crash might leave, as a list to walk: all of them, or a sample."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import product

from blockcore.faults.dice import Dice
from blockcore.faults.lost import runs as runs_of
from blockcore.faults.options import SECTOR_SIZE
from blockcore.rules.crash_states import CrashState, at_random, sizes_of, span_of, state_of
from blockcore.rules.extents import Range, Segment, meeting
from blockcore.rules.write_log import Write, WriteLog

MANY_AT_A_SECTOR = 10
"""Writes that partly overlap in a sector at which their subsets are not all tried."""


def enumerated(log: WriteLog, limit: int, *, torn: bool) -> list[CrashState]:
    """Return states to walk, at most `limit` (> 0).

    All that are possible, if they are few enough, one for each contents; with `torn`
    also those with parts of writes.  Otherwise a sample: nothing and everything, each
    write lost alone, each kept alone, each prefix, each tear (the first sectors of a
    write after all earlier ones, and its last sectors beside all others); then subsets
    at random.  Of a sample that is larger than `limit` each of these kinds has its
    share, evenly spread.
    """
    span = span_of(log)
    found = _all_torn(span, log, limit) if torn else _all_whole(span, log, limit)
    if found is None:
        found = list(_sample(span, log, limit, torn))
    return found


def _all_whole(span: Range, log: WriteLog, limit: int) -> list[CrashState] | None:
    """Return a state for each subset of the writes; None if there may be more than `limit`."""
    if len(log) >= limit.bit_length():
        return None
    numbers = log.numbers
    found: dict[tuple[object, ...], CrashState] = {}
    for bits in range(1 << len(numbers)):
        kept = [number for at, number in enumerate(numbers) if bits >> at & 1]
        state = state_of(span, [(number, number) for number in kept])
        found.setdefault(_visible(state.pieces(log)), state)
    return list(found.values())


def _visible(pieces: Iterable[Segment]) -> tuple[object, ...]:
    """Return what is left of pieces when later ones have gone over earlier ones."""
    left: list[tuple[int, int, int]] = []
    for piece in pieces:
        kept = []
        for start, end, number in left:
            sides = ((start, min(end, piece.start)), (max(start, piece.end), end))
            kept += [(low, high, number) for low, high in sides if low < high]
        left = [*kept, (piece.start, piece.end, piece.number)]
    return tuple(sorted(left))


def _all_torn(span: Range, log: WriteLog, limit: int) -> list[CrashState] | None:
    """Return all states, sector by sector; None if there are more than `limit`."""
    touched: dict[int, list[Write]] = {}
    for write in log:
        for start, end in write.live:
            for sector in range(start // SECTOR_SIZE, -(-end // SECTOR_SIZE)):
                touched.setdefault(sector, []).append(write)
                # Each sector has two states at least.
                if len(touched) >= limit.bit_length():
                    return None
    choices, total = [], 1
    for sector, writes in touched.items():
        at_sector = _choices(sector, writes)
        total *= len(at_sector)
        if not at_sector or total > limit:
            return None
        choices.append([(sector, kept) for kept in at_sector])
    return [_of_sectors(span, log, picked) for picked in product(*choices)]


def _choices(sector: int, writes: list[Write]) -> list[tuple[int, ...]]:
    """Return what a sector may have got: sets of the numbers of `writes`, one for each contents.

    An empty list if there are too many to try.
    """
    start, end = sector * SECTOR_SIZE, (sector + 1) * SECTOR_SIZE
    pieces = {write.number: meeting(write.live, start, end) for write in writes}
    numbers = list(pieces)
    if all(each == pieces[numbers[0]] for each in pieces.values()):
        return [(), *((number,) for number in numbers)]
    if len(numbers) > MANY_AT_A_SECTOR:
        return []
    found: dict[tuple[object, ...], tuple[int, ...]] = {}
    for bits in range(1 << len(numbers)):
        kept = tuple(number for at, number in enumerate(numbers) if bits >> at & 1)
        runs = ((low, high, number) for number in kept for low, high in pieces[number])
        seen = _visible(Segment(low, high, None, number) for low, high, number in runs)
        found.setdefault(seen, kept)
    return list(found.values())


def _of_sectors(
    span: Range, log: WriteLog, picked: Iterable[tuple[int, tuple[int, ...]]]
) -> CrashState:
    """Return the state in which some sectors have got some writes."""
    sectors: dict[int, list[int]] = {}
    for sector, kept in picked:
        for number in kept:
            sectors.setdefault(number, []).append(sector)
    whole: list[Range] = []
    torn: dict[int, tuple[Range, ...]] = {}
    for number, those in sectors.items():
        write = log.get(number)
        assert write is not None
        first = write.offset // SECTOR_SIZE
        runs = tuple(runs_of([sector - first for sector in sorted(those)]))
        if runs == ((0, write.sectors),):
            whole.append((number, number))
        else:
            torn[number] = runs
    return state_of(span, whole, torn)


Group = tuple[int, Callable[[int], CrashState]]
"""How many states of a kind there are, and the function that makes one by its number."""


def _sample(span: Range, log: WriteLog, limit: int, torn: bool) -> Iterator[CrashState]:
    """Yield a sample of at most `limit` states, as `enumerated` says."""
    groups = _groups(span, log, torn)
    total = sum(count for count, _ in groups)
    seen: set[CrashState] = set()
    for count, make in groups:
        share = count if total <= limit else max(1, count * limit // total)
        for at in range(min(share, count)):
            state = make(at * count // share)
            if state not in seen and len(seen) < limit:
                seen.add(state)
                yield state
    dice, sizes = Dice(len(log)), sizes_of(log)
    for _ in range(2 * (limit - len(seen)) if total <= limit else 0):
        if len(seen) >= limit:
            break
        state = at_random(span, sizes, dice, torn)
        if state not in seen:
            seen.add(state)
            yield state


def _groups(span: Range, log: WriteLog, torn: bool) -> list[Group]:
    first, last = span
    numbers = log.numbers
    writes = list(log)

    def alone(at: int) -> CrashState:
        return state_of(span, [(numbers[at], numbers[at])])

    def lost(at: int) -> CrashState:
        return state_of(span, [(first, numbers[at] - 1), (numbers[at] + 1, last)])

    def prefix(at: int) -> CrashState:
        return state_of(span, [(first, numbers[at])])

    # The tears of all writes, one after the other: where those of each write begin.
    begins = [0]
    for write in writes:
        begins.append(begins[-1] + write.sectors - 1)

    def torn_at(at: int) -> tuple[Write, int]:
        which = bisect_left(begins, at + 1) - 1
        return writes[which], at - begins[which] + 1

    def begun(at: int) -> CrashState:
        write, cut = torn_at(at)
        return state_of(span, [(first, write.number - 1)], {write.number: ((0, cut),)})

    def ended(at: int) -> CrashState:
        write, cut = torn_at(at)
        others = [(first, write.number - 1), (write.number + 1, last)]
        return state_of(span, others, {write.number: ((cut, write.sectors),)})

    ends: list[Group] = [(1, lambda _: CrashState(*span)), (1, lambda _: state_of(span, [span]))]
    count = len(numbers)
    groups: list[Group] = [*ends, (count, lost), (count, alone), (count, prefix)]
    if torn:
        groups += [(begins[-1], begun), (begins[-1], ended)]
    return [(many, make) for many, make in groups if many]
