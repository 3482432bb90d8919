# SPDX-License-Identifier: MIT
"""The members of structs, events and command arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.visitor import Name, QapiType


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct, of an event, or of a command's arguments.

    `origin` is ``OWNER.member`` (names on the wire), the form in which
    `qemu.Release.absent` lists members.  OWNER is the type that declares the
    member, the event, or the command.
    """

    python_name: str
    wire_name: str
    type: QapiType
    optional: bool
    origin: str


def visit_members(members: tuple[Member, ...], value: Any, name: Name) -> dict[str, Any]:
    """Return the converted members of `value`, by Python name; other members are not looked at.

    Raises QmpError if `value` is no dict, if a member does not fit, or if one
    that is not optional is missing.
    """
    if type(value) is not dict:
        raise name.type_error("object")
    result = {}
    for member in present(members, name.absent):
        inner = name.member(member.wire_name)
        if member.wire_name in value:
            result[member.python_name] = member.type.visit(value[member.wire_name], inner)
        elif not member.optional:
            raise QmpError(f"Parameter '{inner.full}' is missing")
    return result


def refuse_others(members: tuple[Member, ...], value: dict[str, Any], name: Name) -> None:
    """Raise QmpError if `value` has a member that is not one of `members`."""
    known = {member.wire_name for member in present(members, name.absent)}
    for key in value:
        if key not in known:
            raise QmpError(f"Parameter '{name.member(key).full}' is unexpected")


def present(members: tuple[Member, ...], absent: frozenset[str]) -> list[Member]:
    """Return the members that a release knows: those not in `absent`."""
    return [member for member in members if member.origin not in absent]


def origin_of(owner: Any, python_name: str) -> str:
    """Return ``OWNER.member`` for a field of `owner`, a dataclass.

    OWNER is the class that declares the field, which may be a base of `owner`.
    """
    declares = next(cls for cls in owner.__mro__ if python_name in cls.__annotations__)
    name = getattr(declares, "NAME", declares.__name__)
    return f"{name}.{wire_name_of(owner, python_name)}"


def wire_name_of(owner: Any, python_name: str) -> str:
    """Return the wire name of a field of `owner`, a dataclass."""
    names: Mapping[str, str] = getattr(owner, "wire_names", {})
    return names.get(python_name) or python_name.replace("_", "-")
