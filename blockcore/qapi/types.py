# SPDX-License-Identifier: MIT
"""Python annotations as QAPI types.

=========================================  ==========================================
annotation                                 QAPI
=========================================  ==========================================
str, int, bool, float, Any                 str, int (64 bits, signed), bool, number, any
Size, UInt32, UInt64 (`names.py`)           size, uint32, uint64
StrEnum                                    enum
list[T]                                    [T]
frozen keyword-only dataclass              struct; a field with a default is optional
T | None, with the default None            optional member; JSON null is *not* accepted
A | B                                      alternate named "AOrB"
Annotated[T, Alternate(...)]               that alternate
Annotated[T, FlatUnion(...)]               that union
=========================================  ==========================================

``_`` in a Python name is ``-`` on the wire, unless the ClassVar `wire_names`
(Python name to wire name) says otherwise.

Recursion (`raw` has a `file`, which is a reference to any block node) needs no
forward declarations: annotations are strings (``from __future__ import
annotations``) and are looked up in their module when a value is visited for
the first time.  So a module may say

    file: Annotated[str | BlockdevOptionsBase, BLOCKDEV_REF]

and define (or import) ``BLOCKDEV_REF`` further down; `FlatUnion.variants` may
be filled at any time before the first visit.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import StrEnum
from functools import cache, cached_property
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from blockcore.qapi.members import Member, origin_of, refuse_others, visit_members, wire_name_of
from blockcore.qapi.names import Size, UInt32, UInt64
from blockcore.qapi.visitor import (
    ANY,
    BOOL,
    INT,
    NULL,
    NUMBER,
    STR,
    Array,
    Enumeration,
    Name,
    Null,
    QapiType,
    Unsigned,
)

_SCALARS: Final[dict[Any, QapiType]] = {
    str: STR,
    int: INT,
    bool: BOOL,
    float: NUMBER,
    Any: ANY,
    Null: NULL,
    Size: Unsigned("size"),
    UInt32: Unsigned("uint32", (1 << 32) - 1),
    UInt64: Unsigned("uint64"),
}


def parse(
    tp: Any,
    value: Any,
    name: str = "",
    *,
    keyval: bool = False,
    absent: frozenset[str] = frozenset(),
) -> Any:
    """Check `value` against the annotation `tp` and return it as Python sees it.

    `name` is the path of the value in error messages.  With `keyval` every
    scalar is a string, as on a command line.  Members in `absent`
    (`qemu.Release.absent`) are not known.  Raises QmpError in QEMU's words: the
    first offending member in order of declaration, unknown members last.
    """
    return qapi_type(tp).visit(value, Name(name, name.rpartition(".")[2], keyval, absent))


@cache
def qapi_type(tp: Any) -> QapiType:
    """The QAPI type that annotation `tp` declares; AssertionError if there is none."""
    if isinstance(tp, QapiType):
        return tp
    if tp in _SCALARS:
        return _SCALARS[tp]
    origin, arguments = get_origin(tp), get_args(tp)
    if origin is Annotated:
        declared = (extra for extra in arguments[1:] if isinstance(extra, QapiType))
        return next(declared, None) or qapi_type(arguments[0])
    if origin is list:
        return Array(qapi_type(arguments[0]))
    if origin in (Union, types.UnionType):
        choices = [choice for choice in arguments if choice is not types.NoneType]
        return qapi_type(choices[0]) if len(choices) == 1 else _anonymous_alternate(choices)
    if isinstance(tp, type) and issubclass(tp, StrEnum):
        return Enumeration(tp.__name__, {member.value: member for member in tp})
    assert dataclasses.is_dataclass(tp), f"{tp!r} is no QAPI type"
    return Struct(tp)


def _anonymous_alternate(choices: list[Any]) -> Alternate:
    names = (choice.__name__ for choice in choices)
    return Alternate("Or".join(name[0].upper() + name[1:] for name in names), *choices)


class Struct(QapiType):
    """A dataclass.

    One that only ever is an answer may say so, ``answer: ClassVar[bool] = True``:
    its members with defaults other than None are always there, and not optional.
    """

    json_type = "object"

    def __init__(self, cls: Any) -> None:
        self.cls = cls
        self.name: str = cls.__name__

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """In order of declaration, inherited ones first."""
        hints = get_type_hints(self.cls, include_extras=True)
        answer = getattr(self.cls, "answer", False)
        return tuple(
            Member(
                field.name,
                wire_name_of(self.cls, field.name),
                qapi_type(hints[field.name]),
                optional=field.default is None if answer else _has_default(field),
                origin=origin_of(self.cls, field.name),
            )
            for field in dataclasses.fields(self.cls)
        )

    def visit(self, value: Any, name: Name) -> Any:
        arguments = visit_members(self.members, value, name)
        refuse_others(self.members, value, name)
        return self.cls(**arguments)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


class Alternate(QapiType):
    """A value whose type is told by its JSON form: at most one choice for each form."""

    json_type = "value"

    def __init__(self, name: str, *choices: Any) -> None:
        self.name = name
        self._choices = choices

    @cached_property
    def choices(self) -> dict[str, QapiType]:
        """By `json_type`."""
        return {(choice := qapi_type(tp)).json_type: choice for tp in self._choices}

    def visit(self, value: Any, name: Name) -> Any:
        form = _JSON_FORMS.get(type(value), "")
        choice = self.choices.get(form) or self.choices.get("number" if form == "int" else "")
        if choice is None:
            raise name.type_error(self.name)
        return choice.visit(value, name)


_JSON_FORMS: Final[dict[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "int",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


class FlatUnion(QapiType):
    """A struct whose member `tag` decides which further members exist.

    `base` is the dataclass of the common members, the tag among them; each
    class in `variants` (by wire value of the tag) is a subclass of it.  If the
    tag is an enum, values without a variant give the base class itself; if it
    is a str, its values are the keys of `variants`.  `default` is the tag's
    value where it is not given, which unions of QAPI's cannot have.
    """

    json_type = "object"

    def __init__(
        self,
        name: str,
        *,
        tag: str,
        base: Any,
        variants: Mapping[str, Any] | None = None,
        default: str | None = None,
    ) -> None:
        self.name = name
        self.tag = tag
        self.base = base
        self.variants: dict[str, Any] = dict(variants or {})
        self.default = default

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The common ones, with the tag's type an enum in any case."""
        return self._common_members(self.variants)

    def present_members(self, absent: frozenset[str]) -> tuple[Member, ...]:
        """`members`, without the values of the tag whose variants are in `absent`."""
        present_variants = self.present_variants(absent)
        if len(present_variants) == len(self.variants):
            return self.members
        return self._common_members(present_variants)

    def _common_members(self, variants: Mapping[str, Any]) -> tuple[Member, ...]:
        members = Struct(self.base).members
        assert self.tag in {member.wire_name for member in members}
        values = Enumeration(f"{self.name}Tag", {value: value for value in variants})
        return tuple(
            dataclasses.replace(member, type=values)
            if member.wire_name == self.tag and member.type is STR
            else member
            for member in members
        )

    def present_variants(self, absent: frozenset[str]) -> dict[str, Any]:
        """`variants` without those whose type is in `absent`."""
        return {
            value: cls for value, cls in self.variants.items() if cls.__name__ not in absent
        }

    @property
    def tag_values(self) -> list[str]:
        """All values that the tag can have."""
        types = {member.wire_name: member.type for member in self.members}
        tag = types[self.tag]
        assert isinstance(tag, Enumeration), f"{self.name}: tag {self.tag} is no enum"
        return list(tag.values)

    def own_members(self, value: str) -> tuple[Member, ...]:
        """What tag value `value` adds to the common members."""
        return _members(self.variants.get(value, self.base))[len(self.members) :]

    def visit(self, value: Any, name: Name) -> Any:
        arguments = visit_members(self.members, value, name)
        case = value.get(self.tag, self.default)
        own = self.own_members(case)
        arguments |= visit_members(own, value, name)
        refuse_others(self.members + own, value, name)
        return self.variants.get(case, self.base)(**arguments)


@cache
def _members(cls: Any) -> tuple[Member, ...]:
    return Struct(cls).members
