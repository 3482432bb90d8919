"""From the tokens of one JSON value to the value, in QEMU's order of checks.

Everything here is called with the output of `jsonlexer`, so strings have their
quotes and numbers their form; what is left to find out is structure, escapes,
UTF-8, keywords and duplicate keys.
"""

from __future__ import annotations

import re
from typing import Any, Final

from blockcore.qapi import QmpError

_KEYWORDS: Final[dict[bytes, Any]] = {b"true": True, b"false": False, b"null": None}


def _syntax_error(what: str) -> QmpError:
    return QmpError(f"JSON parse error, {what}")


class _Object:
    """An object under construction; `key` is the one whose value is being read."""

    __slots__ = ("key", "members")

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.key: str | None = None


def value_of(tokens: list[bytes]) -> Any:
    """The value that `tokens` spell out, or QmpError.

    A stack instead of recursion: QEMU allows 1024 levels, Python's stack about
    as many frames.
    """
    remaining = iter(tokens)
    stack: list[_Object | list[Any]] = []
    token = next(remaining, b"")
    while True:
        # `token` has to begin a value, unless it closes a container just opened.
        if token == b"{":
            stack.append(_Object())
        elif token == b"[":
            stack.append([])
        else:
            value = _scalar(token)
            token, done = _place(stack, value, remaining)
            if done:
                return token
            continue
        token = next(remaining, b"")
        if token == (b"]" if isinstance(stack[-1], list) else b"}"):
            token, done = _place(stack, _finished(stack.pop()), remaining)
            if done:
                return token


def _place(stack: list[_Object | list[Any]], value: Any, remaining: Any) -> tuple[Any, bool]:
    """Put a complete value where it belongs, and read on up to the next value.

    Gives the token that has to begin it and False; or, when there is no
    container left to complete, the whole value and True.
    """
    while stack:
        top = stack[-1]
        token = next(remaining, b"")
        if isinstance(top, list):
            top.append(value)
            closing, kind = b"]", "list"
        elif top.key is None:
            top.key = _key(value, token)
            return next(remaining, b""), False
        else:
            if top.key in top.members:
                raise _syntax_error("duplicate key")
            top.members[top.key] = value
            top.key = None
            closing, kind = b"}", "dict"
        if token == b",":
            return next(remaining, b""), False
        if token != closing:
            raise _premature_or(token, f"expected separator in {kind}")
        value = _finished(stack.pop())
    return value, True


def _finished(container: _Object | list[Any]) -> Any:
    return container if isinstance(container, list) else container.members


def _key(value: Any, token: bytes) -> str:
    if type(value) is not str:
        raise _syntax_error("key is not a string in object")
    if token != b":":
        raise _premature_or(token, "missing : in object pair")
    return value


def _premature_or(token: bytes, what: str) -> QmpError:
    return _syntax_error(what if token else "premature EOI")


def _scalar(token: bytes) -> Any:
    first = token[:1]
    if first in (b'"', b"'"):
        return _string(token)
    if first.isdigit() or first == b"-":
        return number_from(token.decode("ascii"))
    if not first.isalpha():
        raise _premature_or(token, "expecting value")
    if token not in _KEYWORDS:
        raise _syntax_error(f"invalid keyword '{token.decode('ascii')}'")
    return _KEYWORDS[token]


def number_from(text: str) -> int | float:
    """An integer if it fits in 64 bits, signed or unsigned; else the nearest float."""
    if text.isdigit() or (text[0] == "-" and text[1:].isdigit()):
        # The length first: int() of a very long string is slow, and refused in the end.
        if len(text) <= 20 and -(1 << 63) <= (number := int(text)) < 1 << 64:
            return number
    return float_from(text)


def float_from(text: str) -> float:
    """The nearest float; beyond the largest one infinity, as strtod() has it."""
    return float(text)


# A UTF-8 sequence of up to six bytes, or what is left of one.
_MULTIBYTE: Final = (
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc-\xfd][\x80-\xbf]{0,5}|[\x80-\xff]"
)
_PIECE: Final = re.compile(
    rb"(?P<plain>[\x20-\x5b\x5d-\x7f]+)|\\(?P<escape>.)|(?P<multibyte>" + _MULTIBYTE + rb")",
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
    return "".join(output)


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


def decode_utf8(data: bytes) -> str:
    """`data` for a message: every invalid sequence is one U+FFFD."""

    def replacement(match: re.Match[bytes]) -> bytes:
        return (_character(match[0]) or "\ufffd").encode()

    return re.sub(_MULTIBYTE, replacement, data).decode()
