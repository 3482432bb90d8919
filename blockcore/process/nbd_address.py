# SPDX-License-Identifier: MIT
"""The address at which nbdkit listens, as `faultline serve` tells the plugin by variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

from blockcore.process.socket_file import admit


class NbdAddress:
    """The address of the NBD server: a Unix socket, or a TCP port.

    `environ` has the variables that `faultline serve` sets (`cli/nbdkit_command.py`).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get("FAULTLINE_NBD_SOCKET")
        self._host = environ.get("FAULTLINE_NBD_ADDRESS", "localhost")
        self._port = environ.get("FAULTLINE_NBD_PORT")
        self._scheme = "nbds" if "FAULTLINE_NBD_TLS" in environ else "nbd"
        user, self._query = map(environ.get, ("FAULTLINE_NBD_USER", "FAULTLINE_NBD_QUERY"))
        self._user = f"{user}@" if user else ""
        mode, group = environ.get("FAULTLINE_NBD_MODE"), environ.get("FAULTLINE_NBD_GROUP")
        self._mode = None if mode is None else int(mode, 8)
        self._group = None if group is None else int(group)

    def uri(self, export: str) -> str:
        """Return the NBD URI of an export, for a client on this host."""
        if self._path is not None:
            more = f"&{self._query}" if self._query else ""
            socket = f"socket={quote(os.fsencode(self._path))}"
            return f"{self._scheme}+unix://{self._user}/{export}?{socket}{more}"
        host = f"[{self._host.replace('%', '%25')}]" if ":" in self._host else self._host
        more = f"?{self._query}" if self._query else ""
        return f"{self._scheme}://{self._user}{host}:{self._port}/{export}{more}"

    def withhold(self) -> None:
        """Set the umask so that no client can connect to the socket that nbdkit will bind.

        `open` sets the socket's mode afterwards: between the two there is no
        moment in which other users could connect.
        """
        if self._path is not None and self._mode is not None:
            os.umask(0o777)

    def open(self) -> None:
        """Give the socket the mode and the group that `serve` was told, and reset the umask.

        Raises OSError if the file cannot be given them.
        """
        if self._path is not None and self._mode is not None:
            os.umask(0o022)
            admit(self._path, self._mode, self._group)
