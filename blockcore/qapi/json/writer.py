# SPDX-License-Identifier: MIT
"""JSON as QEMU writes it, in pieces none of which keeps the interpreter for long.

What is small goes through the C encoder of the json module.  What may be large
(a list of nodes, an `id` that a client wants to have echoed) is walked without
recursion, so that whoever sends it can stop after every piece and go on later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, Final

SMALL: Final = 8000
"""Values, and 16 characters of a string each, that are encoded in one go: a millisecond.

A chain of 200 images has 3000; to walk it level by level takes ten times as long.
"""

SHORT: Final = 4
"""Items of a list that become JSON in one go."""

_SCALARS: Final = frozenset((int, bool, float, type(None)))
_SLICE: Final = 256
_CHARACTERS: Final = 1 << 16

_compact = json.JSONEncoder(check_circular=False)
# How the json module ends a float; a match inside a string does no harm.  Each begins with
# literal characters: looking for these takes a tenth of the time that encoding takes.
_FLOAT_ENDS: Final = [re.compile(start + r"[0-9]+(?:[,\]}]|$)") for start in (r"\.", r"e-", r"e\+")]


class Encoded:
    """A value that is JSON text already: one that is always the same, and costly."""

    __slots__ = ("text",)

    def __init__(self, value: Any) -> None:
        self.text = "".join(pieces(value))


class Result:
    """What a command has returned; it becomes JSON by `convert` when it is written.

    So the big lock is not held for it.  The value does not change any more.
    """

    __slots__ = ("convert", "value")

    def __init__(self, value: Any, convert: Callable[[Any], Any]) -> None:
        self.value = value
        self.convert = convert


class Shared:
    """A message for several clients, encoded once."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message

    @cached_property
    def line(self) -> str:
        """Its text, as it is sent."""
        return "".join(pieces(self.message)) + "\r\n"


def encode(value: Any) -> bytes:
    """`value` on one line of ASCII that ends in CRLF.

    Numbers look as QEMU writes them: 17 significant digits, 1000.0 as 1000.
    What is not UTF-8 in a file name is U+FFFD.
    """
    return ("".join(pieces(value)) + "\r\n").encode("ascii")


def pieces(value: Any) -> Iterator[str]:
    """The text of `value`, bit by bit."""
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
    """The text of a message that is short; None of one that had better come in pieces."""
    plain = _plain(value)
    return _encode(plain) if _is_small(plain) else None


def _plain(value: Any) -> Any:
    """A message, with what a command has returned as JSON already if that is not much."""
    result = value.get("return") if type(value) is dict else None
    if not isinstance(result, Result) or isinstance(result.value, Encoded):
        return value
    if isinstance(result.value, list) and len(result.value) > SHORT:
        return value
    return {**value, "return": result.convert(result.value)}


class _Large:
    """A value that is to be written in pieces."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _text(value: Any) -> str | _Large:
    return _encode(value) if _is_small(value) else _Large(value)


def _encode(value: Any) -> str:
    try:
        text = _compact.encode(value)
    except RecursionError:
        return _encode_exactly(value)
    return _encode_exactly(value) if _has_float(text) or "\\udc" in text else text


def _is_small(value: Any) -> bool:
    """Whether the C encoder may have it: plain JSON, and not much of it."""
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
    for end in _FLOAT_ENDS:
        if end.search(text):
            return True
    return "Infinity" in text or "NaN" in text


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
