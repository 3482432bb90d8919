# SPDX-License-Identifier: MIT
"""Data from one node to another: a read and a write, or the shortcut."""

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
    """Copies parts of `source` to the same places of `target`; `most` bytes are usual."""

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
        """Raises SourceError, or OSError if it was the target that failed."""
        shortcut = self._shortcut(offset, length)
        if shortcut is not None:
            _, error = await shortcut.copy(((offset, length),))
            if error is not None:
                raise error
            return
        buffer = self._buffers.take(length)
        try:
            with of_source():
                await self._source.pread(offset, buffer[:length])
            await self._target.pwrite(offset, buffer[:length])
        finally:
            self._buffers.put_back(buffer)

    def has_shortcut(self, offset: int, length: int) -> bool:
        """Whether to read and write a part, and to ask what it is, concerns nobody now."""
        shortcut = self._shortcut(offset, length)
        return shortcut is not None and not shortcut.has_rules

    async def copy_all(self, parts: Sequence[Part]) -> Copied:
        """Copy one part after the other, until one fails, whose error is as `copy` raises it."""
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
        """Return the shortcut, if what is to be read and written there concerns nobody now."""
        if offset + length > min(self._source.size, self._target.size):
            return None
        concerns = self._host.concerns
        if self._concerns != concerns:
            self._found = find_shortcut(self._source, self._target, self._buffers)
            self._concerns = concerns
        shortcut = self._found
        return shortcut if shortcut is not None and shortcut.is_open(offset, length) else None
