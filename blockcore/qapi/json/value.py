# SPDX-License-Identifier: MIT
"""The parser of the tokens of one JSON value, with QEMU's order of checks.

Tokens come from `lexer`, so that strings have their quotes and numbers have the
right form.  What is checked here is structure, escapes, UTF-8, keywords and
duplicate keys (`qobject/json-parser.c`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from math import isinf
from typing import Any, Final

from blockcore.qapi.names import QmpError

NUMBER_CHARACTERS: Final = 10_000
"""The greatest length of a number; the conversion of a longer one would take too long."""

QUOTED_CHARACTERS: Final = 1000
"""Bytes of a token that an error message shows."""

_STEP: Final = 1000
"""Pieces of a string, or characters of one piece, after which `string_parts` yields."""

_KEYWORDS: Final[dict[bytes, Any]] = {b"true": True, b"false": False, b"null": None}


def _syntax_error(what: str) -> QmpError:
    """Return the error of QEMU's parse_error."""
    return QmpError(f"JSON parse error, {what}")


class _Object:
    """An object under construction; `key` is the key whose value is awaited, or None."""

    __slots__ = ("key", "members")

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.key: str | None = None


class _Expected(Enum):
    """The kinds of token that may come next."""

    VALUE = auto()
    VALUE_OR_END = auto()
    COLON = auto()
    SEPARATOR = auto()


class ValueBuilder:
    """A builder of one value from its tokens, or of the first error in them.

    It has a stack instead of recursion: QEMU allows 1024 levels, and Python's
    stack has about as many frames.
    """

    def __init__(self) -> None:
        self._stack: list[_Object | list[Any]] = []
        self._expected = _Expected.VALUE
        self._error: str | None = None
        self._done = False
        self._value: Any = None

    def add(self, token: bytes) -> None:
        """Take the next token; tokens after an error are ignored."""
        if self._error is None:
            try:
                self._take(token)
            except QmpError as error:
                self._fail(error)

    def add_string(self, token: bytes) -> Iterator[None]:
        """Take a string as the next token; yields after each part that has been decoded."""
        if self._error is not None:
            return
        try:
            if self._expected in (_Expected.COLON, _Expected.SEPARATOR):
                self._take(token)  # raises: no value may be here
            parts = []
            for part in string_parts(token):
                parts.append(part)
                yield
            self._place("".join(parts))
        except QmpError as error:
            self._fail(error)

    def result(self) -> Any:
        """Return the value, after all tokens, or raise QmpError for the first error."""
        if self._error is not None:
            raise QmpError(self._error)
        if not self._done:
            raise _syntax_error("premature EOI")
        return self._value

    def _fail(self, error: QmpError) -> None:
        """Record the first error."""
        # Its text only: its traceback leads to this frame, and so to the builder: a cycle.
        self._error = error.desc
        self._stack.clear()

    def _take(self, token: bytes) -> None:
        """Take the next token, or raise QmpError."""
        # Between two parts of a container only one or two tokens are right.  Everywhere else a
        # value is expected: a container begins, an empty one ends, or the token is a scalar.
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
        """Return the token that closes the innermost container."""
        return b"]" if isinstance(self._stack[-1], list) else b"}"

    def _open(self, container: _Object | list[Any]) -> None:
        self._stack.append(container)
        self._expected = _Expected.VALUE_OR_END

    def _close(self) -> None:
        """Complete the innermost container, and put it where it belongs."""
        container = self._stack.pop()
        self._place(container if isinstance(container, list) else container.members)

    def _place(self, value: Any) -> None:
        """Put a complete value into the innermost container, or make it the result."""
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
    """Return the value of a token that begins no container, or raise QmpError."""
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
    """Return an int if the number fits in 64 bits, signed or unsigned, else the nearest float."""
    if text.isdigit() or (text[0] == "-" and text[1:].isdigit()):
        # The length first: int() of a very long string is slow, or raises ValueError.
        if len(text) <= 20 and -(1 << 63) <= (number := int(text)) < 1 << 64:
            return number
    return float_from(text)


def float_from(text: str) -> float:
    """Return the nearest float; raise QmpError beyond the largest one."""
    # QEMU takes such a number for infinity, and echoes it as ``inf``, which is not JSON.
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
    """Return the text of a string token, or raise QmpError for its first error."""
    return "".join(string_parts(token))


def string_parts(token: bytes) -> Iterator[str]:
    """Yield the text of a string token in parts; raise QmpError for its first error."""
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
    """Return the character of the ``\\u`` escape at `start`, and where the escape ends."""
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
    """Return whether a code point is neither a surrogate nor one of Unicode's noncharacters."""
    return (
        0 <= codepoint <= 0x10FFFF
        and not 0xD800 <= codepoint <= 0xDFFF
        and not 0xFDD0 <= codepoint <= 0xFDEF
        and codepoint & 0xFFFE != 0xFFFE
    )


def _character(sequence: bytes) -> str | None:
    """Return the character of a UTF-8 sequence, or None if it is invalid.

    C0 80 is NUL: QEMU reads modified UTF-8 (mod_utf8_codepoint).
    """
    if sequence == b"\xc0\x80":
        return "\0"
    try:
        character = sequence.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return character if _is_character(ord(character)) else None


def quoted(token: bytes) -> str:
    """Return a token for an error message, cut after `QUOTED_CHARACTERS`."""
    rest = "..." if len(token) > QUOTED_CHARACTERS else ""
    return decode_utf8(token[:QUOTED_CHARACTERS]) + rest


def decode_utf8(data: bytes) -> str:
    """Return the text of `data` for an error message: an invalid sequence is one U+FFFD."""

    def replacement(match: re.Match[bytes]) -> bytes:
        return (_character(match[0]) or "\ufffd").encode()

    return re.sub(_MULTIBYTE, replacement, data).decode()
