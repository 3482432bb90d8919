# SPDX-License-Identifier: MIT
"""The parser of a stream of JSON values without separators, as QEMU reads it.

The grammar and the messages are those of `qobject/json-parser.c` and
`json-streamer.c`, as observed on QEMU 7.2.  QEMU collects tokens until braces
and brackets balance, and then parses them.  So a value is complete with its
last byte (no newline is needed), a stray byte discards the tokens before it,
and a value has only one error, its first, which is reported at its end.

Nearly all input is one plain JSON object in one piece.  Such an object takes a
fast path through the C scanner of the json module, about ten times as fast.
The fast path is taken only where both parsers must agree: ASCII, no ``\\u``, and
no number or key that the hooks below refuse.  What the fast path refuses is
parsed again by the lexer, which gives QEMU's error.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from blockcore.qapi.json.lexer import Lexer
from blockcore.qapi.json.value import ValueBuilder, float_from, number_from, quoted
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass

PIECE: Final = 16 << 10
"""Bytes that the C scanner is given in one go."""

LEXED: Final = 512
"""Bytes that the lexer is given in one go: it is slower, and no call may take long.

A string token that is longer is decoded in several turns.
"""

NUL: Final = b"\0"
"""A message shows a stray token up to its first NUL, because QEMU's strings are C's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one value; the defaults are QEMU's (`json-streamer.c`)."""

    token_size: int = 64 << 20
    """Bytes of all tokens of a value."""
    token_count: int = 2 << 20
    nesting: int = 1024


class Parsed(NamedTuple):
    """A value of the stream; `size` is roughly its bytes and its tokens, both counted."""

    value: Any
    size: int


@dataclass(frozen=True, slots=True)
class ParseError:
    """An error in the input, with QEMU's message; the stream goes on behind it."""

    desc: str


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys, of which the json module would take the last."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _plain_float(text: str) -> float:
    """Refuse floats such as ``0e1``, which QEMU's lexer splits in two."""
    if text.lstrip("-")[:2] in ("0e", "0E"):
        raise ValueError("two tokens for QEMU")
    return float_from(text)


def _no_constant(text: str) -> Any:
    """Refuse ``NaN`` and ``Infinity``."""
    raise ValueError(text)


_plain = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_float=_plain_float,
    parse_int=number_from,
    parse_constant=_no_constant,
)
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class JsonStream:
    """An incremental parser: `feed` it bytes as they come, and `pull` until it is `exhausted`.

    No call of `pull` takes long, whatever the input is.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lexer = Lexer(self._limits.token_size)
        self._fed: deque[memoryview] = deque()
        self._data = b""
        # `_data` as text, if the fast path may be tried.
        self._text: str | None = None
        self._position = 0
        self._long_string: Iterator[None] | None = None
        self._forget()

    def feed(self, data: bytes) -> None:
        """Append input, which the next calls of `pull` parse."""
        if data:
            self._fed.append(memoryview(data))

    def exhausted(self) -> bool:
        """Return whether all input has been parsed."""
        return (
            self._position >= len(self._data) and not self._fed and self._long_string is None
        )

    def _in_long_string(self) -> bool:
        """Return whether a long string is being decoded."""
        return self._long_string is not None

    def pull(self) -> Parsed | ParseError | None:
        """Parse the next piece of the input; return the value or error that ends in it, or None."""
        # First what is begun: a long string, the present piece.  At the beginning of a value the
        # fast path is tried; otherwise `LEXED` bytes go through the lexer, until a value or an
        # error is complete, or a token is a long string, whose decoding takes turns of its own.
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
        """Return the value or error that the end of input completes, or None if nothing is left."""
        token, proper = self._lexer.finish()
        if token is not None:
            result = self._add(token) if proper else self._stray(token)
            if result is not None:
                return result
        return self._evaluate() if self._count else None

    def reset(self) -> None:
        """Forget all input."""
        self._lexer = Lexer(self._limits.token_size)
        self._fed.clear()
        self._data, self._position = b"", 0
        self._long_string = None
        self._forget()

    def _next_piece(self) -> None:
        """Take at most `PIECE` bytes of what was fed."""
        data, self._position = b"", 0
        if self._fed:
            first = self._fed.popleft()
            if len(first) > PIECE:
                self._fed.appendleft(first[PIECE:])
            data = bytes(first[:PIECE])
        self._data = data
        self._text = data.decode("ascii") if data.isascii() else None

    def _pull_plain(self, text: str) -> Parsed | None:
        """Return the object that begins here, or None unless the C scanner must agree with QEMU."""
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
        """Take one token; return the value or error if it ends a value or exceeds a limit."""
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
        """Decode the next part of a long string."""
        assert self._long_string is not None
        for _ in self._long_string:
            return None
        self._long_string = None
        return self._evaluate_if_balanced()

    def _evaluate_if_balanced(self) -> Parsed | ParseError | None:
        """Return the value or error, unless braces or brackets are open.

        With more closed than opened ones the tokens are complete as well
        (json_message_process_token).
        """
        opened = (self._braces, self._brackets)
        return None if max(opened) > 0 and min(opened) >= 0 else self._evaluate()

    def _stray(self, token: bytes) -> ParseError:
        """Return the error for a stray token; it discards the tokens before."""
        return self._error(f"JSON parse error, stray '{quoted(token.partition(NUL)[0])}'")

    def _evaluate(self) -> Parsed | ParseError:
        """Return what the tokens so far are, and forget them."""
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
    """Return the one JSON value in `text` (a ``json:`` file name, ``-blockdev '{...}'``).

    Raises QmpError with the message of QEMU's qobject_from_json.
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
    """Return the next value or error of a stream that has all of its input."""
    while not stream.exhausted():
        if item := stream.pull():
            return item
    return stream.finish()
