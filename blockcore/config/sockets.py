# SPDX-License-Identifier: MIT
"""The rules about keys that concern sockets; `faultline serve` checks them before nbdkit starts.

This module imports little, because the command is started with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockcore.qapi.errors import QmpError

_ADDRESSES = frozenset({"fd", "inet", "socket", "tcp", "telnet", "unix", "vsock", "websocket"})
"""What begins an address in QEMU's -qmp and -chardev, before a colon."""


def check_socket_path(path: str) -> None:
    """Raise QmpError for a path that is an address to QEMU's -qmp and -chardev.

    Users of QEMU type "unix:m0.qmp"; here that would make a file of that name.
    """
    kind, _, rest = path.partition(":")
    if ":" in path and kind in _ADDRESSES:
        named = rest.partition(",")[0].removeprefix("//")
        bare = f", such as {named}" if kind == "unix" and named else ""
        relay = f"; for TCP relay it: {_relay(rest)}" if kind in ("tcp", "inet") else ""
        raise QmpError(
            f"'{path}' is an address, and this is the path of a Unix socket{bare}{relay}"
            f" (for a file of that name, ./{path})"
        )


def _relay(address: str) -> str:
    """Return the command that makes a Unix socket reachable at a TCP address, HOST:PORT."""
    host, _, port = address.removeprefix("//").partition(",")[0].rpartition(":")
    bind = f"bind={host}," if host else ""
    return f"socat TCP-LISTEN:{port or 'PORT'},{bind}fork,reuseaddr UNIX-CONNECT:SOCKET"


def require_drives(keys: Iterable[str], control_is_named: bool) -> None:
    """Raise QmpError if no client could reach the machine: no drive, and no control socket.

    `keys` are KEY=VALUE or KEY.
    """
    given = {key.partition("=")[0] for key in keys}
    if not control_is_named and "blockdev" in given and not given & {"drive", "device"}:
        raise QmpError(
            "blockdev= alone is a node that no NBD client can reach: add"
            " device=virtio-blk,drive=NODE-NAME (or control=SOCKET, if jobs are all it is for)"
        )


def needs_drive(keys: Iterable[str]) -> bool:
    """Return whether a machine with these keys gets a temporary drive: it has no other.

    `keys` are KEY=VALUE or KEY.
    """
    return not {key.partition("=")[0] for key in keys} & {"drive", "blockdev"}
