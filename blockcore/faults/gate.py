# SPDX-License-Identifier: MIT
"""Where fault rules can strike, so that all other requests may pass unseen."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Gate:
    """Byte ranges that some rule concerns, as sorted disjoint intervals.

    Lets a request that no rule can concern pass in one bisection, however
    many rules there are.
    """

    __slots__ = ("ends", "starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        for start, end in sorted(ranges):
            if self.ends and start <= self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
            else:
                self.starts.append(start)
                self.ends.append(end)

    def __bool__(self) -> bool:
        return bool(self.starts)

    def touches(self, offset: int, nbytes: int) -> bool:
        """Whether [offset, offset + nbytes) meets one of the ranges."""
        index = bisect_right(self.starts, offset + nbytes - 1)
        return index > 0 and self.ends[index - 1] > offset

    def union(self, other: Gate, shift: int = 0) -> Gate:
        """Both together, with `other` moved up by `shift` bytes."""
        if not other:
            return self
        if not self and not shift:
            return other
        moved = ((s + shift, e + shift) for s, e in zip(other.starts, other.ends, strict=True))
        return Gate([*zip(self.starts, self.ends, strict=True), *moved])


EVERYWHERE = Gate([(0, 1 << 63)])
"""Nothing passes."""
