# SPDX-License-Identifier: MIT
"""Which rules leave no request to a later one, because the first that matches decides."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from blockcore.faults.options import PLACELESS, FaultOptions, FaultOrigin
from blockcore.faults.rule import FaultRule
from blockcore.qapi.names import BlkdebugEvent, FaultIOType

END = 1 << 63
"""The end of a range that reaches to the end of the node, whatever its size."""


class _Range(NamedTuple):
    start: int
    end: int
    id: str


def _start_of(found: _Range) -> int:
    return found.start


def _end_of(found: _Range) -> int:
    return found.end


class Takers:
    """The rules in force that take all requests of a kind, place and origin, in order.

    Only those count for which this is certain: no chance, count or time decides
    about what they hit.  Of ranges one of which is in the other the wider one is kept, so that
    those of a key have their starts and their ends in the same order.
    """

    def __init__(self) -> None:
        self._ranges: dict[tuple[Any, ...], list[_Range]] = {}

    def add(self, rule: FaultRule) -> None:
        """Add a rule, behind those that are there."""
        options = rule.options
        if rule.exhausted or not _takes_all(options):
            return
        start, end = _range(rule)
        for kind in options.iotypes:
            if kind in PLACELESS and rule.start is not None:
                continue
            key = (kind, _origin(options), options.connection, options.fua, options.state)
            ranges = self._ranges.setdefault(key, [])
            if _covering(ranges, start, end) is None:
                first = bisect_right(ranges, start - 1, key=_start_of)
                beyond = bisect_right(ranges, end, key=_end_of)
                del ranges[first:beyond]
                insort(ranges, _Range(start, end, options.id or ""))

    def of(self, rule: FaultRule) -> list[str]:
        """Return the ids of the rules that take all requests which a rule matches.

        An empty list if it may hit some, or is about none.
        """
        options = rule.options
        if options.event is not BlkdebugEvent.NONE:
            return []  # its turn comes before that of rules without an event
        placed = rule.start is not None
        kinds = sorted(options.iotypes - PLACELESS if placed else options.iotypes)
        found = [self._taker(rule, kind) for kind in kinds]
        if any(one is None for one in found):
            return []
        return list(dict.fromkeys(one for one in found if one is not None))

    def _taker(self, rule: FaultRule, kind: FaultIOType) -> str | None:
        start, end = _range(rule)
        for key in _keys(rule.options, kind):
            if key in self._ranges:
                found = _covering(self._ranges[key], start, end)
                if found is not None:
                    return found.id
        return None


def covers(rule: FaultRule, other: FaultRule) -> bool:
    """Return whether the range of a rule has that of another one in it."""
    if rule.start is None:
        return True
    start, end = _range(other)
    return rule.start <= start and rule.end >= end


def _takes_all(options: FaultOptions) -> bool:
    """Return whether a rule hits everything that it matches, as long as it is there."""
    cls = type(options)
    return (
        options.event is BlkdebugEvent.NONE
        and (options.after, options.every, options.hits_max) == (0, 1, None)
        and options.rate >= 1.0
        and not options.has_times
        and options.while_file is None
        and cls.strikes is FaultOptions.strikes
    )


def _origin(options: FaultOptions) -> FaultOrigin:
    """Return whose requests a rule matches, which for some kinds are a guest's only."""
    only_guests = not options.is_of(0)
    return FaultOrigin.GUEST if only_guests else options.origin


def _keys(options: FaultOptions, kind: FaultIOType) -> Iterator[tuple[Any, ...]]:
    """Yield the keys of rules that match whatever these options match."""
    origin = _origin(options)
    return product(
        (kind,),
        dict.fromkeys((FaultOrigin.ANY, origin)),
        dict.fromkeys((None, options.connection)),
        dict.fromkeys((None, options.fua)),
        dict.fromkeys((0, options.state)),
    )


def _range(rule: FaultRule) -> tuple[int, int]:
    return (0, END) if rule.start is None else (rule.start, rule.end)


def _covering(ranges: list[_Range], start: int, end: int) -> _Range | None:
    """Return one of the ranges that another range is in."""
    # Of those that begin early enough, the last one ends last.
    at = bisect_right(ranges, start, key=_start_of)
    return ranges[at - 1] if at and ranges[at - 1].end >= end else None
