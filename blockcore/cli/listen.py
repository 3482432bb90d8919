"""Where the NBD server listens: checked before nbdkit starts, told to it and to the plugin.

nbdkit reports a socket that it cannot bind only after the plugin opened every
image, and it never replaces the file of a server that was killed.  `claim`
finds the same problems first.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

import click

PATH_BYTES_MAX = 107
"""Of a Unix socket: sun_path holds 108 bytes with its terminator."""


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A Unix socket at an absolute path."""

    path: Path

    def arguments(self) -> list[str]:
        """nbdkit's options."""
        return ["-U", str(self.path)]

    def environment(self) -> dict[str, str]:
        """What the plugin needs for the URIs of the ready line, and to unlink the socket."""
        return {"FAULTLINE_NBD_SOCKET": str(self.path)}

    def claim(self) -> None:
        """Make sure that nbdkit can bind the path; remove what a killed server left there.

        Raises ClickException when a server listens there, when the file is no
        socket, and when the path cannot hold one.
        """
        if len(os.fsencode(self.path)) > PATH_BYTES_MAX:
            raise click.ClickException(
                f"{self.path}: the path of a Unix socket has at most {PATH_BYTES_MAX} bytes"
            )
        try:
            if not self._exists():
                return
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise click.ClickException(f"{self.path}: exists and is not a socket")
            self._refuse_live()
            self.path.unlink()
        except OSError as exc:
            raise _failure(str(self.path), exc) from exc

    def _exists(self) -> bool:
        """False also means that the directory is there and ours to write."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            self.path.parent.stat()
            if not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
            return False
        return True

    def _refuse_live(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            # A live server whose backlog is full answers EAGAIN instead of blocking us.
            probe.setblocking(False)
            result = probe.connect_ex(str(self.path))
        if result in (0, errno.EAGAIN, errno.EINPROGRESS):
            raise click.ClickException(f"{self.path}: a server is listening there already")
        if result != errno.ECONNREFUSED:
            raise OSError(result, os.strerror(result))


@dataclass(frozen=True, slots=True)
class TcpPort:
    """A TCP port of one local address."""

    address: str
    port: int

    def arguments(self) -> list[str]:
        """nbdkit's options."""
        return ["-i", self.address, "-p", str(self.port)]

    def environment(self) -> dict[str, str]:
        """What the plugin needs for the URIs of the ready line."""
        return {"FAULTLINE_NBD_ADDRESS": self.address, "FAULTLINE_NBD_PORT": str(self.port)}

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


def _failure(where: str, exc: OSError) -> click.ClickException:
    return click.ClickException(f"{where}: {exc.strerror or exc}")
