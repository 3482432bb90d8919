# SPDX-License-Identifier: MIT
"""Bringing changed tables to the file, in an order that survives a crash at any point.

Also: giving clusters back that nothing refers to any more, which is the last
step of that order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from blockcore.nodes.drivers.qcow2.grace import Grace, Mark
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.refcount import Refcounts
from blockcore.qapi.names import BlkdebugEvent

MAX_DIRTY_BYTES = 4 << 20
"""More bytes of changed L2 tables than this are written without waiting for a flush."""

MAX_FREED = 4096
"""More runs of clusters than this do not wait for a flush to be free."""


class Discard(Enum):
    """Why clusters become free, which decides whether they are discarded in the file."""

    ALWAYS = "always"
    REQUEST = "request"
    OTHER = "other"


@dataclass(slots=True)
class Freed:
    """`count` clusters from `first` on lost a reference each; `mark` says when.

    `written` is true once the file does not have the reference any more.
    """

    first: int
    count: int
    mark: Mark
    discard: Discard
    written: bool = False


class WriteBack:
    """What has changed in memory only, and the clusters that wait to be free.

    `passes_discard` says for what reasons clusters are discarded in the file.
    """

    def __init__(
        self,
        image: Image,
        refcounts: Refcounts,
        mapping: Mapping,
        grace: Grace,
        passes_discard: Callable[[Discard], bool],
    ) -> None:
        self.image = image
        self.refcounts = refcounts
        self.mapping = mapping
        self.grace = grace
        self._passes_discard = passes_discard
        self._freed: list[Freed] = []
        self._returned: list[tuple[int, int]] = []
        self._max_dirty = max(1, MAX_DIRTY_BYTES >> image.cluster_bits)

    def free(self, first: int, count: int, discard: Discard = Discard.OTHER) -> None:
        """References to clusters have just gone from the tables in memory."""
        self.image.event(BlkdebugEvent.CLUSTER_FREE)
        last = self._freed[-1] if self._freed else None
        mark = self.grace.mark()
        if last and last.first + last.count == first and last.mark == mark:
            if not last.written and last.discard is discard:
                last.count += count
                return
        self._freed.append(Freed(first, count, mark, discard))

    def give_back(self, first: int, count: int) -> None:
        """Clusters that were allocated but never referred to, and that nobody writes to."""
        self.image.event(BlkdebugEvent.CLUSTER_FREE)
        self._returned.append((first, count))

    async def take_back(self) -> None:
        """Free what was given back, so that a second attempt finds the same clusters."""
        while self._returned:
            first, count = self._returned.pop()
            for done in range(count):
                try:
                    await self.refcounts.drop(first + done)
                except Exception:
                    self._returned.append((first + done, count - done))
                    raise

    async def reclaim(self, *, everything: bool = False) -> None:
        """Free the clusters that can be; with `everything`, nobody else uses the image.

        The lock is held.  What fails is tried again the next time.
        """
        waiting: list[Freed] = []
        todo, self._freed = self._freed, waiting
        try:
            while todo:
                freed = todo[0]
                ended = everything or self.grace.over(freed.mark)
                if freed.written and ended:
                    await self._drop(freed)
                else:
                    waiting.append(freed)
                todo.pop(0)
        finally:
            self._freed[:0] = todo

    async def _drop(self, freed: Freed) -> None:
        start = freed.first
        while freed.count:
            last = await self.refcounts.drop(freed.first)
            freed.first += 1
            freed.count -= 1
            if not last:
                await self._discard(start, freed.first - 1 - start, freed.discard)
                start = freed.first
        await self._discard(start, freed.first - start, freed.discard)

    async def _discard(self, first: int, count: int, reason: Discard) -> None:
        """Free clusters are of no use to the file either; whether that works does not matter."""
        if not count or not self._passes_discard(reason):
            return
        bits = self.image.cluster_bits
        try:
            await self.image.file.discard(first << bits, count << bits)
        except OSError:
            return

    async def limit(self) -> None:
        """Write back if a lot has changed; the lock is held."""
        if self._is_much:
            await self.run()
            self.mapping.tables.trim()

    @property
    def _is_much(self) -> bool:
        tables = self.mapping.tables
        return (
            tables.changed > self._max_dirty
            or len(tables) > tables.limit
            or len(self._freed) > MAX_FREED
        )

    @property
    def is_due(self) -> bool:
        """Whether `limit` or `take_back` has something to do."""
        return bool(self._returned) or self._is_much

    async def run(self, *, everything: bool = False) -> None:
        """Write all that has changed; the lock is held.

        After an OSError what is not written is still marked as changed, and
        the next run begins again.
        """
        if self.image.unusable:
            return
        await self.take_back()
        await self.reclaim(everything=everything)
        await self.refcounts.write_back()
        # Requests under way may link clusters from here on: their data may not be there yet
        # when the flush begins, so they are left for the next time.
        new = [freed for freed in self._freed if not freed.written]
        tables = self.mapping.tables.snapshot()
        try:
            if tables or self.mapping.l1_changed:
                await self.image.file.flush()
        except Exception:
            for table, _ in tables:
                self.mapping.tables.mark(table)
            raise
        await self.mapping.tables.store(tables)
        if self.mapping.l1_changed:
            await self.image.file.flush()
            await self.mapping.write_l1()
        if new:
            await self.image.file.flush()
            for freed in new:
                freed.written = True
            await self.reclaim(everything=everything)

    async def finish(self) -> None:
        """Write everything, and free everything: the image is going to be closed."""
        while self.refcounts.dirty or self._freed or self._returned or self._tables_dirty():
            if self.image.unusable:
                return
            await self.run(everything=True)

    def _tables_dirty(self) -> bool:
        return bool(self.mapping.l1_changed or self.mapping.tables.changed)
