# SPDX-License-Identifier: MIT
"""The drives whose files `faultline serve` makes: one if its user names none, and those of a size.

``drive=id=vda,size=64M``, which has neither a file nor a driver, is a drive on a
sparse file of that size in the private directory; QEMU has no such drives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blockcore.bql.later import later
from blockcore.config.sockets import needs_drive
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.errors import QmpError

_hint = later("blockcore.process.hints:hint")
_parse_opts = later("blockcore.qapi.keyval:parse_opts")
_well_formed_id = later("blockcore.qapi.keyval:well_formed_id")
_opt_size = later("blockcore.qapi.texts:opt_size")

DEFAULT = "drive=id=vda,size=1G,rerror=stop,werror=enospc"
"""The key of the drive that is served if none is named."""

FILES = frozenset({"driver", "file", "file.driver", "file.filename"})
"""Options of which each says what a drive is on."""


def needs_directory(keys: Sequence[str]) -> bool:
    """Return whether a machine with these keys, KEY=VALUE each, gets files of its own."""
    return needs_drive(keys) or any(_temporary(key) is not None for key in keys)


def with_files(keys: Sequence[str], directory: Path) -> tuple[str, ...]:
    """Make the files of all temporary drives in `directory`; return the keys, which name them.

    Raises QmpError for a size that is none, and OSError if a file cannot be made.
    """
    named = (*keys, DEFAULT) if needs_drive(keys) else tuple(keys)
    return tuple(_with_file(key, at, directory) for at, key in enumerate(named))


def _temporary(key: str) -> dict[str, str] | None:
    """Return the options of a temporary drive; None for any other key, and for one with mistakes.

    Mistakes are for the parser of all keys to tell.
    """
    name, _, text = key.partition("=")
    if name != "drive" or "size=" not in text:
        return None
    try:
        options = _parse_opts()(text)
    except QmpError:
        return None
    return options if "size" in options and not FILES & options.keys() else None


def _with_file(key: str, at: int, directory: Path) -> str:
    options = _temporary(key)
    if options is None:
        return key
    try:
        size = _opt_size()(options.pop("size"), "size")
    except QmpError as exc:
        hint = _hint()(exc.desc, key)
        raise QmpError(f"{key}: {exc}{hint}") from None
    name = options.get("id", "")
    image = directory / f"{name if _well_formed_id()(name) else 'drive'}.img"
    if image.exists():  # of a drive of that id, which the parser refuses
        image = directory / f"drive{at}.img"
    try:
        with image.open("xb") as file:
            file.truncate(size)
    except OSError as exc:
        raise QmpError(f"{key}: {reason_of(exc)}") from None
    return _key({"format": "raw", **options, "file": str(image)})


def _key(options: Mapping[str, str]) -> str:
    pairs = (f"{name}={value.replace(',', ',,')}" for name, value in options.items())
    return f"drive={','.join(pairs)}"
