# SPDX-License-Identifier: MIT
"""The states of a medium after a crash: names for them, and a choice.

A state says which of a log's writes the medium has got.  Its name says the same, so
that the state can be had again: `FIRST-LAST:KEPT`, where the log has the writes FIRST
to LAST, and KEPT is `none`, `all`, or numbers and ranges of writes joined by ``+``.
Behind a dot come the sectors of a write that the medium has, counted from the
write's first sector: ``1-8:1-4+6.0-2.7`` has the writes 1 to 4, and of write 6 the
sectors 0 to 2 and 7.  Later writes than LAST are lost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from blockcore.faults.dice import Dice
from blockcore.faults.options import SECTOR_SIZE
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.rules.extents import Range, Segment, without
from blockcore.rules.write_log import WriteLog


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
        torn = sum(log.get(number) is not None for number, _ in self.torn)
        return kept, len(numbers) - kept - torn, torn

    def without(self, log: WriteLog, gone: Iterable[Range]) -> CrashState:
        """Return the state whose writes are not on the medium in some ranges of bytes."""
        left = self
        for start, end in gone:
            left = left._without(log, start // SECTOR_SIZE, -(-end // SECTOR_SIZE))
        return left

    def _without(self, log: WriteLog, low: int, high: int) -> CrashState:
        """Return the state without some sectors of the disk."""
        whole, torn = self.whole, dict(self.torn)
        for write in log:
            first, number = write.offset // SECTOR_SIZE, write.number
            if first + write.sectors <= low or high <= first:
                continue
            if number in torn:
                had = torn.pop(number)
            elif any(start <= number <= end for start, end in whole):
                had = ((0, write.sectors),)
                whole = tuple(_except(whole, number))
            else:
                continue
            rest = tuple(without(had, low - first, high - first))
            if rest:
                torn[number] = rest
        return state_of((self.first, self.last), whole, torn)


def _except(whole: Iterable[Range], number: int) -> Iterator[Range]:
    """Yield ranges of numbers, both ends included, without one number."""
    for low, high in whole:
        rest = without([(low, high + 1)], number, number + 1)
        yield from ((start, end - 1) for start, end in rest)


def _run(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _count(numbers: Sequence[int], low: int, high: int) -> int:
    return bisect_left(numbers, high + 1) - bisect_left(numbers, low)


def state_named(name: str, log: WriteLog) -> CrashState:
    """Return the state of a name; raise QmpError if there is no such state of the log.

    `none` and `all` without numbers are of the log as it is.
    """
    span_text, colon, kept = name.rpartition(":")
    span, given = span_of(log), _numbers(span_text)
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
        return state_of(span, [span])
    return state_of(span, *_kept(name, filter(None, items), span, log))


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


def span_of(log: WriteLog) -> Range:
    """Return the numbers of the first and the last write that a state of a log is about."""
    return (log.oldest().number if len(log) else log.last + 1), log.last


def state_of(
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


class Refused(NamedTuple):
    """Bytes that the medium has not got after a power cut, and why."""

    start: int
    end: int
    reason: str


class Left(NamedTuple):
    """What a power cut has left of a cache's writes.

    `counts` are those kept, dropped and torn; `refused` is what the medium did not take.
    """

    state: CrashState
    counts: tuple[int, int, int]
    refused: list[Refused]


def chosen(log: WriteLog, keep: CrashKeep, *, torn: bool, dice: Dice) -> CrashState:
    """Return a state by its kind; `dice` decide how long a prefix is, and what is random.

    With `torn`, a prefix ends within a write, and random writes are lost in part.
    Raise QmpError if `torn` makes no sense.
    """
    if torn and keep in (CrashKeep.NONE, CrashKeep.ALL):
        raise QmpError(f"Parameter 'torn' has no meaning with keep={keep}")
    span, numbers = span_of(log), log.numbers
    if keep is CrashKeep.NONE or not numbers:
        return CrashState(*span)
    if keep is CrashKeep.ALL:
        return state_of(span, [span])
    if keep is CrashKeep.RANDOM:
        return at_random(span, sizes_of(log), dice, torn)
    count = dice.below(len(numbers) + 1)
    whole = [(span[0], numbers[count - 1])] if count else []
    partly: dict[int, tuple[Range, ...]] = {}
    if torn and count < len(numbers):
        write = log.get(numbers[count])
        assert write is not None
        if write.sectors > 1:
            partly[write.number] = ((0, 1 + dice.below(write.sectors - 1)),)
    return state_of(span, whole, partly)


def at_random(
    span: Range, sizes: Iterable[tuple[int, int]], dice: Dice, torn: bool
) -> CrashState:
    """Return a state with some writes of these `sizes_of`; with `torn` also parts of them."""
    whole: list[Range] = []
    partly: dict[int, tuple[Range, ...]] = {}
    for number, sectors in sizes:
        kind = dice.below(3 if torn and sectors > 1 else 2)
        if kind == 1:
            whole.append((number, number))
        elif kind == 2:
            low = dice.below(sectors)
            high = low + 1 + dice.below(sectors - low)
            if high - low == sectors:
                whole.append((number, number))
            else:
                partly[number] = ((low, high),)
    return state_of(span, whole, partly)


def sizes_of(log: WriteLog) -> list[tuple[int, int]]:
    """Return the number of each write, and how many sectors it has."""
    return [(write.number, write.sectors) for write in log]
