# SPDX-License-Identifier: MIT
"""The address at which the NBD server listens, checked before nbdkit starts.

nbdkit reports a socket that it cannot bind only after the plugin has opened every
image, and it never replaces the socket file of a server that was killed.  `claim`
finds such problems before, and removes such files.  TCP ports are bound here, and
nbdkit gets the sockets: so no other process can take the port meanwhile, and a port
that the kernel chooses is known.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import click

from blockcore.process.socket_file import make_room
from blockcore.qapi.record import dataclass

PATH_BYTES_MAX = 107
"""The longest path of a Unix socket: sun_path holds 108 bytes with its terminator."""

ATTEMPTS = 16
"""How many free ports are tried until one is free at all addresses of a name."""

CLAIM_ERRORS = {
    errno.EEXIST: "exists and is not a socket",
    errno.EADDRINUSE: "a server is listening there already",
}


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A Unix socket at an absolute path.

    `mode` and `group` decide who may connect, which needs permission to write.
    With `group` None the file keeps the group that it is made with.
    """

    path: Path
    mode: int = 0o755
    group: int | None = None

    def arguments(self) -> list[str]:
        """Return nbdkit's options for the socket."""
        return ["-U", str(self.path)]

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables for the socket.

        The plugin sets its mode and group, makes URIs of its path for the ready
        line, and removes it at the end.
        """
        env = {"FAULTLINE_NBD_SOCKET": str(self.path), "FAULTLINE_NBD_MODE": f"{self.mode:o}"}
        return env if self.group is None else {**env, "FAULTLINE_NBD_GROUP": str(self.group)}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that listen already: none, because nbdkit binds the path."""
        return ()

    def claim(self) -> UnixSocket:
        """Make sure that nbdkit can bind the path; remove the socket of a killed server.

        Raises ClickException if a server listens there, if the file is no socket,
        if no socket can be made there, and for a group that this process cannot
        give the socket to.
        """
        if len(os.fsencode(self.path)) > PATH_BYTES_MAX:
            raise click.ClickException(
                f"{self.path}: the path of a Unix socket has at most {PATH_BYTES_MAX} bytes"
            )
        try:
            make_room(str(self.path))
            self.path.parent.stat()
            if not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as exc:
            text = CLAIM_ERRORS.get(exc.errno or 0)
            raise _failure(str(self.path), exc, text) from exc
        if self.group is not None and not _may_give_to(self.group):
            raise click.ClickException(
                f"{self.path}: only root and its members can give a socket to a group"
            )
        return self


def parse_mode(text: str) -> int:
    """Parse an octal mode; raises UsageError unless it lets the owner connect."""
    if not re.fullmatch("0?[0-7]{3}", text) or not int(text, 8) & 0o200:
        raise click.UsageError(
            f"--socket-mode: '{text}' is no octal mode that lets its owner connect, such as 660"
        )
    return int(text, 8)


def group_id(text: str) -> int:
    """Return the number of a group given by name or number; raises UsageError without such."""
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        if text.isascii() and text.isdigit() and int(text) < (1 << 32) - 1:
            return int(text)
        raise click.UsageError(f"--socket-group: there is no group '{text}'") from None


def mode_of_umask() -> int:
    """Return the mode that the umask leaves a new socket."""
    # The umask cannot be read without setting it.
    umask = os.umask(0)
    os.umask(umask)
    return 0o777 & ~umask


def _may_give_to(group: int) -> bool:
    return os.geteuid() == 0 or group in (os.getegid(), *os.getgroups())


@dataclass(frozen=True, slots=True)
class TcpPort:
    """A TCP port of one local address, to be bound; port 0 is any free one."""

    address: str
    port: int

    def claim(self) -> BoundPort:
        """Listen at the port of every address that the name has.

        Raises ClickException if the port is in use or reserved, or if the address is
        not local.
        """
        for attempt in range(ATTEMPTS):
            sockets: list[socket.socket] = []
            try:
                return BoundPort(self.address, self._bind(sockets), tuple(sockets))
            except OSError as exc:
                for bound in sockets:
                    bound.close()
                # A free port of the name's first address may be in use at its second.
                if self.port or exc.errno != errno.EADDRINUSE or attempt == ATTEMPTS - 1:
                    host = f"[{self.address}]" if ":" in self.address else self.address
                    raise _failure(f"{host}:{self.port}", exc) from exc
        raise AssertionError

    def _bind(self, sockets: list[socket.socket]) -> int:
        """Append a listening socket for each address to `sockets`; return their port."""
        port = self.port
        found = socket.getaddrinfo(
            self.address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found:
            bound = socket.socket(family, kind, protocol)
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Users of "::" expect IPv4 as well.  For a name that has addresses of both
                # versions, each has a socket of its own.
                only = _unspecified(self.address) != 6
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            bound.bind((address[0], port, *address[2:]))
            # A second bind with SO_REUSEADDR succeeds until one of the two listens.
            bound.listen(socket.SOMAXCONN)
            port = bound.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class BoundPort:
    """A TCP port of one local address, at which `sockets` listen."""

    address: str
    port: int
    sockets: tuple[socket.socket, ...] = ()

    def arguments(self) -> list[str]:
        """Return nbdkit's options: none, because it gets the sockets by socket activation."""
        return []

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables for the port: the address that its URIs name.

        For an address that stands for all addresses that is the loopback address.
        """
        loopback = {4: "127.0.0.1", 6: "::1"}
        version = _unspecified(self.address)
        host = self.address if version is None else loopback[version]
        return {"FAULTLINE_NBD_ADDRESS": host, "FAULTLINE_NBD_PORT": str(self.port)}


class Listener(Protocol):
    """An address at which nbdkit will listen, or has sockets that listen already."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that listen already."""

    def arguments(self) -> list[str]:
        """Return nbdkit's options for the address."""

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables for the address."""


def _unspecified(text: str) -> int | None:
    """Return the version of IP of an address that stands for all (0.0.0.0, ::), else None."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.version if address.is_unspecified else None


def _failure(where: str, exc: OSError, text: str | None = None) -> click.ClickException:
    return click.ClickException(f"{where}: {text or exc.strerror or exc}")
