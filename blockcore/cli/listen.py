# SPDX-License-Identifier: MIT
"""The address at which the NBD server listens, checked before nbdkit starts.

nbdkit reports a socket that it cannot bind only after the plugin has opened every
image, and it never replaces the socket file of a server that was killed.  `claim`
finds such problems before, and removes such files.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import click

from blockcore.process.socket_file import make_room

PATH_BYTES_MAX = 107
"""The longest path of a Unix socket: sun_path holds 108 bytes with its terminator."""

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

    def claim(self) -> None:
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
    """A TCP port of one local address."""

    address: str
    port: int

    def arguments(self) -> list[str]:
        """Return nbdkit's options for the port."""
        port = ["-p", str(self.port)]
        # For an IPv6 address nbdkit makes a socket for IPv6 only.  Without -i it makes a socket
        # for either version, as users of "::" expect.
        return port if self._unspecified == 6 else ["-i", self.address, *port]

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables for the port: the address that its URIs name.

        For an address that stands for all addresses that is the loopback address.
        """
        loopback = {4: "127.0.0.1", 6: "::1"}
        host = self.address if self._unspecified is None else loopback[self._unspecified]
        return {"FAULTLINE_NBD_ADDRESS": host, "FAULTLINE_NBD_PORT": str(self.port)}

    @property
    def _unspecified(self) -> int | None:
        """The version of IP if the address stands for all local ones (0.0.0.0, ::), else None."""
        try:
            address = ip_address(self.address)
        except ValueError:
            return None
        return address.version if address.is_unspecified else None

    def claim(self) -> None:
        """Make sure that the port is free now; another process may take it before nbdkit does.

        Raises ClickException if the port is in use or reserved, or if the address is
        not local.
        """
        host = f"[{self.address}]" if ":" in self.address else self.address
        where = f"{host}:{self.port}"
        try:
            found = socket.getaddrinfo(
                self.address, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, kind, protocol, _, address in found:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
                    # A second bind with SO_REUSEADDR succeeds until one of the two listens.
                    probe.listen()
        except OSError as exc:
            raise _failure(where, exc) from exc


def _failure(where: str, exc: OSError, text: str | None = None) -> click.ClickException:
    return click.ClickException(f"{where}: {text or exc.strerror or exc}")
