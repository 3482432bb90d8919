# SPDX-License-Identifier: MIT
"""Moving data from one node to another: by a read and a write, or by the shortcut."""

from __future__ import annotations

from collections.abc import Sequence

from blockcore.jobs.shortcut import (
    Buffers,
    Copied,
    CopyShortcut,
    Part,
    find_shortcut,
)
from blockcore.jobs.sides import of_source
from blockcore.nodes.node import BlockNode
from blockcore.rules.host import Concerned


class DataCopier:
    """Copies parts of `source` to the same places of `target`.

    `most` is the usual length of a part at most, in bytes: the size of its buffers.
    """

    def __init__(
        self, host: Concerned, source: BlockNode, target: BlockNode, most: int
    ) -> None:
        self._host = host
        self._source = source
        self._target = target
        self._buffers = Buffers(most)
        self._concerns: int | None = None
        self._found: CopyShortcut | None = None

    async def copy(self, offset: int, length: int) -> None:
        """Copy one part; raise SourceError, or OSError if the target failed."""
        shortcut = self._shortcut(offset, length)
        if shortcut is not None:
            _, error = await shortcut.copy(((offset, length),))
            if error is not None:
                raise error
            return
        buffer = self._buffers.take(length)
        try:
            await of_source(self._source.pread(offset, buffer[:length]))
            await self._target.pwrite(offset, buffer[:length])
        finally:
            self._buffers.put_back(buffer)

    def has_shortcut(self, offset: int, length: int) -> bool:
        """Return whether a part may be looked at, read and written past the nodes now.

        No fault rule may be on the way, wherever it strikes: it may count questions for the
        block status.
        """
        shortcut = self._shortcut(offset, length)
        return shortcut is not None and not shortcut.has_rules

    async def copy_all(self, parts: Sequence[Part]) -> Copied:
        """Copy one part after the other; return how many, and the error of the next one.

        The error is a SourceError if the source failed.
        """
        shortcut = self._shortcut(*parts[0])
        if shortcut is not None and all(self._shortcut(*part) for part in parts[1:]):
            return await shortcut.copy(parts)
        for done, part in enumerate(parts):
            try:
                await self.copy(*part)
            except OSError as exc:
                return Copied(done, exc)
        return Copied(len(parts))

    def _shortcut(self, offset: int, length: int) -> CopyShortcut | None:
        """Return the shortcut, if a read and a write of this part may take it now."""
        if offset + length > min(self._source.size, self._target.size):
            return None
        # `concerns` is another number whenever something may forbid the shortcut.
        concerns = self._host.concerns
        if self._concerns != concerns:
            self._found = find_shortcut(self._source, self._target, self._buffers)
            self._concerns = concerns
        shortcut = self._found
        return shortcut if shortcut is not None and shortcut.is_open(offset, length) else None
