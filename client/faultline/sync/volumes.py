# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/volumes.py.
"""A thin volume: a file of limited physical size, as a volume of LVM on shared storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from faultline.sizes import Size, size_of
from faultline.sync.lent import Lent
from faultline.sync.session import Session
from faultline.wire import wire_names


class Volume:
    """The volume under a node, or under the drive of that id.

    >>> thin = Drive(size="8M", id="vda", options={"file.x-physical-size": 1 << 20})
    >>> with Machine(thin) as m:
    ...     m.volume("vda").extend(add="1M")
    ...     print(m.volume("vda").info()["physical-size"])
    2097152
    """

    def __init__(self, session: Session, node: str) -> None:
        self._session = session
        self.node = node

    def info(self) -> dict[str, Any]:
        """Return the volume as x-query-volumes has it; raises CommandError if there is none."""
        (volume,) = self._session.execute("x-query-volumes", {"node-name": self.node})
        return dict(volume)

    def extend(
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
        self._session.execute("x-volume-extend", given, timeout=timeout)

    def responder(self, **members: Any) -> Responder:
        """Let the machine play the volume's manager; the end of a block ends that.

        `members` are those of x-volume-responder, with ``_`` for ``-``.

        >>> thin = Drive(size="8M", id="vda", options={"file.x-physical-size": 1 << 20})
        >>> with Machine(thin) as m:
        ...     with m.volume("vda").responder(chunk=1 << 20, percent=50):
        ...         print("responder" in m.volume("vda").info())
        ...     print("responder" in m.volume("vda").info())
        True
        False
        """
        return Responder.begin(self._session, self.node, members)


class Responder(Lent):
    """A volume's manager that the machine plays, until it is told to stop.

    >>> thin = Drive(size="8M", id="vda", options={"file.x-physical-size": 1 << 20})
    >>> with Machine(thin) as m:
    ...     manager = m.volume("vda").responder(latency_min_ms=100)
    ...     manager.stop()
    """

    def __init__(self, session: Session, node: str) -> None:
        self._session = session
        self.node = node

    @classmethod
    def begin(cls, session: Session, node: str, members: Mapping[str, Any]) -> Self:
        """Begin to play the manager of the volume under a node; raises CommandError."""
        session.execute(
            "x-volume-responder", {"node-name": node, **wire_names(members)}
        )
        return cls(session, node)

    def stop(self) -> None:
        """Play the manager no more; raises CommandError if the volume is gone."""
        members = {"node-name": self.node, "enable": False}
        self._session.execute("x-volume-responder", members)

    def _take_away(self) -> None:
        self.stop()
