# SPDX-License-Identifier: MIT
"""From the tokens of one JSON value to the value, in QEMU's order of checks.

Everything here is called with the output of `lexer`, so strings have their
quotes and numbers their form; what is left to find out is structure, escapes,
UTF-8, keywords and duplicate keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from math import isinf
from typing import Any, Final

from blockcore.qapi.names import QmpError

NUMBER_CHARACTERS: Final = 10_000
"""A number that is longer is refused: to convert it takes too long."""

QUOTED_CHARACTERS: Final = 1000
"""So much of a token is shown in a message about it."""

_STEP: Final = 1000
"""Pieces of a string that are one part of it."""

_KEYWORDS: Final[dict[bytes, Any]] = {b"true": True, b"false": False, b"null": None}


def _syntax_error(what: str) -> QmpError:
    return QmpError(f"JSON parse error, {what}")


class _Object:
    """An object under construction; `key` is the one whose value is being read."""

    __slots__ = ("key", "members")

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.key: str | None = None


class _Expected(Enum):
    VALUE = auto()
    VALUE_OR_END = auto()
    COLON = auto()
    SEPARATOR = auto()


class ValueBuilder:
    """Makes one value of tokens, given one by one, or finds the first error in them.

    A stack instead of recursion: QEMU allows 1024 levels, Python's stack about
    as many frames.
    """

    def __init__(self) -> None:
        self._stack: list[_Object | list[Any]] = []
        self._expected = _Expected.VALUE
        self._error: str | None = None
        self._done = False
        self._value: Any = None

    def add(self, token: bytes) -> None:
        """Take the next token; what comes after an error is not looked at."""
        if self._error is None:
            try:
                self._take(token)
            except QmpError as error:
                self._fail(error)

    def add_string(self, token: bytes) -> Iterator[None]:
        """Take a string as the next token, with a pause after each part of it."""
        if self._error is not None:
            return
        try:
            if self._expected in (_Expected.COLON, _Expected.SEPARATOR):
                self._take(token)  # which refuses it
            parts = []
            for part in string_parts(token):
                parts.append(part)
                yield
            self._place("".join(parts))
        except QmpError as error:
            self._fail(error)

    def result(self) -> Any:
        """The value, when all tokens have been given; or QmpError."""
        if self._error is not None:
            raise QmpError(self._error)
        if not self._done:
            raise _syntax_error("premature EOI")
        return self._value

    def _fail(self, error: QmpError) -> None:
        """Only what it says: the frames that it came through lead to this one, and to who reads."""
        self._error = error.desc
        self._stack.clear()

    def _take(self, token: bytes) -> None:
        if self._expected is _Expected.COLON:
            if token != b":":
                raise _syntax_error("missing : in object pair")
            self._expected = _Expected.VALUE
        elif self._expected is _Expected.SEPARATOR:
            if token == b",":
                self._expected = _Expected.VALUE
            elif token == self._end():
                self._close()
            else:
                kind = "list" if isinstance(self._stack[-1], list) else "dict"
                raise _syntax_error(f"expected separator in {kind}")
        elif token == b"{":
            self._open(_Object())
        elif token == b"[":
            self._open([])
        elif self._expected is _Expected.VALUE_OR_END and token == self._end():
            self._close()
        else:
            self._place(_scalar(token))

    def _end(self) -> bytes:
        return b"]" if isinstance(self._stack[-1], list) else b"}"

    def _open(self, container: _Object | list[Any]) -> None:
        self._stack.append(container)
        self._expected = _Expected.VALUE_OR_END

    def _close(self) -> None:
        container = self._stack.pop()
        self._place(container if isinstance(container, list) else container.members)

    def _place(self, value: Any) -> None:
        """Put a complete value where it belongs."""
        if not self._stack:
            self._value, self._done = value, True
            return
        top = self._stack[-1]
        self._expected = _Expected.SEPARATOR
        if isinstance(top, list):
            top.append(value)
        elif top.key is None:
            if type(value) is not str:
                raise _syntax_error("key is not a string in object")
            top.key = value
            self._expected = _Expected.COLON
        else:
            if top.key in top.members:
                raise _syntax_error("duplicate key")
            top.members[top.key] = value
            top.key = None


def _scalar(token: bytes) -> Any:
    first = token[:1]
    if first in (b'"', b"'"):
        return _string(token)
    if first.isdigit() or first == b"-":
        return number_from(token.decode("ascii"))
    if not first.isalpha():
        raise _syntax_error("expecting value")
    if token not in _KEYWORDS:
        raise _syntax_error(f"invalid keyword '{quoted(token)}'")
    return _KEYWORDS[token]


def number_from(text: str) -> int | float:
    """An integer if it fits in 64 bits, signed or unsigned; else the nearest float."""
    if text.isdigit() or (text[0] == "-" and text[1:].isdigit()):
        # The length first: int() of a very long string is slow, and refused in the end.
        if len(text) <= 20 and -(1 << 63) <= (number := int(text)) < 1 << 64:
            return number
    return float_from(text)


def float_from(text: str) -> float:
    """The nearest float; QmpError beyond the largest one.

    QEMU takes such a number for infinity, and writes it as ``inf``, which is
    not JSON.
    """
    if len(text) > NUMBER_CHARACTERS or isinf(number := float(text)):
        raise _syntax_error(f"number out of range '{quoted(text.encode('ascii'))}'")
    return number


# A UTF-8 sequence of up to six bytes, or what is left of one.
_MULTIBYTE: Final = (
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc-\xfd][\x80-\xbf]{0,5}|[\x80-\xff]"
)
_PIECE: Final = re.compile(
    rb"(?P<plain>[\x20-\x5b\x5d-\x7f]{1,65536})|\\(?P<escape>.)"
    rb"|(?P<multibyte>" + _MULTIBYTE + rb")",
    re.DOTALL,
)
_ESCAPES: Final = {
    b'"': '"',
    b"'": "'",
    b"\\": "\\",
    b"/": "/",
    b"b": "\b",
    b"f": "\f",
    b"n": "\n",
    b"r": "\r",
    b"t": "\t",
}
_UNICODE: Final = re.compile(rb"\\u([0-9a-fA-F]{4})")
_PAIR: Final = re.compile(rb"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _string(token: bytes) -> str:
    """The text of a quoted string, or QmpError for the first thing wrong with it."""
    return "".join(string_parts(token))


def string_parts(token: bytes) -> Iterator[str]:
    """The same, bit by bit."""
    output: list[str] = []
    position, end = 1, len(token) - 1
    while position < end:
        match = _PIECE.match(token, position, end)
        assert match
        position = match.end()
        if match["plain"]:
            output.append(match["plain"].decode("ascii"))
        elif match["multibyte"]:
            character = _character(match["multibyte"])
            if character is None:
                raise _syntax_error("invalid UTF-8 sequence in string")
            output.append(character)
        elif match["escape"] == b"u":
            character, position = _unicode_escape(token, match.start())
            output.append(character)
        elif match["escape"] in _ESCAPES:
            output.append(_ESCAPES[match["escape"]])
        else:
            raise _syntax_error("invalid escape sequence in string")
        if len(output) >= _STEP or len(output[-1]) >= _STEP:
            yield "".join(output)
            output.clear()
    yield "".join(output)


def _unicode_escape(token: bytes, start: int) -> tuple[str, int]:
    """The character of the escape at `start`, and where it ends."""
    if pair := _PAIR.match(token, start):
        high, low = int(pair[1], 16), int(pair[2], 16)
        codepoint = 0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF)
    else:
        pair = _UNICODE.match(token, start)
        codepoint = int(pair[1], 16) if pair else -1
    if pair is None or not _is_character(codepoint):
        shown = decode_utf8(token[start : start + 6])
        raise _syntax_error(f"{shown} is not a valid Unicode character")
    return chr(codepoint), pair.end()


def _is_character(codepoint: int) -> bool:
    """Neither a surrogate nor one of the codes that Unicode calls noncharacters."""
    return (
        0 <= codepoint <= 0x10FFFF
        and not 0xD800 <= codepoint <= 0xDFFF
        and not 0xFDD0 <= codepoint <= 0xFDEF
        and codepoint & 0xFFFE != 0xFFFE
    )


def _character(sequence: bytes) -> str | None:
    """What a UTF-8 sequence stands for; C0 80 is NUL (modified UTF-8); None if it is invalid."""
    if sequence == b"\xc0\x80":
        return "\0"
    try:
        character = sequence.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return character if _is_character(ord(character)) else None


def quoted(token: bytes) -> str:
    """A token for a message, which need not have all of it."""
    rest = "..." if len(token) > QUOTED_CHARACTERS else ""
    return decode_utf8(token[:QUOTED_CHARACTERS]) + rest


def decode_utf8(data: bytes) -> str:
    """`data` for a message: every invalid sequence is one U+FFFD."""

    def replacement(match: re.Match[bytes]) -> bytes:
        return (_character(match[0]) or "\ufffd").encode()

    return re.sub(_MULTIBYTE, replacement, data).decode()
