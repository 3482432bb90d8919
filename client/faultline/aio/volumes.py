# SPDX-License-Identifier: MIT
"""A thin volume: a file of limited physical size, as a volume of LVM on shared storage."""

from __future__ import annotations

from typing import Any

from faultline.aio.session import Session
from faultline.sizes import Size, in_bytes


class Volume:
    """The volume under a node, or under the drive of that id.

    >>> thin = Drive(size="8M", id="vda", options={"file.x-physical-size": 1 << 20})
    >>> async with Machine(thin) as m:
    ...     await m.volume("vda").extend(add="1M")
    ...     print((await m.volume("vda").info())["physical-size"])
    2097152
    """

    def __init__(self, session: Session, node: str) -> None:
        self._session = session
        self.node = node

    async def info(self) -> dict[str, Any]:
        """Return the volume as x-query-volumes has it; raises CommandError if there is none."""
        (volume,) = await self._session.execute("x-query-volumes", {"node-name": self.node})
        return dict(volume)

    async def extend(
        self,
        size: Size | None = None,
        *,
        add: Size | None = None,
        latency_ms: int | None = None,
        errno: str | int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Let the volume grow to `size` bytes, or by `add` bytes.

        The call returns after `latency_ms`; with an `errno` it fails then, with
        CommandError, and the volume stays as it is.
        """
        members = {
            "node-name": self.node,
            "size": None if size is None else in_bytes(size),
            "add": None if add is None else in_bytes(add),
            "latency-ms": latency_ms,
            "errno": errno,
        }
        given = {name: value for name, value in members.items() if value is not None}
        await self._session.execute("x-volume-extend", given, timeout=timeout)

    async def responder(self, **members: Any) -> None:
        """Let the machine play the volume's manager; `members` are those of x-volume-responder."""
        given = {name.replace("_", "-"): value for name, value in members.items()}
        await self._session.execute("x-volume-responder", {"node-name": self.node, **given})
