# SPDX-License-Identifier: MIT
"""The check of one value against one QAPI type, with QEMU 7.2's error messages.

There are two sources of values, which differ in their scalars only.  JSON (QMP,
``-blockdev '{...}'``) is typed.  Keyval (``driver=raw,size=1k``) has strings for
all scalars, which are converted here.

Messages and limits were recorded from ``qemu-system-x86_64``
(`qapi/qobject-input-visitor.c`, `qapi/qapi-visit-core.c`).  Where QEMU's error
names a member without its path (enum values, narrow integers), so does the one
here; elements of lists have no name there, so QEMU says 'null'.  What QEMU does not
have names them by their path.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, TypeVar

from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.texts import (
    BOOLEANS,
    INT64_MAX,
    INT64_MIN,
    UINT64_MAX,
    integer,
    number,
    size,
)

T = TypeVar("T")

NESTING_MAX: Final = 64
"""Levels of objects that are visited, as of nodes that are defined in each other.

Far fewer than Python's stack has frames: visiting, and opening such nodes, is recursive.
"""


class Null(Enum):
    """JSON's ``null`` as a value, where None stands for an absent member."""

    NULL = None


@dataclass(frozen=True, slots=True)
class Name:
    """The place of a value in its source, and the kind of source.

    `full` is the dotted path, `local` its last component.  `keyval` says that
    scalars are strings.  Members in `absent` are refused as unknown
    (`qemu.Release.absent`).  `ours` says that the value belongs to a command or
    member ``x-...``, which QEMU does not have.  `level` counts the objects
    around the value.
    """

    full: str = ""
    local: str = ""
    keyval: bool = False
    absent: frozenset[str] = frozenset()
    ours: bool = False
    level: int = 0

    def member(self, key: str) -> Name:
        """Return the name of a member of the object here; raise QmpError if it is too deep."""
        if self.level >= NESTING_MAX:
            raise QmpError("JSON nesting depth limit exceeded")
        full = f"{self.full}.{key}" if self.full else key
        ours = self.ours or key.startswith("x-")
        return Name(full, key, self.keyval, self.absent, ours, self.level + 1)

    def item(self, index: int) -> Name:
        """Return the name of an element of the list here; its `local` is empty, as in QEMU."""
        full = f"{self.full}.{index}" if self.keyval else f"{self.full}[{index}]"
        return Name(full, "", self.keyval, self.absent, self.ours, self.level)

    @property
    def short(self) -> str:
        """The name in errors in which QEMU leaves the path out."""
        return self.local or (self.full if self.ours else "") or "null"

    def type_error(self, expected: str) -> QmpError:
        """Return the error for a value of the wrong JSON type."""
        shown = self.full or "<anonymous>"
        return QmpError(f"Invalid parameter type for '{shown}', expected: {expected}")

    def expects(self, what: str) -> QmpError:
        """Return the error for a value of an acceptable type that cannot be converted."""
        return QmpError(f"Parameter '{self.full or '<anonymous>'}' expects {what}")


class QapiType:
    """A QAPI type; `json_type` is SchemaInfo's word for the JSON form of its values."""

    json_type: str

    def visit(self, value: Any, name: Name) -> Any:
        """Return `value` as Python's type, or raise QmpError; `name` is its place."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Builtin(QapiType):
    """A built-in scalar type; `name` is QAPI's."""

    name: str
    json_type: str

    def visit(self, value: Any, name: Name) -> Any:
        if name.keyval and self.name not in ("any", "null"):
            return _keyval(self.name, value, name)
        return _json(self.name, value, name)


@dataclass(frozen=True, slots=True)
class Unsigned(QapiType):
    """An unsigned integer type, at most `maximum`: `size` or one of the uintN."""

    name: str
    maximum: int = UINT64_MAX
    json_type: str = "int"

    def visit(self, value: Any, name: Name) -> int:
        if name.keyval and name.ours:
            number = _keyval("size", value, name)
        elif name.keyval:
            number = _keyval(self.name, value, name)
        elif type(value) is int and INT64_MIN <= value <= UINT64_MAX:
            # QEMU takes a negative int64 for the uint64 with the same bits
            # (qobject_input_type_uint64).
            number = value & UINT64_MAX
        else:
            raise name.expects("uint64")
        # Members that QEMU does not have need not follow it: there, a negative number is an error.
        if name.ours and not name.keyval and value < 0:
            raise name.expects("a non-negative number")
        if number > self.maximum:
            # QEMU checks narrow types last, and names the C type, without the path
            # (visit_type_uintN).
            raise QmpError(f"Parameter '{name.short}' expects {self.name}_t")
        return int(number)


@dataclass(frozen=True, slots=True, eq=False)
class Enumeration(QapiType):
    """An enum type; `values` maps its wire strings to Python's values."""

    name: str
    values: Mapping[str, Any]
    json_type: str = "string"

    def visit(self, value: Any, name: Name) -> Any:
        text = STR.visit(value, name)
        try:
            return self.values[text]
        except KeyError:
            raise QmpError(f"Parameter '{name.short}' does not accept value '{text}'") from None


@dataclass(frozen=True, slots=True, eq=False)
class Array(QapiType):
    """A list type, whose elements have the type `element`."""

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
    """Check a scalar that JSON gave."""
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


def _keyval(kind: str, value: Any, name: Name) -> Any:
    """Convert a scalar that keyval gave, and so is a string."""
    if type(value) is not str:
        raise QmpError(f"Parameters '{name.full}.*' are unexpected")
    if kind == "str":
        return value
    if kind == "bool":
        return _if_any(BOOLEANS.get(value), name, "'on' or 'off'")
    if kind == "size":
        return _if_any(size(value), name, "a size value")
    if kind == "number":
        return _if_any(number(value), name, "number")
    return _if_any(integer(value, signed=kind == "int"), name, "integer")


def _if_any(converted: T | None, name: Name, expected: str) -> T:
    """Return a converted value, or raise QmpError if there is none."""
    if converted is None:
        raise name.expects(expected)
    return converted
