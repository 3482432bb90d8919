# SPDX-License-Identifier: MIT
"""TLS of the NBD server: what nbdkit is told, and what URIs say about it."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

import click

from blockcore.qapi.record import dataclass

MODES = ("off", "on", "require")

KEY = re.compile(r"([^:#]+):(?:[0-9a-fA-F]{2})+")
"""A line of a file of pre-shared keys, as psktool(1) writes it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS with pre-shared keys, or with certificates, of which `path` is the file or directory.

    Without a path nbdkit takes the certificates of its user, or of the system.  A mode
    of "on" leaves the choice to each client.
    """

    mode: str = "off"
    has_keys: bool = False
    path: str | None = None
    user: str | None = None

    def arguments(self) -> list[str]:
        """Return nbdkit's options; none without TLS."""
        if self.mode == "off":
            return []
        kind = "--tls-psk" if self.has_keys else "--tls-certificates"
        return [f"--tls={self.mode}", *([] if self.path is None else [f"{kind}={self.path}"])]

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables: what URIs have, if clients must use TLS."""
        if self.mode != "require":
            return {}
        kind = "tls-psk-file" if self.has_keys else "tls-certificates"
        query = "" if self.path is None else f"{kind}={quote(os.fsencode(self.path))}"
        user = "" if self.user is None else quote(self.user, safe="")
        return {"FAULTLINE_NBD_TLS": "1", "FAULTLINE_NBD_USER": user, "FAULTLINE_NBD_QUERY": query}


def tls(mode: str | None, keys: str | None, certificates: str | None) -> Tls:
    """Return what the options --tls, --tls-psk and --tls-certificates mean.

    TLS is required if keys or certificates are given without a mode.  Raises UsageError
    if the options contradict each other, and ClickException for a file without keys or
    a directory that there is not.
    """
    if keys is not None and certificates is not None:
        raise click.UsageError("--tls-psk and --tls-certificates exclude each other")
    if mode is not None and mode not in MODES:
        raise click.UsageError(f"--tls: '{mode}' is not one of {', '.join(MODES)}")
    given = keys if certificates is None else certificates
    if given is None:
        return Tls(mode or "off")
    path, mode = os.path.abspath(given), mode or "require"
    if keys is not None:
        return Tls(mode, True, path, _first_user(path))
    if not os.path.isdir(path):
        raise click.ClickException(f"{path}: there is no such directory with certificates")
    return Tls(mode, False, path)


def _first_user(path: str) -> str:
    """Return the user of the first key in a file; raises ClickException if there is none.

    nbdkit reads the file when clients connect, and refuses all if it makes no sense.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line for line in file.read().splitlines() if line and line[0] != "#"]
    except OSError as exc:
        raise click.ClickException(f"{path}: {exc.strerror}") from exc
    for line in lines:
        if found := KEY.fullmatch(line):
            return found[1]
    raise click.ClickException(f"{path}: there is no line USER:KEY with a key in hex digits")
