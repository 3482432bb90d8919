# SPDX-License-Identifier: MIT
"""A simple model of a drive with a volatile cache: what each sector may hold after a crash.

It keeps no log.  For each sector it has the set of all contents that are allowed, and
the contents that reads see.
"""

from __future__ import annotations

from itertools import product

SECTOR = 512


class CrashModel:
    """A drive of `sectors` sectors, which reads as zeroes at first."""

    def __init__(self, sectors: int) -> None:
        self.now = [bytes(SECTOR)] * sectors
        self.allowed = [{bytes(SECTOR)} for _ in range(sectors)]

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        """Write, not only whole sectors; with `fua` the bytes are there for certain."""
        for sector, (old, seen) in enumerate(zip(self.allowed, self.now, strict=True)):
            start = max(offset, sector * SECTOR)
            end = min(offset + len(data), (sector + 1) * SECTOR)
            if start >= end:
                continue
            low, part = start - sector * SECTOR, data[start - offset : end - offset]

            def patched(before: bytes, low: int = low, part: bytes = part) -> bytes:
                return before[:low] + part + before[low + len(part) :]

            new = {patched(each) for each in old}
            self.allowed[sector] = new if fua else old | new
            self.now[sector] = patched(seen)

    def flush(self) -> None:
        """Bring everything to the medium."""
        self.allowed = [{seen} for seen in self.now]

    def allows(self, disk: bytes) -> bool:
        """Tell whether a disk may hold this after a crash."""
        found = (disk[at : at + SECTOR] for at in range(0, len(disk), SECTOR))
        return all(one in may for one, may in zip(found, self.allowed, strict=True))

    def all_disks(self) -> set[bytes]:
        """Return every disk that is allowed: only for few."""
        return {b"".join(picked) for picked in product(*self.allowed)}
