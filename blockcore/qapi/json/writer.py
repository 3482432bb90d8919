# SPDX-License-Identifier: MIT
"""The writer of JSON as QEMU writes it, in pieces of which none takes long to make.

A small value is encoded by the C encoder of the json module in one go.  A value
that may be large (a list of nodes, an `id` that has to be echoed) is walked
without recursion, so that the sender can stop after each piece and continue
later.  No piece needs the big lock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, Final

SMALL: Final = 8000
"""The size up to which a value is encoded in one go, which takes about a millisecond.

The size is the number of values in it, plus one for each 16 characters of strings.  A chain of
200 images has 3000; walking it level by level takes ten times as long.  With more, other clients
wait longer for their turn.
"""

SHORT: Final = 4
"""Items up to which a list that a command returned is converted and encoded in one go.

A short reply in pieces took 12 us more.
"""

_SCALARS: Final = frozenset((int, bool, float, type(None)))
_SLICE: Final = 256
"""Items of a list that are tried in one go."""
_CHARACTERS: Final = 1 << 16
"""Characters of a string in a piece."""

_compact = json.JSONEncoder(check_circular=False)
# How the json module ends a float; a match inside a string only costs time.  Each pattern begins
# with literal characters: looking for these takes a tenth of the time that encoding takes.
_FLOAT_ENDS: Final = [re.compile(start + r"[0-9]+(?:[,\]}]|$)") for start in (r"\.", r"e-", r"e\+")]


class Encoded:
    """A value that is kept as JSON text, because it never changes and is costly to encode."""

    __slots__ = ("text",)

    def __init__(self, value: Any) -> None:
        self.text = "".join(pieces(value))


class Result:
    """The result of a command, which `convert` turns into JSON types when it is written.

    So the big lock is not held for the conversion.  Commands must return values
    that do not change afterwards.
    """

    __slots__ = ("convert", "value")

    def __init__(self, value: Any, convert: Callable[[Any], Any]) -> None:
        self.value = value
        self.convert = convert


class Shared:
    """A message for several clients, which is encoded once."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message

    @cached_property
    def line(self) -> str:
        """The text of the message, with the end of line."""
        return "".join(pieces(self.message)) + "\r\n"


def encode(value: Any) -> bytes:
    """Return `value` as a line of ASCII that ends in CRLF, as QEMU sends it.

    Floats have 17 significant digits, and 1000.0 is 1000 (json_writer_double).
    Bytes of a file name that are not UTF-8 are U+FFFD.
    """
    return ("".join(pieces(value)) + "\r\n").encode("ascii")


def pieces(value: Any) -> Iterator[str]:
    """Yield the text of `value` in pieces."""
    text = at_once(value)
    if text is not None:
        yield text
        return
    stack = [_parts(value)]
    while stack:
        piece = next(stack[-1], None)
        if piece is None:
            stack.pop()
        elif isinstance(piece, str):
            yield piece
        else:
            stack.append(_parts(piece.value))


def at_once(value: Any) -> str | None:
    """Return the text of a message that is small, or None if it has to be made in pieces."""
    plain = _plain(value)
    return _encode(plain) if _is_small(plain) else None


def _plain(value: Any) -> Any:
    """Return a message with the result of its command converted, unless that is a long list."""
    result = value.get("return") if type(value) is dict else None
    if not isinstance(result, Result) or isinstance(result.value, Encoded):
        return value
    if isinstance(result.value, list) and len(result.value) > SHORT:
        return value
    return {**value, "return": result.convert(result.value)}


class _Large:
    """A value that has to be walked, to be written in pieces."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _text(value: Any) -> str | _Large:
    """Return the text of a small value, or mark a large one."""
    return _encode(value) if _is_small(value) else _Large(value)


def _encode(value: Any) -> str:
    """Return the text of a small value."""
    # The C encoder writes floats in another way than QEMU, and lone surrogates (bytes of a file
    # name that are not UTF-8) as escapes that no parser takes; it raises RecursionError for what
    # is nested deeply.
    try:
        text = _compact.encode(value)
    except RecursionError:
        return _encode_exactly(value)
    return _encode_exactly(value) if _has_float(text) or "\\udc" in text else text


def _is_small(value: Any) -> bool:
    """Return whether a value is of JSON types only, and not larger than `SMALL`."""
    left = SMALL
    items = [value]
    for item in items:
        left -= 1
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind is dict:
            left -= sum(map(len, item)) >> 4
            inner = item.values()
        elif isinstance(item, str):
            left -= len(item) >> 4
            continue
        elif kind is list or kind is tuple:
            inner = item
        else:
            return False
        if len(inner) >= left:
            return False
        items += inner
    return left > 0


def _parts(value: Any) -> Iterator[str | _Large]:
    """Yield the text of a large value, in pieces, and the large values inside it."""
    if isinstance(value, str):
        yield from _string(value)
    elif isinstance(value, dict):
        yield from _object(value)
    elif isinstance(value, (list, tuple)):
        yield from _array(value)
    elif isinstance(value, Encoded):
        yield value.text
    elif isinstance(value, Result):
        yield from _result(value)
    else:
        raise TypeError(f"{value!r} is not JSON")


def _string(text: str) -> Iterator[str]:
    yield '"'
    for start in range(0, len(text), _CHARACTERS):
        yield _encode(text[start : start + _CHARACTERS])[1:-1]
    yield '"'


def _object(value: dict[str, Any]) -> Iterator[str | _Large]:
    between = "{"
    for key, member in value.items():
        yield between
        yield _text(key)
        yield ": "
        yield _text(member)
        between = ", "
    yield "}"


def _array(value: Iterable[Any]) -> Iterator[str | _Large]:
    between = "["
    items = iter(value)
    while some := list(islice(items, _SLICE)):
        yield between
        between = ", "
        if _is_small(some):
            yield _encode(some)[1:-1]
            continue
        for number, item in enumerate(some):
            if number:
                yield between
            yield _text(item)
    yield "]" if between == ", " else "[]"


def _result(result: Result) -> Iterator[str | _Large]:
    if isinstance(result.value, Encoded):
        yield result.value.text
    elif isinstance(result.value, list):
        between = "["
        for item in result.value:
            yield between
            yield _text(result.convert(item))
            between = ", "
        yield "]" if result.value else "[]"
    else:
        yield _text(result.convert(result.value))


def _has_float(text: str) -> bool:
    """Return whether JSON text may have a float."""
    for end in _FLOAT_ENDS:
        if end.search(text):
            return True
    return "Infinity" in text or "NaN" in text


class _Literal(str):
    """Text on the stack of `_encode_exactly`, as opposed to a string value."""


def _encode_exactly(value: Any) -> str:
    """Return the text of a value, with floats as QEMU writes them, and without recursion."""
    # The stack has what is still to be written, its last item first.  A container pushes its
    # closing text, then its members in reverse order, each followed on the stack by the text
    # before it; the text before the first member is the opening one.
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
