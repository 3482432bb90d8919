# SPDX-License-Identifier: MIT
"""Sockets that systemd, or another program, has opened for this process (sd_listen_fds).

The variable LISTEN_FDS says how many there are, from descriptor 3 on, LISTEN_PID for
whom they are, and LISTEN_FDNAMES what they are called.  The one called "control" is the
control socket; the NBD server listens at all others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import click

from blockcore.cli.launch import FIRST
from blockcore.cli.listen import BoundPort
from blockcore.qapi.record import dataclass

_INTERNET = (socket.AF_INET, socket.AF_INET6)

CONTROL = "control"
"""The name of the control socket (FileDescriptorName= of its systemd.socket)."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """Sockets at which the NBD server listens; URIs name the first of them.

    Whoever has opened them cares for their files.
    """

    sockets: tuple[socket.socket, ...]

    def arguments(self) -> list[str]:
        """Return nbdkit's options: none, because it gets the sockets by socket activation."""
        return []

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables for the first socket: what its URIs name."""
        first = self.sockets[0]
        if first.family == socket.AF_UNIX:
            return {"FAULTLINE_NBD_SOCKET": path_of(first)}
        address, port = first.getsockname()[:2]
        return BoundPort(address, port).environment()


@dataclass(frozen=True, slots=True)
class Activation:
    """What this process has got: None for what it has not."""

    nbd: Inherited | None = None
    control: socket.socket | None = None


def activation(environ: Mapping[str, str]) -> Activation:
    """Return the sockets that are for this process, by the variables.

    Raises ClickException if they are not as they should be.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()) or "LISTEN_FDS" not in environ:
        return Activation()
    text = environ["LISTEN_FDS"]
    if not text.isdecimal() or not int(text):
        raise click.ClickException(f"LISTEN_FDS is no number of sockets: '{text}'")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    control: list[socket.socket] = []
    others: list[socket.socket] = []
    for at in range(int(text)):
        listener = _listener(FIRST + at)
        (control if names[at : at + 1] == [CONTROL] else others).append(listener)
    if len(control) > 1:
        raise click.ClickException(f"LISTEN_FDNAMES names two sockets '{CONTROL}'")
    if control and control[0].family != socket.AF_UNIX:
        raise click.ClickException(f"the socket '{CONTROL}' of LISTEN_FDS is no Unix socket")
    for listener in (*control, *others):
        if listener.family == socket.AF_UNIX:
            path_of(listener)
    nbd = Inherited(tuple(others)) if others else None
    return Activation(nbd, control[0] if control else None)


def path_of(listener: socket.socket) -> str:
    """Return the path of a Unix socket; raises ClickException if it has none."""
    name = listener.getsockname()
    if not isinstance(name, str) or not name.startswith("/"):
        raise click.ClickException(
            f"descriptor {listener.fileno()} of LISTEN_FDS is a Unix socket without a path"
        )
    return name


def _listener(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise click.ClickException(
            f"descriptor {descriptor} of LISTEN_FDS: {exc.strerror}"
        ) from exc
    if not is_listening or listener.family not in (socket.AF_UNIX, *_INTERNET):
        raise click.ClickException(
            f"descriptor {descriptor} of LISTEN_FDS is no listening Unix or TCP socket"
        )
    os.set_inheritable(descriptor, False)
    return listener


