# SPDX-License-Identifier: MIT
"""Both ways of plain I/O: the shortcut forced off, and forced on.

Off, no node has a way, so that everything is a coroutine's.  On, each read and
write of a drive or node tries the shortcut first, as guests' workers do
(`process.connection`), and those of all nodes below as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from blockcore.drive.block_backend import BlockBackend
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot

WAYS = ("shortcut off", "shortcut on")


class Counter:
    """How many requests the shortcut has done; none if it is off."""

    done = 0


def force(patch: pytest.MonkeyPatch, way: str) -> Counter:
    """Let all plain I/O go one way, as long as `patch` is in force."""
    counter = Counter()
    if way == "shortcut off":
        patch.setattr(BlockNode, "way", lambda *_: None)
        return counter
    for name in ("pread", "pwrite"):
        patch.setattr(BlockBackend, name, _of_drive(name, counter))
        patch.setattr(BlockNode, name, _of_node(name, counter))
    return counter


def _of_drive(name: str, counter: Counter) -> Callable[..., Awaitable[None]]:
    long_way, go = getattr(BlockBackend, name), getattr(GuestShortcut, name)
    slots: WeakKeyDictionary[BlockBackend, Slot] = WeakKeyDictionary()

    async def request(
        blk: BlockBackend, offset: int, buf: memoryview, *more: Any, **named: Any
    ) -> None:
        if more or named:
            await long_way(blk, offset, buf, *more, **named)
            return
        slot = slots.get(blk)
        if slot is None:
            slot = slots[blk] = Slot()
            blk.slots.append(slot)
        blk.renew_shortcut()
        tried: Tried = False
        try:
            tried = blk.shortcut is not None and go(blk.shortcut, slot, offset, buf)
        except OSError as exc:
            tried = exc
        if tried is True:
            counter.done += 1
        else:
            await long_way(blk, offset, buf, tried=tried)

    return request


def _of_node(name: str, counter: Counter) -> Callable[..., Awaitable[None]]:
    long_way, go = getattr(BlockNode, name), getattr(GuestShortcut, name)

    async def request(node: BlockNode, offset: int, buf: memoryview, **named: Any) -> None:
        way = node.way() if not any(named.values()) else None
        if way is None:
            await long_way(node, offset, buf, **named)
            return
        slot = Slot()
        if not go(GuestShortcut(way, node.size, node._host.clock), slot, offset, buf):
            await long_way(node, offset, buf, **named)
            return
        counter.done += 1
        if slot.wr_ops:
            way.traces.reached(slot.wr_highest)
            if way.translation is not None:
                way.translation.traces.reached(slot.wr_highest_below)

    return request
