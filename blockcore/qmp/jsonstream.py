"""JSON as QEMU reads and writes it: a stream of values, without separators.

The grammar and every message are those of `qobject/json-parser.c` and
`json-streamer.c`, as observed on QEMU 7.2: tokens are collected until braces
and brackets balance, and only then parsed.  So a value is complete with its
last byte (no newline is needed), a stray byte throws away what was collected
before it, and the first error of a value is the only one.

Nearly all input is one plain JSON object in one piece.  For that there is a
short way through the C scanner of the json module.  It is taken only when both
must agree: ASCII, no ``\\u``, and nothing that the hooks below object to.
Whatever the short way refuses goes the long way, which words the error.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from blockcore.qapi import QmpError
from blockcore.qmp.jsonlexer import Lexer
from blockcore.qmp.jsonvalue import decode_utf8, float_from, number_from, value_of


@dataclass(frozen=True, slots=True)
class Limits:
    """What one value may take, QEMU's numbers."""

    token_size: int = 64 << 20
    """Bytes in all tokens of one value together."""
    token_count: int = 2 << 20
    nesting: int = 1024


@dataclass(frozen=True, slots=True)
class Parsed:
    """One value of the stream."""

    value: Any


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
    """An incremental parser.  `feed` bytes as they come, `pull` until it gives None."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lexer = Lexer(self._limits.token_size)
        self._fed: list[bytes] = []
        self._data = b""
        # The same, if it may take the short way.
        self._text: str | None = None
        self._position = 0
        self._forget()

    def feed(self, data: bytes) -> None:
        """Append input; nothing is looked at before the next `pull`."""
        self._fed.append(data)

    def exhausted(self) -> bool:
        """All input has been looked at."""
        return self._position >= len(self._data) and not self._fed

    def pull(self) -> Parsed | ParseError | None:
        """The next value or error; None when more input is needed for one."""
        while not self.exhausted():
            if self._position >= len(self._data):
                self._data = b"".join(self._fed)
                self._text = self._data.decode("ascii") if self._data.isascii() else None
                self._fed.clear()
                self._position = 0
            if self._text is not None and not self._tokens and self._lexer.between_tokens:
                plain = self._pull_plain(self._text)
                if plain is not None:
                    return plain
            token, proper, self._position = self._lexer.scan(self._data, self._position)
            if token is not None:
                result = self._add(token) if proper else self._stray(token)
                if result is not None:
                    return result
        return None

    def finish(self) -> ParseError | Parsed | None:
        """What the end of input completes: a value, or an error; None if nothing is left."""
        token, proper = self._lexer.finish()
        if token is not None:
            result = self._add(token) if proper else self._stray(token)
            if result is not None:
                return result
        return self._evaluate() if self._tokens else None

    def _pull_plain(self, text: str) -> Parsed | None:
        """The short way: an object that begins here and is complete and beyond doubt."""
        match = _SPACE.match(text, self._position)
        assert match
        start = self._position = match.end()
        if text[start : start + 1] != "{":
            return None
        try:
            value, end = _plain.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        limits = self._limits
        if (
            text.find("\\u", start, end) >= 0
            or text.count("{", start, end) + text.count("[", start, end) > limits.nesting
            or end - start >= min(limits.token_size, limits.token_count)
        ):
            return None
        self._position = end
        return Parsed(value)

    def _add(self, token: bytes) -> Parsed | ParseError | None:
        """Collect one token; a result if that ends a value or breaks a limit."""
        if token in b"{}":
            self._braces += 1 if token == b"{" else -1
        elif token in b"[]":
            self._brackets += 1 if token == b"[" else -1
        # QEMU counts the terminating NUL of the newest token.
        if self._size + len(token) + 1 > self._limits.token_size:
            return self._error("JSON token size limit exceeded")
        if len(self._tokens) + 1 > self._limits.token_count:
            return self._error("JSON token count limit exceeded")
        if self._braces + self._brackets > self._limits.nesting:
            return self._error("JSON nesting depth limit exceeded")
        self._size += len(token)
        self._tokens.append(token)
        opened = (self._braces, self._brackets)
        return None if max(opened) > 0 and min(opened) >= 0 else self._evaluate()

    def _stray(self, token: bytes) -> ParseError:
        text = decode_utf8(token.partition(b"\0")[0])
        return self._error(f"JSON parse error, stray '{text}'")

    def _evaluate(self) -> Parsed | ParseError:
        tokens = self._tokens
        self._forget()
        try:
            return Parsed(value_of(tokens))
        except QmpError as error:
            return ParseError(error.desc)

    def _error(self, desc: str) -> ParseError:
        self._forget()
        return ParseError(desc)

    def _forget(self) -> None:
        self._tokens: list[bytes] = []
        self._size = 0
        self._braces = 0
        self._brackets = 0


def parse_json(text: str) -> Any:
    """The one JSON value that `text` is (``json:`` file names, ``-blockdev '{...}'``).

    Raises QmpError in the words of QEMU's `qobject_from_json`.
    """
    stream = JsonStream()
    stream.feed(text.encode("utf-8", "surrogateescape"))
    first = stream.pull() or stream.finish()
    if first is None:
        raise QmpError("Expecting a JSON value")
    if isinstance(first, ParseError):
        raise QmpError(first.desc)
    if stream.pull() or stream.finish():
        raise QmpError("Expecting at most one JSON value")
    return first.value


_compact = json.JSONEncoder(check_circular=False)
# How the json module ends a float; a match inside a string does no harm.  Each begins with
# literal characters: looking for these takes a tenth of the time that encoding takes.
_FLOAT_ENDS: Final = [re.compile(start + r"[0-9]+(?:[,\]}]|$)") for start in (r"\.", r"e-", r"e\+")]


def _has_float(text: str) -> bool:
    return any(end.search(text) for end in _FLOAT_ENDS) or "Infinity" in text or "NaN" in text


def encode(value: Any) -> bytes:
    """`value` on one line of ASCII that ends in CRLF.

    Numbers look as QEMU writes them: 17 significant digits, 1000.0 as 1000.
    What is not UTF-8 in a file name is U+FFFD.
    """
    try:
        text = _compact.encode(value)
        if _has_float(text) or "\\udc" in text:
            text = _encode_exactly(value)
    except RecursionError:
        text = _encode_exactly(value)
    return text.encode("ascii") + b"\r\n"


class _Literal(str):
    """A piece of output on the stack of values that wait for theirs."""


def _encode_exactly(value: Any) -> str:
    """Without the json module's idea of floats, and without recursion."""
    output: list[str] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, _Literal):
            output.append(item)
        elif isinstance(item, float):
            output.append(f"{item:.17g}")
        elif isinstance(item, dict):
            stack.append(_Literal("}"))
            for key, member in reversed(item.items()):
                stack += [member, _Literal(f"{_compact.encode(key)}: "), _Literal(", ")]
            stack[-1:] = [_Literal("{")] if item else [_Literal("}"), _Literal("{")]
        elif isinstance(item, (list, tuple)):
            stack.append(_Literal("]"))
            for member in reversed(item):
                stack += [member, _Literal(", ")]
            stack[-1:] = [_Literal("[")] if item else [_Literal("]"), _Literal("[")]
        elif isinstance(item, str):
            whole = item.encode("utf-8", "surrogateescape").decode(errors="replace")
            output.append(_compact.encode(whole))
        else:
            output.append(_compact.encode(item))
    return "".join(output)
