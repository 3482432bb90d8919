# SPDX-License-Identifier: MIT
"""A volume of limited physical size under a file, as a logical volume is under an image.

The limit is on offsets: bytes below `physical_size` can be written, and bytes
at or above it cannot, whether or not the file has data there.  This fits an
image that grows into its volume, and a raw image on a volume.  Only requests
that allocate are limited: writes and write-zeroes.  Discards pass, because
they release space.  Reads pass: what was never written reads as zeroes.

A request that reaches beyond the limit fails with ENOSPC and changes nothing.
With `short_write`, the part below the limit is written before the request fails.
"""

from __future__ import annotations

import errno

from blockcore.faults.gate import Gate
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError
from blockcore.rules.ranges import align_up

_END = 1 << 63
"""Beyond every offset that a request can have."""


class Volume:
    """A limit on how far a file may be written.

    All sizes are bytes; `physical_size` is a multiple of `extent_size`.
    `demand` is the highest end of any write so far, refused ones included;
    `refusals` and `extensions` are counters.
    """

    __slots__ = ("demand", "extensions", "extent_size", "physical_size", "refusals", "short_write")

    def __init__(
        self, physical_size: int, extent_size: int = 1, *, short_write: bool = False
    ) -> None:
        assert extent_size > 0
        self.extent_size = extent_size
        self.physical_size = self.rounded(physical_size)
        self.short_write = short_write
        self.demand = 0
        self.refusals = 0
        self.extensions = 0

    def rounded(self, size: int) -> int:
        """Return `size` rounded up to whole extents."""
        return align_up(size, self.extent_size)

    def room(self, offset: int, length: int) -> int:
        """Return how many bytes from the beginning of a write have to be written.

        If there are fewer than `length`, the caller writes them and then fails
        the request with `refusal()`.
        """
        self.demand = max(self.demand, offset + length)
        if offset + length <= self.physical_size:
            return length
        return max(self.physical_size - offset, 0) if self.short_write else 0

    def refusal(self) -> OSError:
        """Count a request that does not fit, and return its outcome, ENOSPC."""
        self.refusals += 1
        return failure(errno.ENOSPC)

    def gate(self) -> Gate:
        """Return the range that is beyond the limit, where a write has to ask `room`."""
        return Gate([(self.physical_size, _END)])

    def extend(self, size: int) -> bool:
        """Grow to `size` bytes, in whole extents, and return whether it grew; it never shrinks."""
        size = self.rounded(size)
        if size <= self.physical_size:
            return False
        self.physical_size = size
        self.extensions += 1
        return True


def make_volume(
    physical_size: int | None, extent_size: int | None, short_write: bool | None
) -> Volume | None:
    """Return the volume that the options of a `file` node describe, or None.

    Raises QmpError if the options contradict each other.
    """
    if physical_size is None:
        for name, value in (("x-extent-size", extent_size), ("x-short-write", short_write)):
            if value is not None:
                raise QmpError(f"'{name}' cannot be used without 'x-physical-size'")
        return None
    if extent_size == 0:
        raise QmpError("Parameter 'x-extent-size' expects a value greater than zero")
    return Volume(physical_size, extent_size or 1, short_write=bool(short_write))
