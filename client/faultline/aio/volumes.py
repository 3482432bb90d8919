# SPDX-License-Identifier: MIT
"""A thin volume: a file of limited physical size, as a volume of LVM on shared storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from faultline.aio.doing import Doing
from faultline.aio.lent import Lent
from faultline.aio.session import Session
from faultline.sizes import Size, size_of
from faultline.wire import wire_names


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
        given = wire_names(
            {
                "node_name": self.node,
                "size": size_of(size),
                "add": size_of(add),
                "latency_ms": latency_ms,
                "errno": errno,
            }
        )
        await self._session.execute("x-volume-extend", given, timeout=timeout)

    def responder(self, **members: Any) -> Doing[Responder]:
        """Let the machine play the volume's manager; the end of a block ends that.

        `members` are those of x-volume-responder, with ``_`` for ``-``.

        >>> thin = Drive(size="8M", id="vda", options={"file.x-physical-size": 1 << 20})
        >>> async with Machine(thin) as m:
        ...     async with m.volume("vda").responder(chunk=1 << 20, percent=50):
        ...         print("responder" in await m.volume("vda").info())
        ...     print("responder" in await m.volume("vda").info())
        True
        False
        """
        return Doing(Responder.begin(self._session, self.node, members))


class Responder(Lent):
    """A volume's manager that the machine plays, until it is told to stop.

    >>> thin = Drive(size="8M", id="vda", options={"file.x-physical-size": 1 << 20})
    >>> async with Machine(thin) as m:
    ...     manager = await m.volume("vda").responder(latency_min_ms=100)
    ...     await manager.stop()
    """

    def __init__(self, session: Session, node: str) -> None:
        self._session = session
        self.node = node

    @classmethod
    async def begin(cls, session: Session, node: str, members: Mapping[str, Any]) -> Self:
        """Begin to play the manager of the volume under a node; raises CommandError."""
        await session.execute(
            "x-volume-responder", {"node-name": node, **wire_names(members)}
        )
        return cls(session, node)

    async def stop(self) -> None:
        """Play the manager no more; raises CommandError if the volume is gone."""
        members = {"node-name": self.node, "enable": False}
        await self._session.execute("x-volume-responder", members)

    async def _take_away(self) -> None:
        await self.stop()
