# SPDX-License-Identifier: MIT
"""A volume of limited physical size under a file, as a logical volume is under an image.

The limit is on offsets: bytes below `physical_size` can be written, wherever
they are, and bytes at or above it cannot, even where the file has data or holes
there.  So it is for an image that grows into its volume, and for a raw image on
one.  It concerns what allocates, writes and write-zeroes.  Discards pass, since
they give back, and reads do: what cannot have been written reads as zeroes.

A request that reaches beyond the limit fails with ENOSPC and leaves everything
as it was; with `short_write` the part that fits is applied first.
"""

from __future__ import annotations

import errno

from blockcore.faults.gate import Gate
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError
from blockcore.rules.ranges import align_up

_END = 1 << 63


class Volume:
    """How far a file may be written.  Sizes in bytes; extents are what sizes are rounded up to.

    `demand` is the highest end of any write that was asked for, `refusals`
    counts those that failed.
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
        """`size` in whole extents."""
        return align_up(size, self.extent_size)

    def room(self, offset: int, length: int) -> int:
        """How many bytes of a request, from its beginning, are to be applied.

        If that is less than `length`, the request fails with `refusal` after it.
        """
        self.demand = max(self.demand, offset + length)
        if offset + length <= self.physical_size:
            return length
        return max(self.physical_size - offset, 0) if self.short_write else 0

    def refusal(self) -> OSError:
        """The outcome of a request that does not fit; counts it."""
        self.refusals += 1
        return failure(errno.ENOSPC)

    def gate(self) -> Gate:
        """Where writes have to ask."""
        return Gate([(self.physical_size, _END)])

    def extend(self, size: int) -> bool:
        """Grow to `size`, in whole extents; a volume never shrinks.  Whether it has grown."""
        size = self.rounded(size)
        if size <= self.physical_size:
            return False
        self.physical_size = size
        self.extensions += 1
        return True


def make_volume(
    physical_size: int | None, extent_size: int | None, short_write: bool | None
) -> Volume | None:
    """The volume that the options of a `file` node describe, if any; QmpError if they are wrong."""
    if physical_size is None:
        for name, value in (("x-extent-size", extent_size), ("x-short-write", short_write)):
            if value is not None:
                raise QmpError(f"'{name}' cannot be used without 'x-physical-size'")
        return None
    if extent_size == 0:
        raise QmpError("Parameter 'x-extent-size' expects a value greater than zero")
    return Volume(physical_size, extent_size or 1, short_write=bool(short_write))
