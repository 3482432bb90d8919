# SPDX-License-Identifier: MIT
"""What a machine is made of, in the words of `faultline serve`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from faultline.sizes import Size, in_bytes

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive: the options of QEMU's ``-drive``, and of its device's error policy.

    `file` is the image; without one the drive is a temporary file of `size`
    bytes that the machine removes when it ends.  `id` names the drive on the
    control socket, and its NBD export; a drive without one is vda, vdb, and so
    on by its place.  A `volatile` drive loses with its power what was not flushed
    (`Machine.power_cut`).  `options` has further options as ``-drive`` has them, such as
    ``{"throttling.iops-total": 100}``.

    >>> Drive("disk.qcow2", id="vda", rerror="stop", werror="enospc").key()
    'drive=file=disk.qcow2,id=vda,rerror=stop,werror=enospc'
    >>> Drive(size="64M", id="vdb").key()
    'drive=size=67108864,id=vdb'
    """

    file: Path | None = None
    _: KW_ONLY
    id: str | None = None
    format: str | None = None
    size: Size | None = None
    rerror: str | None = None
    werror: str | None = None
    read_only: bool | None = None
    discard: str | None = None
    volatile: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def key(self) -> str:
        """Return the drive as a KEY=VALUE of `faultline serve`."""
        members = {
            "file": None if self.file is None else os.fspath(self.file),
            "size": None if self.size is None else in_bytes(self.size),
            "id": self.id,
            "format": self.format,
            "rerror": self.rerror,
            "werror": self.werror,
            "readonly": self.read_only,
            "discard": self.discard,
            "cache.x-volatile": self.volatile,
            **self.options,
        }
        return f"drive={keyval(members)}"


def keyval(members: Mapping[str, Any]) -> str:
    """Return members as QEMU's KEY=VALUE list; those that are None are left out.

    >>> keyval({"file": "a,b.img", "readonly": True, "size": None})
    'file=a,,b.img,readonly=on'
    """
    return ",".join(
        f"{name}={_text(value)}" for name, value in members.items() if value is not None
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")


def named(drives: Iterable[Drive | Path]) -> list[Drive]:
    """Return the drives, each with an id: its own, or vda, vdb, ... by its place."""
    made = [drive if isinstance(drive, Drive) else Drive(drive) for drive in drives]
    names = {drive.id for drive in made}
    named = []
    for at, drive in enumerate(made):
        if drive.id is None:
            name = f"vd{_letters(at)}"
            if name in names:
                raise ValueError(f"drive {at} needs an id: another one is called {name}")
            drive = replace(drive, id=name)
        named.append(drive)
    return named


def _letters(at: int) -> str:
    """Return a, b, ... z, aa, ab, ... as Linux names disks."""
    text = ""
    at += 1
    while at:
        at, rest = divmod(at - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def blockdev_key(definition: Mapping[str, Any] | str) -> str:
    """Return a node's definition, QAPI members or QEMU's text, as a KEY=VALUE.

    >>> blockdev_key({"driver": "null-co", "node-name": "n0", "size": 1048576})
    'blockdev={"driver": "null-co", "node-name": "n0", "size": 1048576}'
    """
    text = definition if isinstance(definition, str) else json.dumps(definition)
    return f"blockdev={text}"
