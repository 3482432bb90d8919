# SPDX-License-Identifier: MIT
"""Where the NBD server listens: checked before nbdkit starts, told to it and to the plugin.

nbdkit reports a socket that it cannot bind only after the plugin opened every
image, and it never replaces the file of a server that was killed.  `claim`
finds the same problems first.
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
"""Of a Unix socket: sun_path holds 108 bytes with its terminator."""

CLAIM_ERRORS = {
    errno.EEXIST: "exists and is not a socket",
    errno.EADDRINUSE: "a server is listening there already",
}


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A Unix socket at an absolute path, for those whom its `mode` and `group` let in."""

    path: Path
    mode: int = 0o755
    group: int | None = None

    def arguments(self) -> list[str]:
        """nbdkit's options."""
        return ["-U", str(self.path)]

    def environment(self) -> dict[str, str]:
        """What the plugin needs to open the socket, for the URIs of the ready line, and the end."""
        env = {"FAULTLINE_NBD_SOCKET": str(self.path), "FAULTLINE_NBD_MODE": f"{self.mode:o}"}
        return env if self.group is None else {**env, "FAULTLINE_NBD_GROUP": str(self.group)}

    def claim(self) -> None:
        """Make sure that nbdkit can bind the path; remove what a killed server left there.

        Raises ClickException when a server listens there, when the file is no
        socket, when the path cannot hold one, and for a group that cannot have it.
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
    """The mode that an octal number names; UsageError if it is none that lets its owner in."""
    if not re.fullmatch("0?[0-7]{3}", text) or not int(text, 8) & 0o200:
        raise click.UsageError(
            f"--socket-mode: '{text}' is no octal mode that lets its owner connect, such as 660"
        )
    return int(text, 8)


def group_id(text: str) -> int:
    """The number of a group, by its name or number; UsageError if there is none."""
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        if text.isascii() and text.isdigit() and int(text) < (1 << 32) - 1:
            return int(text)
        raise click.UsageError(f"--socket-group: there is no group '{text}'") from None


def mode_of_umask() -> int:
    """The mode that the umask leaves a new socket."""
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
        """nbdkit's options."""
        port = ["-p", str(self.port)]
        # nbdkit keeps IPv4 away from an address of IPv6; without any it has a socket for each.
        return port if self._unspecified == 6 else ["-i", self.address, *port]

    def environment(self) -> dict[str, str]:
        """What the plugin needs for the URIs of the ready line: an address to connect to."""
        loopback = {4: "127.0.0.1", 6: "::1"}
        host = self.address if self._unspecified is None else loopback[self._unspecified]
        return {"FAULTLINE_NBD_ADDRESS": host, "FAULTLINE_NBD_PORT": str(self.port)}

    @property
    def _unspecified(self) -> int | None:
        """The version of IP if the address stands for all that there are."""
        try:
            address = ip_address(self.address)
        except ValueError:
            return None
        return address.version if address.is_unspecified else None

    def claim(self) -> None:
        """Make sure that the port is free, as far as that can be known before nbdkit binds it.

        Raises ClickException when it is in use, reserved, or the address is not local.
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
