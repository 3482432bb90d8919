"""A guest whose server is going to be killed, and what must be there afterwards."""

from __future__ import annotations

import random

import nbd
from live import Flight

SECTOR = 512
SIZE = 4 << 20
LEAKS_ONLY = 3
"""The exit status of `qemu-img check` that has found nothing worse."""


class Guest:
    """Writes and zeroes at random on one drive of `SIZE` bytes.

    `flushed` is the content at the last flush that was answered; `since` are
    the sectors touched after it, which may have any content.
    """

    def __init__(self, rng: random.Random, handle: nbd.NBD, content: bytes) -> None:
        self.rng = rng
        self.handle = handle
        self.now = bytearray(content)
        self.flushed = content
        self.since: set[int] = set()

    def write(self, flight: Flight, most: int) -> None:
        """Up to `most` requests that do not overlap."""
        busy: set[int] = set()
        for _ in range(self.rng.randrange(1, most + 1)):
            count = self.rng.choice([1, 3, 8, 40, 200])
            first = self.rng.randrange(SIZE // SECTOR - count)
            sectors = set(range(first, first + count))
            if not busy.isdisjoint(sectors):
                continue
            busy |= sectors
            offset, length = first * SECTOR, count * SECTOR
            data = self.rng.choice([bytes(length), *[self.rng.randbytes(length)] * 4])
            if any(data):
                flight.write(self.handle, offset, data)
            else:
                flight.send(self.handle, "zero", length, offset)
            self.now[offset : offset + length] = data
        self.since |= busy

    def has_flushed(self) -> None:
        self.flushed, self.since = bytes(self.now), set()

    def lost(self, content: bytes) -> list[int]:
        """The sectors that are not what they were when they were flushed."""
        return [
            sector
            for sector in range(SIZE // SECTOR)
            if sector not in self.since
            and content[sector * SECTOR : (sector + 1) * SECTOR]
            != self.flushed[sector * SECTOR : (sector + 1) * SECTOR]
        ]
