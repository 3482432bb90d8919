# SPDX-License-Identifier: MIT
"""JSON as QEMU reads and writes it: a stream of values, without separators.

The grammar and every message are those of `qobject/json-parser.c` and
`json-streamer.c`, as observed on QEMU 7.2, which collects tokens until braces
and brackets balance, and only then parses them.  So a value is complete with
its last byte (no newline is needed), a stray byte throws away what came before
it, and the first error of a value is the only one, told at the value's end.

Nearly all input is one plain JSON object in one piece.  For that there is a
short way through the C scanner of the json module.  It is taken only when both
must agree: ASCII, no ``\\u``, and nothing that the hooks below object to.
Whatever the short way refuses goes the long way, which words the error.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from blockcore.qapi.json.lexer import Lexer
from blockcore.qapi.json.value import ValueBuilder, float_from, number_from, quoted
from blockcore.qapi.names import QmpError

PIECE: Final = 16 << 10
"""So much is given to the C scanner in one go."""

LEXED: Final = 512
"""So much goes through the lexer in one go, a few times as slowly."""

NUL: Final = b"\0"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one value may take, QEMU's numbers."""

    token_size: int = 64 << 20
    """Bytes in all tokens of one value together."""
    token_count: int = 2 << 20
    nesting: int = 1024


class Parsed(NamedTuple):
    """One value of the stream; `size` is about what it took: bytes, and tokens."""

    value: Any
    size: int


@dataclass(frozen=True, slots=True)
class ParseError:
    """Input that is no value; the stream goes on behind it."""

    desc: str


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _plain_float(text: str) -> float:
    if text.lstrip("-")[:2] in ("0e", "0E"):
        raise ValueError("two tokens for QEMU")
    return float_from(text)


def _no_constant(text: str) -> Any:
    raise ValueError(text)


_plain = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_float=_plain_float,
    parse_int=number_from,
    parse_constant=_no_constant,
)
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class JsonStream:
    """An incremental parser: `feed` bytes as they come, `pull` as long as there are any.

    No call of `pull` takes long, however the input is made.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lexer = Lexer(self._limits.token_size)
        self._fed: deque[memoryview] = deque()
        self._data = b""
        # The same, if it may take the short way.
        self._text: str | None = None
        self._position = 0
        self._long_string: Iterator[None] | None = None
        self._forget()

    def feed(self, data: bytes) -> None:
        """Append input; nothing is looked at before the next `pull`."""
        if data:
            self._fed.append(memoryview(data))

    def exhausted(self) -> bool:
        """All input has been looked at."""
        return (
            self._position >= len(self._data) and not self._fed and self._long_string is None
        )

    def _in_long_string(self) -> bool:
        return self._long_string is not None

    def pull(self) -> Parsed | ParseError | None:
        """The next value or error; None if none ends in the next piece of the input."""
        if self._long_string is not None:
            return self._go_on_with_string()
        if self._position >= len(self._data):
            self._next_piece()
        if self._text is not None and not self._count and self._lexer.between_tokens:
            plain = self._pull_plain(self._text)
            if plain is not None:
                return plain
        end = min(len(self._data), self._position + LEXED)
        while self._position < end:
            token, proper, self._position = self._lexer.scan(self._data, self._position, end)
            if token is not None:
                result = self._add(token) if proper else self._stray(token)
                if result is not None:
                    return result
                if self._in_long_string():
                    break
        return None

    def finish(self) -> ParseError | Parsed | None:
        """What the end of input completes: a value, or an error; None if nothing is left."""
        token, proper = self._lexer.finish()
        if token is not None:
            result = self._add(token) if proper else self._stray(token)
            if result is not None:
                return result
        return self._evaluate() if self._count else None

    def reset(self) -> None:
        """Forget all that was fed."""
        self._lexer = Lexer(self._limits.token_size)
        self._fed.clear()
        self._data, self._position = b"", 0
        self._long_string = None
        self._forget()

    def _next_piece(self) -> None:
        data, self._position = b"", 0
        if self._fed:
            first = self._fed.popleft()
            if len(first) > PIECE:
                self._fed.appendleft(first[PIECE:])
            data = bytes(first[:PIECE])
        self._data = data
        self._text = data.decode("ascii") if data.isascii() else None

    def _pull_plain(self, text: str) -> Parsed | None:
        """The short way: an object that begins here and is complete and beyond doubt."""
        match = _SPACE.match(text, self._position)
        assert match
        start = self._position = match.end()
        if text[start : start + 1] != "{":
            return None
        try:
            value, end = _plain.raw_decode(text, start)
        except (ValueError, QmpError, RecursionError):
            return None
        limits = self._limits
        if (
            text.find("\\u", start, end) >= 0
            or text.count("{", start, end) + text.count("[", start, end) > limits.nesting
            or end - start >= min(limits.token_size, limits.token_count)
        ):
            return None
        self._position = end
        return Parsed(value, end - start)

    def _add(self, token: bytes) -> Parsed | ParseError | None:
        """Take one token; a result if that ends a value or breaks a limit."""
        if token in (b"{", b"}"):
            self._braces += 1 if token == b"{" else -1
        elif token in (b"[", b"]"):
            self._brackets += 1 if token == b"[" else -1
        # QEMU counts the terminating NUL of the newest token.
        if self._size + len(token) + 1 > self._limits.token_size:
            return self._error("JSON token size limit exceeded")
        if self._count + 1 > self._limits.token_count:
            return self._error("JSON token count limit exceeded")
        if self._braces + self._brackets > self._limits.nesting:
            return self._error("JSON nesting depth limit exceeded")
        self._size += len(token)
        self._count += 1
        if len(token) > LEXED and token[:1] in (b'"', b"'"):
            self._long_string = self._builder.add_string(token)
            return None
        self._builder.add(token)
        return self._evaluate_if_balanced()

    def _go_on_with_string(self) -> Parsed | ParseError | None:
        assert self._long_string is not None
        for _ in self._long_string:
            return None
        self._long_string = None
        return self._evaluate_if_balanced()

    def _evaluate_if_balanced(self) -> Parsed | ParseError | None:
        opened = (self._braces, self._brackets)
        return None if max(opened) > 0 and min(opened) >= 0 else self._evaluate()

    def _stray(self, token: bytes) -> ParseError:
        return self._error(f"JSON parse error, stray '{quoted(token.partition(NUL)[0])}'")

    def _evaluate(self) -> Parsed | ParseError:
        builder, size = self._builder, self._size + self._count
        self._forget()
        try:
            return Parsed(builder.result(), size)
        except QmpError as error:
            return ParseError(error.desc)

    def _error(self, desc: str) -> ParseError:
        self._forget()
        return ParseError(desc)

    def _forget(self) -> None:
        self._builder = ValueBuilder()
        self._count = 0
        self._size = 0
        self._braces = 0
        self._brackets = 0


def parse_json(text: str) -> Any:
    """The one JSON value that `text` is (``json:`` file names, ``-blockdev '{...}'``).

    Raises QmpError in the words of QEMU's `qobject_from_json`.
    """
    stream = JsonStream()
    stream.feed(text.encode("utf-8", "surrogateescape"))
    first = _first(stream)
    if first is None:
        raise QmpError("Expecting a JSON value")
    if isinstance(first, ParseError):
        raise QmpError(first.desc)
    if _first(stream):
        raise QmpError("Expecting at most one JSON value")
    return first.value


def _first(stream: JsonStream) -> Parsed | ParseError | None:
    while not stream.exhausted():
        if item := stream.pull():
            return item
    return stream.finish()
