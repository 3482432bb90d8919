# SPDX-License-Identifier: MIT
"""The sockets of a machine, as the options and keys of `serve` name them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import click

from blockcore.cli.listen import TcpPort, UnixSocket, group_id, mode_of_umask, parse_mode
from blockcore.config.sockets import require_drives
from blockcore.process.socket_file import socket_path
from blockcore.qapi.errors import QmpError

KEY = re.compile(r"[A-Za-z][A-Za-z0-9._-]*=")
"""The form of a key that nbdkit accepts; it takes any other word for a file name."""


def endpoints(
    keys: Sequence[str],
    unix: tuple[str | None, str | None, str | None],
    tcp: tuple[int | None, str | None],
    control: str | None,
) -> tuple[UnixSocket | TcpPort | None, Path | None]:
    """Return the NBD server's address and the path of the control socket; None if not named.

    `unix` is the path, mode and group of a Unix socket, `tcp` is port and address;
    members are None if not given.  Raises UsageError if these contradict each
    other.
    """
    nbd, *access = unix
    listen = _permitted(_listen(nbd, *tcp), *access)
    control_path = _control_path(keys, control)
    if isinstance(listen, UnixSocket) and listen.path == control_path:
        raise click.UsageError("the NBD and the control socket cannot be the same")
    try:
        require_drives(keys, control_path is not None)
    except QmpError as exc:
        raise click.UsageError(exc.desc) from exc
    return listen, control_path


def _listen(
    nbd_socket: str | None, port: int | None, address: str | None
) -> UnixSocket | TcpPort | None:
    if port is not None:
        if nbd_socket is not None:
            raise click.UsageError("--nbd and --port exclude each other")
        return TcpPort(address or "127.0.0.1", port)
    if address is not None:
        raise click.UsageError("--address needs --port")
    return UnixSocket(_socket_path("--nbd", nbd_socket)) if nbd_socket is not None else None


def _permitted(
    listen: UnixSocket | TcpPort | None, mode: str | None, group: str | None
) -> UnixSocket | TcpPort | None:
    """Return `listen` with the mode and group of its socket.

    The default mode is what the umask leaves, or 660 if a group is given.  Raises
    UsageError for a mode or group without a Unix socket.
    """
    if not isinstance(listen, UnixSocket):
        if mode is not None or group is not None:
            raise click.UsageError("--socket-mode and --socket-group need --nbd")
        return listen
    default = mode_of_umask() if group is None else 0o660
    return replace(
        listen,
        mode=default if mode is None else parse_mode(mode),
        group=None if group is None else group_id(group),
    )


def _control_path(keys: Sequence[str], option: str | None) -> Path | None:
    for key in keys:
        if not KEY.match(key):
            hint = import_module("blockcore.cli.wrong_words").pair(key)
            raise click.UsageError(f"'{key}' is not KEY=VALUE{hint}")
    values = [key.partition("=")[2] for key in keys if key.startswith("control=")]
    if option is not None:
        values.append(option)
    if len(values) > 1:
        raise click.UsageError("the control socket is given twice")
    return _socket_path("control", values[0]) if values else None


def _socket_path(name: str, value: str) -> Path:
    try:
        return Path(socket_path(name, value, os.getcwd()))
    except QmpError as exc:
        raise click.UsageError(exc.desc) from exc
