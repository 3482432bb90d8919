# SPDX-License-Identifier: MIT
"""The states of a medium after a crash: names for them, a choice, and a list to walk.

A state says which of a log's writes the medium has got.  Its name says the same, so
that the state can be had again: `FIRST-LAST:KEPT`, where the log has the writes FIRST
to LAST, and KEPT is `none`, `all`, or numbers and ranges of writes joined by ``+``.
Behind a dot come the sectors of a write that the medium has, counted from the
write's first sector: ``1-8:1-4+6.0-2.7`` has the writes 1 to 4, and of write 6 the
sectors 0 to 2 and 7.  Later writes than LAST are lost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import product

from blockcore.faults.dice import Dice
from blockcore.faults.lost import runs as runs_of
from blockcore.faults.options import SECTOR_SIZE
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.rules.extents import Range, Segment, meeting
from blockcore.rules.write_log import Write, WriteLog

MANY_AT_A_SECTOR = 10
"""Writes that partly overlap in a sector at which their subsets are not all tried."""


class CrashKeep(StrEnum):
    """What the medium has got of the writes that may be lost."""

    NONE = "none"
    ALL = "all"
    PREFIX = "prefix"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class CrashState:
    """The writes `first` to `last` of a log, and what the medium has of them.

    `whole` are ranges of numbers, both ends included, of writes that it has as they
    are.  `torn` are the numbers of others, with the sectors that it has.
    """

    first: int
    last: int
    whole: tuple[Range, ...] = ()
    torn: tuple[tuple[int, tuple[Range, ...]], ...] = ()

    @property
    def name(self) -> str:
        """The text that stands for the state."""
        if not self.whole and not self.torn:
            kept = "none"
        elif self.whole == ((self.first, self.last),):
            kept = "all"
        else:
            parts = [(low, _run(low, high)) for low, high in self.whole]
            for number, runs in self.torn:
                sectors = (_run(low, high - 1) for low, high in runs)
                parts.append((number, ".".join((str(number), *sectors))))
            kept = "+".join(text for _, text in sorted(parts))
        return f"{self.first}-{self.last}:{kept}"

    def pieces(self, log: WriteLog) -> Iterator[Segment]:
        """Yield what the medium has got, in the order of the log."""
        torn = dict(self.torn)
        for write in log:
            if write.number in torn:
                yield from write.pieces(torn[write.number])
            elif any(low <= write.number <= high for low, high in self.whole):
                yield from write.pieces()

    def counts(self, log: WriteLog) -> tuple[int, int, int]:
        """Return how many of a log's writes are kept, dropped and torn."""
        numbers = log.numbers
        kept = sum(_count(numbers, low, high) for low, high in self.whole)
        return kept, len(numbers) - kept - len(self.torn), len(self.torn)


def _run(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _count(numbers: Sequence[int], low: int, high: int) -> int:
    return bisect_left(numbers, high + 1) - bisect_left(numbers, low)


def state_named(name: str, log: WriteLog) -> CrashState:
    """Return the state of a name; raise QmpError if there is no such state of the log.

    `none` and `all` without numbers are of the log as it is.
    """
    span_text, colon, kept = name.rpartition(":")
    span, given = _span(log), _numbers(span_text)
    items = [] if kept in ("none", "all") else [_item(text) for text in kept.split("+")]
    if (colon and (given is None or "-" not in span_text)) or None in items:
        raise QmpError(
            "Parameter 'state' expects FIRST-LAST:WRITES as x-crash-enumerate returns it,"
            f" not '{name}'"
        )
    if given is None and items:
        raise QmpError(f"State '{name}' does not say which writes the cache has: FIRST-LAST:{name}")
    if given is not None:
        if given[0] != span[0] or given[1] > span[1]:
            raise QmpError(
                f"State '{name}' is of other writes than the cache has now, {_run(*span)}"
                if len(log)
                else f"State '{name}' cannot be had: the cache has no writes that may be lost"
            )
        span = given
    if kept == "all":
        return _state(span, [span])
    return _state(span, *_kept(name, filter(None, items), span, log))


Item = tuple[Range, tuple[Range, ...]]
"""A range of writes, both ends included, and the sectors of the only one; none for all."""


def _item(text: str) -> Item | None:
    """Return an item of a state's name, or None if it is none."""
    numbers, *sectors = text.split(".")
    writes, runs = _numbers(numbers), [_numbers(run) for run in sectors]
    if writes is None or None in runs or (runs and writes[0] != writes[1]):
        return None
    return writes, tuple((low, high + 1) for low, high in filter(None, runs))


def _numbers(text: str) -> Range | None:
    """Return a number, or two with a dash, as a range with both ends; None if it is neither."""
    low, dash, high = text.partition("-")
    ends = (low, high) if dash else (low,)
    if not all(one.isascii() and one.isdigit() and len(one) < 20 for one in ends):
        return None
    return int(low), int(high if dash else low)


def _kept(
    name: str, items: Iterable[Item], span: Range, log: WriteLog
) -> tuple[list[Range], dict[int, tuple[Range, ...]]]:
    whole: list[Range] = []
    torn: dict[int, tuple[Range, ...]] = {}
    for (low, high), runs in items:
        if not span[0] <= low <= high <= span[1]:
            raise QmpError(f"State '{name}' has {_run(low, high)}, which is not in {_run(*span)}")
        if not runs:
            whole.append((low, high))
            continue
        write = log.get(low)
        if write is None or any(start >= end or end > write.sectors for start, end in runs):
            raise QmpError(f"State '{name}' has sectors that write {low} has not in the cache")
        torn[low] = runs
    return whole, torn


def _span(log: WriteLog) -> Range:
    return (log.oldest().number if len(log) else log.last + 1), log.last


def _state(
    span: Range, whole: Iterable[Range], torn: dict[int, tuple[Range, ...]] | None = None
) -> CrashState:
    """Return a state with its ranges joined, and in order."""
    joined: list[Range] = []
    for low, high in sorted(whole):
        if low > high:
            continue
        if joined and joined[-1][1] >= low - 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return CrashState(*span, tuple(joined), tuple(sorted((torn or {}).items())))


def chosen(log: WriteLog, keep: CrashKeep, *, torn: bool, dice: Dice) -> CrashState:
    """Return a state by its kind; `dice` decide how long a prefix is, and what is random.

    With `torn`, a prefix ends within a write, and random writes are lost in part.
    Raise QmpError if `torn` makes no sense.
    """
    if torn and keep in (CrashKeep.NONE, CrashKeep.ALL):
        raise QmpError(f"Parameter 'torn' has no meaning with keep={keep}")
    span, numbers = _span(log), log.numbers
    if keep is CrashKeep.NONE or not numbers:
        return CrashState(*span)
    if keep is CrashKeep.ALL:
        return _state(span, [span])
    if keep is CrashKeep.RANDOM:
        return _random(span, log, dice, torn)
    count = dice.below(len(numbers) + 1)
    whole = [(span[0], numbers[count - 1])] if count else []
    partly: dict[int, tuple[Range, ...]] = {}
    if torn and count < len(numbers):
        write = log.get(numbers[count])
        assert write is not None
        if write.sectors > 1:
            partly[write.number] = ((0, 1 + dice.below(write.sectors - 1)),)
    return _state(span, whole, partly)


def _random(span: Range, log: WriteLog, dice: Dice, torn: bool) -> CrashState:
    whole: list[Range] = []
    partly: dict[int, tuple[Range, ...]] = {}
    for write in log:
        kind = dice.below(3 if torn and write.sectors > 1 else 2)
        if kind == 1:
            whole.append((write.number, write.number))
        elif kind == 2:
            low = dice.below(write.sectors)
            high = low + 1 + dice.below(write.sectors - low)
            if high - low == write.sectors:
                whole.append((write.number, write.number))
            else:
                partly[write.number] = ((low, high),)
    return _state(span, whole, partly)


def enumerated(log: WriteLog, limit: int, *, torn: bool) -> list[CrashState]:
    """Return states to walk, at most `limit` (> 0).

    All that are possible, if they are few enough, one for each contents; with `torn`
    also those with parts of writes.  Otherwise a sample: nothing and everything, each
    write lost alone, each kept alone, each prefix, each tear (the first sectors of a
    write after all earlier ones, and its last sectors beside all others); then subsets
    at random.  Of a sample that is larger than `limit` each of these kinds has its
    share, evenly spread.
    """
    span = _span(log)
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
        state = _state(span, [(number, number) for number in kept])
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
    return _state(span, whole, torn)


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
    dice = Dice(len(log))
    for _ in range(2 * (limit - len(seen)) if total <= limit else 0):
        state = _random(span, log, dice, torn)
        if state not in seen and len(seen) < limit:
            seen.add(state)
            yield state


def _groups(span: Range, log: WriteLog, torn: bool) -> list[Group]:
    first, last = span
    numbers = log.numbers
    writes = list(log)

    def alone(at: int) -> CrashState:
        return _state(span, [(numbers[at], numbers[at])])

    def lost(at: int) -> CrashState:
        return _state(span, [(first, numbers[at] - 1), (numbers[at] + 1, last)])

    def prefix(at: int) -> CrashState:
        return _state(span, [(first, numbers[at])])

    # The tears of all writes, one after the other: where those of each write begin.
    begins = [0]
    for write in writes:
        begins.append(begins[-1] + write.sectors - 1)

    def torn_at(at: int) -> tuple[Write, int]:
        which = bisect_left(begins, at + 1) - 1
        return writes[which], at - begins[which] + 1

    def begun(at: int) -> CrashState:
        write, cut = torn_at(at)
        return _state(span, [(first, write.number - 1)], {write.number: ((0, cut),)})

    def ended(at: int) -> CrashState:
        write, cut = torn_at(at)
        others = [(first, write.number - 1), (write.number + 1, last)]
        return _state(span, others, {write.number: ((cut, write.sectors),)})

    ends: list[Group] = [(1, lambda _: CrashState(*span)), (1, lambda _: _state(span, [span]))]
    count = len(numbers)
    groups: list[Group] = [*ends, (count, lost), (count, alone), (count, prefix)]
    if torn:
        groups += [(begins[-1], begun), (begins[-1], ended)]
    return [(many, make) for many, make in groups if many]
