# SPDX-License-Identifier: MIT
"""The QAPI types that Python annotations declare.

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

Types may refer to themselves (`raw` has a `file`, which is a reference to any
block node) and need no forward declarations: annotations are strings (``from
__future__ import annotations``), which are evaluated in their module when the
first value is visited.  So a module may say

    file: Annotated[str | BlockdevOptionsBase, BLOCKDEV_REF]

and define (or import) ``BLOCKDEV_REF`` further down; `FlatUnion.variants` may
be filled at any time before the first visit.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
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
    ours: bool = False,
) -> Any:
    """Check `value` against the annotation `tp`, and return it as Python's types.

    `name` is the path of the value in error messages.  With `keyval`, every
    scalar is a string, as on a command line.  Members in `absent`
    (`qemu.Release.absent`) are refused as unknown.  `ours` says that QEMU has no
    such value, and so no rules for its texts.  Raises QmpError, with
    QEMU's text, for the first member that does not fit in order of declaration;
    unknown members come last.
    """
    return qapi_type(tp).visit(value, Name(name, name.rpartition(".")[2], keyval, absent, ours))


@cache
def qapi_type(tp: Any) -> QapiType:
    """Return the QAPI type that annotation `tp` declares; raise AssertionError if there is none."""
    # A type that is given outright (itself, or in Annotated) comes first; then scalars, lists,
    # optional members and alternates, enums; a dataclass is what remains.
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
    """Return the alternate for ``A | B``; it is named ``AOrB``, as QAPI names such types."""
    names = (choice.__name__ for choice in choices)
    return Alternate("Or".join(name[0].upper() + name[1:] for name in names), *choices)


class Struct(QapiType):
    """A QAPI struct, declared by a dataclass.

    A dataclass that is used only in answers may have ``answer: ClassVar[bool] =
    True``.  Its members with a default other than None are always sent, so the
    schema does not show them as optional.
    """

    json_type = "object"

    def __init__(self, cls: Any) -> None:
        self.cls = cls
        self.name: str = cls.__name__

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The members in order of declaration, inherited ones first."""
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
    """A QAPI alternate: the JSON form of a value decides its type, one choice for each form."""

    json_type = "value"

    def __init__(self, name: str, *choices: Any) -> None:
        self.name = name
        self._choices = choices

    @cached_property
    def choices(self) -> dict[str, QapiType]:
        """The choices, by `json_type`."""
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
    """A QAPI union: a struct whose member `tag` decides which further members exist.

    `base` is the dataclass of the common members, one of which is the tag.
    `variants` has subclasses of `base`, by wire value of the tag.  If the tag is
    an enum, its values without a variant give `base` itself.  If the tag is a
    str, its values are the keys of `variants`.  `variants` may be a function, which is
    called when they are first needed.  `default` is the tag's value if the tag is not
    given; QAPI's own unions have no defaults.
    """

    json_type = "object"

    def __init__(
        self,
        name: str,
        *,
        tag: str,
        base: Any,
        variants: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        default: str | None = None,
    ) -> None:
        self.name = name
        self.tag = tag
        self.base = base
        self._variants = variants or {}
        self.default = default

    @cached_property
    def variants(self) -> dict[str, Any]:
        """The variants by wire value of the tag; may be changed before the first visit."""
        return dict(self._variants() if callable(self._variants) else self._variants)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The common members; the tag has an enum as its type here, even if declared as str."""
        return self._common_members(self.variants)

    def present_members(self, absent: frozenset[str]) -> tuple[Member, ...]:
        """Return the common members; the tag lacks values with variants in `absent`."""
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
        """Return the variants whose types are not in `absent`, by value of the tag."""
        return {
            value: cls for value, cls in self.variants.items() if cls.__name__ not in absent
        }

    @property
    def tag_values(self) -> list[str]:
        """All wire values of the tag."""
        types = {member.wire_name: member.type for member in self.members}
        tag = types[self.tag]
        assert isinstance(tag, Enumeration), f"{self.name}: tag {self.tag} is no enum"
        return list(tag.values)

    def own_members(self, value: str) -> tuple[Member, ...]:
        """Return the members that a value of the tag adds to the common ones."""
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
