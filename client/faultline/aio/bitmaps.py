# SPDX-License-Identifier: MIT
"""A dirty bitmap of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from faultline.aio.lent import Lent
from faultline.aio.session import Session
from faultline.wire import wire_names


class Bitmap(Lent):
    """A bitmap, named by its node (or the drive's id) and its own name.

    The end of a block removes it; no error if the bitmap, or the machine, is gone by then.

    >>> async with Machine() as m:
    ...     async with m.bitmap("vda", "b0") as bitmap:
    ...         await bitmap.clear()
    """

    def __init__(self, session: Session, node: str, name: str) -> None:
        self._session = session
        self.node = node
        self.name = name

    @classmethod
    async def add(
        cls, session: Session, node: str, name: str, members: Mapping[str, Any]
    ) -> Self:
        """Add a bitmap; `members` are further ones of block-dirty-bitmap-add.

        Raises CommandError.
        """
        bitmap = cls(session, node, name)
        await bitmap._do("add", members)
        return bitmap

    async def _do(self, verb: str, members: Mapping[str, Any] | None = None) -> Any:
        named = {"node": self.node, "name": self.name, **wire_names(members or {})}
        return await self._session.execute(f"block-dirty-bitmap-{verb}", named)

    async def info(self) -> dict[str, Any]:
        """Return the bitmap as query-block has it; raises LookupError if it is gone."""
        for device in await self._session.execute("query-block"):
            inserted = device.get("inserted") or {}
            if self.node not in (device["device"], inserted.get("node-name")):
                continue
            for bitmap in inserted.get("dirty-bitmaps", ()):
                if bitmap.get("name") == self.name:
                    return dict(bitmap)
        for node in await self._session.execute("query-named-block-nodes", {"flat": True}):
            for bitmap in node.get("dirty-bitmaps", ()):
                if node["node-name"] == self.node and bitmap.get("name") == self.name:
                    return dict(bitmap)
        raise LookupError(f"there is no bitmap {self.name} on {self.node}")

    async def count(self) -> int:
        """Return how many bytes are dirty, in whole granules."""
        return int((await self.info())["count"])

    async def clear(self) -> None:
        """Mark everything as clean."""
        await self._do("clear")

    async def disable(self) -> None:
        """Let the bitmap take no more writes."""
        await self._do("disable")

    async def enable(self) -> None:
        """Let the bitmap take writes again."""
        await self._do("enable")

    async def merge(self, *others: str) -> None:
        """Mark what is dirty in other bitmaps of the node as dirty in this one, too."""
        await self._session.execute(
            "block-dirty-bitmap-merge",
            {"node": self.node, "target": self.name, "bitmaps": list(others)},
        )

    async def remove(self) -> None:
        """Remove the bitmap."""
        await self._do("remove")

    async def _take_away(self) -> None:
        await self.remove()
