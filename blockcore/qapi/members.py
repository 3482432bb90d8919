# SPDX-License-Identifier: MIT
"""Members: what structs, events and the arguments of commands consist of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blockcore.qapi.names import QmpError
from blockcore.qapi.visitor import Name, QapiType


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct, an event, or of a command's arguments.

    `origin` is ``OWNER.member``, as `qemu.Release.absent` has it: the type that
    declares it, the event, or the command.
    """

    python_name: str
    wire_name: str
    type: QapiType
    optional: bool
    origin: str


def visit_members(members: tuple[Member, ...], value: Any, name: Name) -> dict[str, Any]:
    """Visit those of `members` that `value` has; keys of the result are Python names."""
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
    """Raise QmpError if `value` has a member that is none of `members`."""
    known = {member.wire_name for member in present(members, name.absent)}
    for key in value:
        if key not in known:
            raise QmpError(f"Parameter '{name.member(key).full}' is unexpected")


def present(members: tuple[Member, ...], absent: frozenset[str]) -> list[Member]:
    """Those of `members` that are not in `absent`."""
    return [member for member in members if member.origin not in absent]


def origin_of(owner: Any, python_name: str) -> str:
    """A field of `owner` (a dataclass) as ``OWNER.member``, by the class that declares it."""
    declares = next(cls for cls in owner.__mro__ if python_name in cls.__annotations__)
    name = getattr(declares, "NAME", declares.__name__)
    return f"{name}.{wire_name_of(owner, python_name)}"


def wire_name_of(owner: Any, python_name: str) -> str:
    """What `owner` (a dataclass) calls its field `python_name` on the wire."""
    names: Mapping[str, str] = getattr(owner, "wire_names", {})
    return names.get(python_name) or python_name.replace("_", "-")
