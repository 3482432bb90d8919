# SPDX-License-Identifier: MIT
"""Where `faultline serve` has let nbdkit listen, as it tells the plugin in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

from blockcore.process.socket_file import admit


class NbdAddress:
    """A Unix socket, or a TCP port."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get("FAULTLINE_NBD_SOCKET")
        self._host = environ.get("FAULTLINE_NBD_ADDRESS", "localhost")
        self._port = environ.get("FAULTLINE_NBD_PORT")
        mode, group = environ.get("FAULTLINE_NBD_MODE"), environ.get("FAULTLINE_NBD_GROUP")
        self._mode = None if mode is None else int(mode, 8)
        self._group = None if group is None else int(group)

    def uri(self, export: str) -> str:
        """Of an export, for a client on this host."""
        if self._path is not None:
            return f"nbd+unix:///{export}?socket={quote(os.fsencode(self._path))}"
        host = f"[{self._host.replace('%', '%25')}]" if ":" in self._host else self._host
        return f"nbd://{host}:{self._port}/{export}"

    def withhold(self) -> None:
        """The socket that nbdkit is about to bind shall be open to nobody: not for a moment."""
        if self._path is not None and self._mode is not None:
            os.umask(0o777)

    def open(self) -> None:
        """Let those connect that `serve` was told; OSError if its file cannot be given to them."""
        if self._path is not None and self._mode is not None:
            os.umask(0o022)
            admit(self._path, self._mode, self._group)
