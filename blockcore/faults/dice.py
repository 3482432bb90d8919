# SPDX-License-Identifier: MIT
"""Decisions that look random and can be repeated: by seed, rule, kind of request and place.

A decision about a request follows from the machine's seed, the rule, the kind
of request, the block that the request begins in, and how often requests of this
kind have begun in that block.  It does not depend on other blocks, so the same
work gets the same faults at any depth of its queue, however threads interleave.
Nor does it depend on a job beside the guest: requests of jobs are counted apart.
"""

from __future__ import annotations

from blockcore.qapi.names import FaultIOType

BLOCK = 4096
"""Bytes of a block; a request counts where it begins."""

BLOCKS_OF_PAGE = 4096
"""Blocks whose counts are kept together: a page, made when one of them is touched."""

MASK = (1 << 64) - 1

KINDS = {iotype: number for number, iotype in enumerate(FaultIOType)}


def mixed(value: int) -> int:
    """Return 64 bits in which each bit of `value` counts (splitmix64, Vigna's constants)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


class Dice:
    """A stream of numbers that follows from its state."""

    __slots__ = ("_state",)

    def __init__(self, state: int) -> None:
        self._state = state

    def number(self) -> int:
        """Return the next number of 64 bits."""
        self._state = mixed(self._state)
        return self._state

    def fraction(self) -> float:
        """Return the next number in [0, 1)."""
        return (self.number() >> 11) * 2.0**-53

    def below(self, limit: int) -> int:
        """Return the next number from 0 to `limit` - 1."""
        # As `mixed`, without the calls: lists of crash states throw these dice by the million.
        value = (self._state + 0x9E3779B97F4A7C15) & MASK
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
        self._state = value = value ^ value >> 31
        return value * limit >> 64

    def several(self, count: int, limit: int) -> set[int]:
        """Return `count` different numbers from 0 to `limit` - 1 (Floyd's method)."""
        found: set[int] = set()
        for top in range(limit - count, limit):
            number = self.below(top + 1)
            found.add(top if number in found else number)
        return found

    def octets(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        words = (self.number().to_bytes(8, "little") for _ in range(-(-count // 8)))
        return b"".join(words)[:count]


def key_of(text: str) -> int:
    """Return 64 bits that follow from a text."""
    key = 0xCBF29CE484222325
    for octet in text.encode():  # FNV-1a
        key = ((key ^ octet) * 0x100000001B3) & MASK
    return mixed(key)


class RuleDice:
    """The dice of one rule."""

    __slots__ = ("_key", "_touches")

    def __init__(self, seed: int, rule: str) -> None:
        self._key = key_of(f"{seed} {rule}")
        self._touches: dict[tuple[FaultIOType, bool, int], memoryview] = {}

    def touch(self, iotype: FaultIOType, offset: int, *, of_job: bool = False) -> Dice:
        """Return the dice of a request at `offset` (bytes), and count the request there.

        Counts are modulo 65,536, two bytes for each block of the pages that were
        touched: decisions repeat after that many requests to a block.
        """
        page, at = divmod(offset // BLOCK, BLOCKS_OF_PAGE)
        key = iotype, of_job, page
        counts = self._touches.get(key)
        if counts is None:
            counts = self._touches[key] = memoryview(bytearray(2 * BLOCKS_OF_PAGE)).cast("H")
        count = counts[at]
        counts[at] = (count + 1) & 0xFFFF
        return Dice(self._of(iotype, offset) ^ mixed(count << 1 | of_job))

    def place(self, iotype: FaultIOType, offset: int) -> Dice:
        """Return the dice of a place, the same at each request."""
        return Dice(mixed(self._of(iotype, offset)))

    def _of(self, iotype: FaultIOType, offset: int) -> int:
        return mixed(self._key ^ mixed((offset // BLOCK) << 4 | KINDS[iotype]))
