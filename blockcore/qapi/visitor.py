# SPDX-License-Identifier: MIT
"""One value against one QAPI type: what is accepted, and QEMU 7.2's words when it is not.

Two sources of values exist, and they differ in their scalars only.  JSON (QMP,
``-blockdev '{...}'``) is typed.  Keyval (``driver=raw,size=1k``) has strings
for everything; these are converted on the way.  Texts and limits were taken
from the answers of ``qemu-system-x86_64``; where its own errors name a member
by its last component only (enum values, narrow integers), so do these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from blockcore.qapi.names import QmpError

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1
UINT64_MAX: Final = (1 << 64) - 1

NESTING_MAX: Final = 64
"""Levels of objects that are looked into: of nodes that are defined in each other."""


class Null(Enum):
    """JSON's ``null`` as a value, where an absent member (None) means something else."""

    NULL = None


@dataclass(frozen=True, slots=True)
class Name:
    """Where a value stands: the dotted path, its last component, and the kind of source.

    `absent` has the members that are not known there (`qemu.Release.absent`).
    `ours` tells that QEMU has nothing of the kind: a command or member ``x-``.
    """

    full: str = ""
    local: str = ""
    keyval: bool = False
    absent: frozenset[str] = frozenset()
    ours: bool = False
    level: int = 0

    def member(self, key: str) -> Name:
        """The name of member `key` of the object that stands here; QmpError if that is too deep."""
        if self.level >= NESTING_MAX:
            raise QmpError("JSON nesting depth limit exceeded")
        full = f"{self.full}.{key}" if self.full else key
        ours = self.ours or key.startswith("x-")
        return Name(full, key, self.keyval, self.absent, ours, self.level + 1)

    def item(self, index: int) -> Name:
        """The name of one element; elements have no name of their own."""
        full = f"{self.full}.{index}" if self.keyval else f"{self.full}[{index}]"
        return Name(full, "", self.keyval, self.absent, self.ours, self.level)

    def type_error(self, expected: str) -> QmpError:
        """The value has the wrong JSON type."""
        shown = self.full or "<anonymous>"
        return QmpError(f"Invalid parameter type for '{shown}', expected: {expected}")

    def expects(self, what: str) -> QmpError:
        """The value has an acceptable type but cannot be converted."""
        return QmpError(f"Parameter '{self.full or '<anonymous>'}' expects {what}")


class QapiType:
    """A type that can visit a value.  `json_type` is SchemaInfo's word for its JSON form."""

    json_type: str

    def visit(self, value: Any, name: Name) -> Any:
        """Return `value` as Python sees it, or raise QmpError."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Builtin(QapiType):
    """A scalar without parameters; `name` is QAPI's."""

    name: str
    json_type: str

    def visit(self, value: Any, name: Name) -> Any:
        if name.keyval and self.name not in ("any", "null"):
            return _keyval(self.name, value, name)
        return _json(self.name, value, name)


@dataclass(frozen=True, slots=True)
class Unsigned(QapiType):
    """`size` and the uintN family: at most `maximum`.

    QEMU takes a negative int64 for the uint64 of the same bits, and checks the
    narrower types afterwards, under their C name and without the path.  Where
    QEMU has nothing, a negative number is a slip.
    """

    name: str
    maximum: int = UINT64_MAX
    json_type: str = "int"

    def visit(self, value: Any, name: Name) -> int:
        if name.keyval:
            number = _keyval(self.name, value, name)
        elif type(value) is int and INT64_MIN <= value <= UINT64_MAX:
            number = value & UINT64_MAX
        else:
            raise name.expects("uint64")
        if name.ours and not name.keyval and value < 0:
            raise name.expects("a non-negative number")
        if number > self.maximum:
            raise QmpError(f"Parameter '{name.local or 'null'}' expects {self.name}_t")
        return int(number)


@dataclass(frozen=True, slots=True, eq=False)
class Enumeration(QapiType):
    """`values` maps the wire strings to what Python gets for them."""

    name: str
    values: Mapping[str, Any]
    json_type: str = "string"

    def visit(self, value: Any, name: Name) -> Any:
        text = STR.visit(value, name)
        try:
            return self.values[text]
        except KeyError:
            local = name.local or "null"
            raise QmpError(f"Parameter '{local}' does not accept value '{text}'") from None


@dataclass(frozen=True, slots=True, eq=False)
class Array(QapiType):
    """A JSON array of `element`."""

    element: QapiType
    json_type: str = "array"

    def visit(self, value: Any, name: Name) -> list[Any]:
        if type(value) is not list:
            raise name.type_error("array")
        return [self.element.visit(item, name.item(n)) for n, item in enumerate(value)]


STR: Final = Builtin("str", "string")
INT: Final = Builtin("int", "int")
BOOL: Final = Builtin("bool", "boolean")
NUMBER: Final = Builtin("number", "number")
ANY: Final = Builtin("any", "value")
NULL: Final = Builtin("null", "null")

_JSON_CLASSES: Final = {"str": (str,), "bool": (bool,), "int": (int,), "number": (int, float)}
_EXPECTED: Final = {"str": "string", "bool": "boolean", "int": "integer", "number": "number"}


def _json(kind: str, value: Any, name: Name) -> Any:
    if kind == "any":
        return value
    if kind == "null":
        if value is not None:
            raise name.type_error("null")
        return Null.NULL
    # The exact type: True is an instance of int, but it is not an integer.
    if type(value) not in _JSON_CLASSES[kind]:
        raise name.type_error(_EXPECTED[kind])
    if kind == "int" and not INT64_MIN <= value <= INT64_MAX:
        raise name.type_error("integer")
    return float(value) if kind == "number" else value


_TRUTH: Final = dict.fromkeys(("on", "yes", "true", "y"), True) | dict.fromkeys(
    ("off", "no", "false", "n"), False
)
# strtoll with base 0: white space, sign, then hexadecimal, octal or decimal.
_INTEGER: Final = re.compile(r"[ \t-\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_NUMBER: Final = re.compile(r"[ \t-\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Hexadecimal takes the suffix too: b and e are digits there.
_SIZE: Final = re.compile(
    r"[ \t-\r]*\+?(?:0[xX]([0-9a-fA-F]+)|([0-9]+)(?:\.([0-9]*))?)([bBkKmMgGtTpPeE]?)"
)
_SUFFIXES: Final = "bkmgtpe"


def _keyval(kind: str, value: Any, name: Name) -> Any:
    if type(value) is not str:
        raise QmpError(f"Parameters '{name.full}.*' are unexpected")
    if kind == "str":
        return value
    if kind == "bool":
        if value not in _TRUTH:
            raise name.expects("'on' or 'off'")
        return _TRUTH[value]
    if kind == "size":
        return _size(value, name)
    if kind == "number":
        if not _NUMBER.fullmatch(value) or abs(float(value)) == float("inf"):
            raise name.expects("number")
        return float(value)
    return _integer(value, name, signed=kind == "int")


def _integer(value: str, name: Name, *, signed: bool) -> int:
    match = _INTEGER.fullmatch(value)
    if match is None:
        raise name.expects("integer")
    sign, hexadecimal, octal, decimal = match.groups()
    # More digits than 64 bits have; int() would raise ValueError on a very long one.
    if decimal and len(decimal) > 20:
        raise name.expects("integer")
    if hexadecimal:
        number = int(hexadecimal, 16)
    else:
        number = int(octal, 8) if octal else int(decimal)
    if sign == "-":
        number = -number
    if signed and INT64_MIN <= number <= INT64_MAX:
        return number
    if not signed and -UINT64_MAX <= number <= UINT64_MAX:
        return number & UINT64_MAX
    raise name.expects("integer")


def _size(value: str, name: Name) -> int:
    match = _SIZE.fullmatch(value)
    if match is None or len(value) > 4096:
        raise name.expects("a size value")
    hexadecimal, whole, fraction, suffix = match.groups()
    unit: int = 1024 ** _SUFFIXES.index(suffix.lower()) if suffix else 1
    number = (int(hexadecimal, 16) if hexadecimal else int(whole)) * unit
    if fraction and fraction.strip("0"):
        if unit == 1:
            raise name.expects("a size value")
        number += int(float(f"0.{fraction}") * unit + 0.5)
    if number > UINT64_MAX:
        raise name.expects("a size value")
    return number
