# SPDX-License-Identifier: MIT
"""Which clusters of the file hold metadata, and what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

SHARD_MASK: Final = 15
"""Of a cluster's number, says which shard it is in.

A dict that grows is copied at one go, while no other thread runs Python: one
of 4 Mi entries for a tenth of a second.
"""

LARGE: Final = 100_000
"""Entries: to free them takes 3 ms."""


class Metadata:
    """The clusters that hold metadata (their numbers in the file), with QEMU's words for it.

    One entry per cluster of a table, so at most 5 Mi with the largest tables
    that the format allows.
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
        """Whether any of `count` clusters holds metadata."""
        return any(cluster in self for cluster in range(first, first + count))

    def claim(self, cluster: int, what: str) -> str | None:
        """Say that a cluster holds metadata; what it holds already, if that is so."""
        shard = self.shards[cluster & SHARD_MASK]
        other = shard.get(cluster)
        if other is None:
            shard[cluster] = what
        return other

    def is_large(self) -> bool:
        """Whether to be rid of it takes a while."""
        return sum(map(len, self.shards)) > LARGE

    def clear(self) -> None:
        """Forget it all, a shard at a time, between which others run."""
        for shard in self.shards:
            shard.clear()

    def release(self, cluster: int) -> None:
        """It does not hold metadata any more."""
        self.shards[cluster & SHARD_MASK].pop(cluster, None)
