# SPDX-License-Identifier: MIT
"""The set of clusters of the file that hold metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

SHARD_MASK: Final = 15
"""The bits of a cluster's number that select its shard.

A dict that grows is copied in one step, during which no other thread runs Python:
at 4 Mi entries for a tenth of a second.  Sixteen dicts grow one at a time.
"""

LARGE: Final = 100_000
"""Number of entries that take 3 ms to free; more are freed without the big lock."""


class Metadata:
    """Numbers of the clusters that hold metadata, with QEMU's words for it.

    There is one entry for each cluster of a table, at most 5 Mi with the largest
    tables that the format allows.
    """

    __slots__ = ("shards",)

    def __init__(self) -> None:
        self.shards: tuple[dict[int, str], ...] = tuple({} for _ in range(SHARD_MASK + 1))

    def __contains__(self, cluster: object) -> bool:
        assert isinstance(cluster, int)
        return cluster in self.shards[cluster & SHARD_MASK]

    def __getitem__(self, cluster: int) -> str:
        return self.shards[cluster & SHARD_MASK][cluster]

    def __iter__(self) -> Iterator[int]:
        for shard in self.shards:
            yield from shard

    def touches(self, first: int, count: int) -> bool:
        """Tell whether any of `count` clusters from `first` on holds metadata."""
        return any(cluster in self for cluster in range(first, first + count))

    def claim(self, cluster: int, what: str) -> str | None:
        """Enter a cluster, and return None; if it is entered already, return as what."""
        shard = self.shards[cluster & SHARD_MASK]
        other = shard.get(cluster)
        if other is None:
            shard[cluster] = what
        return other

    def is_large(self) -> bool:
        """Tell whether freeing the entries takes long enough to do it without the big lock."""
        return sum(map(len, self.shards)) > LARGE

    def clear(self) -> None:
        """Remove all entries, one shard at a time: between shards other threads run."""
        for shard in self.shards:
            shard.clear()

    def release(self, cluster: int) -> None:
        """Remove a cluster that no longer holds metadata."""
        self.shards[cluster & SHARD_MASK].pop(cluster, None)
