# SPDX-License-Identifier: MIT
"""Recordings (``record=FILE``): their lines, and what their contents stand for."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from faultline.errors import FaultlineError

VERSION = 1
"""The version of the format that is understood."""

KINDS = {
    **{"connecting": int, "connect": int, "refused": int, "disconnect": int},
    **{"request": int, "withdrawn": int, "done": int, "command": int, "reply": int},
    **{"event": str, "fault": str, "file": str, "end": str},
}
"""The member that says what a line is, and the type of its value."""

ABSOLUTE = re.compile(r'(?:^|(?<=[=:",]))/(?=[^/])(?!machine/)')
"""Where an absolute path begins in a key or an argument; ``/machine/`` begins QEMU's objects."""


class BadRecording(FaultlineError):
    """A file is no recording, or has a line that none has."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number in the file, from 1 on, its time in ms, its kind and all its members.

    `kind` is None for what an older version, such as this one, does not know.
    """

    number: int
    ms: float
    kind: str | None
    members: Mapping[str, Any]

    @property
    def value(self) -> Any:
        """The value of the member that says what the line is."""
        return None if self.kind is None else self.members[self.kind]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording; `is_whole` is false if it was cut off, so that it has no last line."""

    name: str
    header: Mapping[str, Any]
    lines: tuple[Line, ...]
    is_whole: bool


def parse(name: str, text: Iterable[bytes]) -> Recording:
    """Return the recording with these lines; raises BadRecording, with `name` in its text.

    A last line without its end is left out: the process was killed when it was written.
    """
    rest = iter(text)
    header = _header(name, next(rest, b""))
    lines = []
    for number, raw in enumerate(rest, 2):
        if not raw.endswith(b"\n"):
            break
        lines.append(_line(name, number, raw))
    is_whole = bool(lines) and lines[-1].kind == "end"
    return Recording(name, header, tuple(lines), is_whole)


def _header(name: str, raw: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(raw)
        version = header["faultline-recording"]
    except (ValueError, KeyError, TypeError):
        raise BadRecording(f"{name}: it is no recording: it does not begin like one") from None
    if version != VERSION:
        raise BadRecording(
            f"{name}: it is a recording of version {version}, and this is for version {VERSION}"
        )
    kinds = {"keys": list, "drives": list, "files": list, "directory": str}
    for member, kind in kinds.items():
        if not isinstance(header.get(member), kind):
            raise BadRecording(f"{name}:1: the header has no '{member}'")
    return dict(header)


def _line(name: str, number: int, raw: bytes) -> Line:
    try:
        members = json.loads(raw)
        kind = next((kind for kind in KINDS if kind in members), None)
        ms = members.get("ms", 0.0)
        if kind is not None and type(members[kind]) is not KINDS[kind]:
            raise TypeError
        return Line(number, float(ms), kind, members)
    except (ValueError, TypeError, AttributeError):
        raise BadRecording(f"{name}:{number}: this is no line of a recording") from None


def contents(parts: Iterable[Any]) -> bytes:
    """Return the bytes that recorded contents stand for.

    >>> contents(["YWI=", [0, 2]])
    b'ab\\x00\\x00'
    """
    return b"".join(
        base64.b64decode(part) if isinstance(part, str) else bytes((part[0],)) * part[1]
        for part in parts
    )


def invented(number: int, length: int) -> bytes:
    """Return contents for a write of which only a digest was recorded: always the same ones."""
    piece = zlib.crc32(b"%d" % number).to_bytes(4, "little") * 128
    return (piece * (length // len(piece) + 1))[:length]


def placed(value: Any, root: str) -> Any:
    """Return a key or an argument with its absolute paths below `root`.

    >>> placed({"target": "/a/b.img", "id": "/machine/x"}, "/tmp/r")
    {'target': '/tmp/r/a/b.img', 'id': '/machine/x'}
    """
    if isinstance(value, str):
        return ABSOLUTE.sub(lambda _: f"{root}/", value)
    if isinstance(value, list):
        return [placed(item, root) for item in value]
    if isinstance(value, dict):
        return {name: placed(item, root) for name, item in value.items()}
    return value


def unplaced(value: Any, root: str) -> Any:
    """Return what a machine has said, with its paths as they were recorded."""
    if isinstance(value, str):
        return value.replace(root, "")
    if isinstance(value, list):
        return [unplaced(item, root) for item in value]
    if isinstance(value, dict):
        return {name: unplaced(item, root) for name, item in value.items()}
    return value
