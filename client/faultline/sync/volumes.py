# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/volumes.py.
"""A thin volume: a file of limited physical size, as a volume of LVM on shared storage."""

from __future__ import annotations

from typing import Any

from faultline.sizes import Size, in_bytes
from faultline.sync.session import Session


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
        members = {
            "node-name": self.node,
            "size": None if size is None else in_bytes(size),
            "add": None if add is None else in_bytes(add),
            "latency-ms": latency_ms,
            "errno": errno,
        }
        given = {name: value for name, value in members.items() if value is not None}
        self._session.execute("x-volume-extend", given, timeout=timeout)

    def responder(self, **members: Any) -> None:
        """Let the machine play the volume's manager; `members` are those of x-volume-responder."""
        given = {name.replace("_", "-"): value for name, value in members.items()}
        self._session.execute("x-volume-responder", {"node-name": self.node, **given})
