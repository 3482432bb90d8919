# SPDX-License-Identifier: MIT
"""Moving data from one file to another in one call, past the nodes over them.

What forbids a guest the shortcut forbids this one too (`BlockNode.way`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blockcore.bql.effects import LaneCall
from blockcore.jobs.sides import SourceError
from blockcore.nodes.drivers.file_io import read_all, write_all
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.way import Way

Part = tuple[int, int]
"""The offset and the length of a part, in bytes."""


class Copied(NamedTuple):
    """How many parts have been copied, in order, and the error of the next one.

    The error is a SourceError if the read failed.
    """

    parts: int
    error: OSError | None = None


class Buffers:
    """Buffers of `most` bytes, for the usual parts, kept for the next copy.

    Used by coroutines under the big lock and by threads without it: a pop and an
    append of a list are one step each.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[memoryview] = []

    def take(self, length: int) -> memoryview:
        """Return a buffer of at least `length` bytes, which the caller puts back."""
        try:
            buffer = self._free.pop()
        # Not asked beforehand: another thread may take the last one in between.
        except IndexError:
            buffer = memoryview(bytearray(self._most))
        return buffer if len(buffer) >= length else memoryview(bytearray(length))

    def put_back(self, buffer: memoryview) -> None:
        self._free.append(buffer)


class CopyShortcut:
    """The way from the file of `read` to the file of `write`, while nothing concerns either.

    One call reads and writes.  So there are no more buffers in use than threads, and
    what a buffer holds is still in a processor's cache when it is written.
    """

    def __init__(self, read: Way, write: Way, buffers: Buffers) -> None:
        self.has_rules = read.has_rules
        self._read = read
        self._write = write
        self._buffers = buffers
        self._lane = read.system.copying_to(write.system)
        self._gated = bool(read.read_gate or write.write_gate)

    def is_open(self, offset: int, length: int) -> bool:
        """Return whether no fault rule may hit the read or the write of a part."""
        if not self._gated:
            return True
        read, write = self._read.read_gate, self._write.write_gate
        return not (read.touches(offset, length) or write.touches(offset, length))

    async def copy(self, parts: Sequence[Part]) -> Copied:
        """Copy one part after the other, until one fails, and leave the nodes' traces.

        Called under the big lock, which the data is moved without.
        """
        read, write = self._read, self._write
        read.traces.read()
        copied: Copied = await LaneCall(self._lane, self._move_all, parts)
        done, error = copied
        # A write that has failed may have written a part of its data.
        touched = done if error is None or isinstance(error, SourceError) else done + 1
        for part in parts[:touched]:
            write.traces.wrote(*part)
        return copied

    def _move_all(self, parts: Sequence[Part]) -> Copied:
        """Copy the parts, without the big lock; several threads may be in here."""
        for done, part in enumerate(parts):
            try:
                self._move(*part)
            except OSError as exc:
                return Copied(done, exc)
        return Copied(len(parts))

    def _move(self, offset: int, length: int) -> None:
        read, write = self._read, self._write
        buffer = self._buffers.take(length)
        try:
            try:
                read_all(read.fd, buffer[:length], offset + read.shift)
            except OSError as exc:
                raise SourceError(exc.errno, exc.strerror) from None
            write_all(write.fd, buffer[:length], offset + write.shift)
        finally:
            self._buffers.put_back(buffer)


def find_shortcut(
    source: BlockNode, target: BlockNode, buffers: Buffers
) -> CopyShortcut | None:
    """Return the shortcut between two nodes; None if something concerns one of them."""
    read, write = _way(source), _way(target)
    return CopyShortcut(read, write, buffers) if read and write else None


def _way(node: BlockNode) -> Way | None:
    """Return the way to the file of a node whose requests need not wait for each other."""
    below: BlockNode | None = node
    while below is not None:
        # Requests of this node are tracked, so that overlapping ones wait for each other.
        if below.requests is not None:
            return None
        below = below.file or below.filtered
    return node.way()
