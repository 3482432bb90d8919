# SPDX-License-Identifier: MIT
"""Writing of changed tables to the file, in an order that survives a crash at any point.

The last step of that order frees clusters that nothing refers to any more.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from blockcore.nodes.drivers.qcow2.grace import Grace, Mark
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.refcount import Refcounts
from blockcore.qapi.names import BlkdebugEvent
from blockcore.qapi.record import dataclass

MAX_DIRTY_BYTES = 4 << 20
"""Bytes of changed L2 tables from which on they are written without a guest's flush.

More would keep more memory and make a flush longer, less would flush the file
more often during writes.
"""

MAX_FREED = 4096
"""Number of runs of freed clusters from which on they are freed without a guest's flush.

It bounds memory, and the file's growth by clusters that could be used again.
"""


class Discard(Enum):
    """The reason why clusters become free: it decides whether they are discarded in the file."""

    ALWAYS = "always"
    REQUEST = "request"
    OTHER = "other"


@dataclass(slots=True)
class Freed:
    """A run of `count` clusters from `first` on that lost a reference each.

    `mark` is the moment when they lost it in memory; `written` tells whether the
    file has lost it as well.
    """

    first: int
    count: int
    mark: Mark
    discard: Discard
    written: bool = False


class WriteBack:
    """The changes that are in memory only, and the clusters that wait to be free.

    `passes_discard` tells for which reasons clusters are discarded in the file.
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
        """Note that `count` clusters have just lost a reference in the tables in memory.

        Call this right after the entry was overwritten (`Grace.mark`).
        """
        self.image.event(BlkdebugEvent.CLUSTER_FREE)
        last = self._freed[-1] if self._freed else None
        mark = self.grace.mark()
        if last and last.first + last.count == first and last.mark == mark:
            if not last.written and last.discard is discard:
                last.count += count
                return
        self._freed.append(Freed(first, count, mark, discard))

    def give_back(self, first: int, count: int) -> None:
        """Note clusters that were allocated, but that no table refers to and no I/O uses."""
        self.image.event(BlkdebugEvent.CLUSTER_FREE)
        self._returned.append((first, count))

    async def take_back(self) -> None:
        """Free the clusters that were given back, so that a retried write finds them again.

        On OSError, the rest stays noted.
        """
        while self._returned:
            first, count = self._returned.pop()
            for done in range(count):
                try:
                    await self.refcounts.drop(first + done)
                except Exception:
                    self._returned.append((first + done, count - done))
                    raise

    async def reclaim(self, *, everything: bool = False) -> None:
        """Free clusters whose reference is gone from the file and from all requests.

        With `everything`, requests are not asked: the image is being closed and no
        request is left.  The caller holds the image's lock.  On OSError, the rest
        stays for the next time.
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
        """Discard freed clusters in the file if the settings ask for it; errors are ignored."""
        if not count or not self._passes_discard(reason):
            return
        bits = self.image.cluster_bits
        try:
            await self.image.file.discard(first << bits, count << bits)
        except OSError:
            return

    async def limit(self) -> None:
        """Write back if much has changed; the caller holds the image's lock."""
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
        """Whether `limit` or `take_back` has work to do."""
        return bool(self._returned) or self._is_much

    async def run(self, *, everything: bool = False) -> None:
        """Write all changes; the caller holds the image's lock.

        1. Free clusters whose references are gone, then write the refcount blocks, in
           which new clusters are counted.
        2. A flush, also for guest data in these clusters; then the L2 tables as they
           were before the flush.
        3. A flush, then L1 entries.
        4. A flush: freed clusters have lost their references in the file as well, and
           are freed as soon as no request uses them.

        On OSError, everything that was not written stays marked as changed, and the
        next run begins again.
        """
        if self.image.unusable:
            return
        await self.take_back()
        await self.reclaim(everything=everything)
        await self.refcounts.write_back()
        # Requests may link clusters while this coroutine awaits: their data may not be in the
        # file when the flush begins.  The snapshots leave them for the next run.
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
        """Write and free everything, because the image is about to be closed; raise OSError."""
        while self.refcounts.dirty or self._freed or self._returned or self._tables_dirty():
            if self.image.unusable:
                return
            await self.run(everything=True)

    def _tables_dirty(self) -> bool:
        return bool(self.mapping.l1_changed or self.mapping.tables.changed)
