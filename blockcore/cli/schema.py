# SPDX-License-Identifier: MIT
"""What a server's commands take: the reply to query-qmp-schema, by name.

QEMU masks the names of types by numbers, and so does this project's server: only
what a type is made of counts.  A type is looked up when it is needed, because
types may contain themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any

from blockcore.qapi.record import dataclass

Entity = Mapping[str, Any]
"""A SchemaInfo, as it comes over the wire."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A built-in type: `json` is string, int, number, boolean, null or value (anything)."""

    json: str


@dataclass(frozen=True, slots=True)
class Enum:
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """A list; `element` is the name of a type."""

    element: str


@dataclass(frozen=True, slots=True)
class Alternate:
    """One of several types, given by their names, that their JSON tells apart."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object; `type` is the name of a type."""

    name: str
    type: str
    optional: bool
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Object:
    """An object; with a `tag`, the value of that member decides about further members.

    `variants` has the name of an object type for each value of the tag.
    """

    members: tuple[Member, ...]
    tag: str | None = None
    variants: Mapping[str, str] = field(default_factory=dict)


Type = Scalar | Enum | Array | Alternate | Object


class Schema:
    """The commands, events and types of one server."""

    def __init__(self, entities: Iterable[Entity]) -> None:
        self._commands: dict[str, Entity] = {}
        self._types: dict[str, Entity] = {}
        self._events: dict[str, Entity] = {}
        for entity in entities:
            if entity["meta-type"] == "event":
                self._events[entity["name"]] = entity
            elif entity["meta-type"] == "command":
                self._commands[entity["name"]] = entity
            else:
                self._types[entity["name"]] = entity

    @property
    def commands(self) -> list[str]:
        """The names of all commands, in the server's order."""
        return list(self._commands)

    @property
    def events(self) -> list[str]:
        """The names of all events, in the server's order."""
        return list(self._events)

    def event_members(self, event: str) -> dict[str, Member]:
        """Return the members of an event's data; raises KeyError if there is no such event."""
        found = self.type(self._events[event]["arg-type"])
        assert isinstance(found, Object)
        return self.members(found)

    def returned(self, command: str) -> Object:
        """Return the type of what a command returns, which has to be an object."""
        found = self.type(self._commands[command]["ret-type"])
        assert isinstance(found, Object)
        return found

    def features(self, command: str) -> tuple[str, ...]:
        """Return what the server says about a command, such as ``deprecated``."""
        return tuple(self._commands[command].get("features", ()))

    def arguments(self, command: str) -> Object:
        """Return the type of a command's arguments; raises KeyError if there is no such command."""
        found = self.type(self._commands[command]["arg-type"])
        assert isinstance(found, Object)
        return found

    def type(self, name: str) -> Type:
        """Return the type of that name."""
        entity = self._types[name]
        match entity["meta-type"]:
            case "builtin":
                return Scalar(entity["json-type"])
            case "enum":
                return Enum(tuple(_enum_values(entity)))
            case "array":
                return Array(entity["element-type"])
            case "alternate":
                return Alternate(tuple(choice["type"] for choice in entity["members"]))
        return Object(
            members=tuple(
                Member(
                    member["name"],
                    member["type"],
                    "default" in member,
                    tuple(member.get("features", ())),
                )
                for member in entity["members"]
            ),
            tag=entity.get("tag"),
            variants={
                variant["case"]: variant["type"] for variant in entity.get("variants", ())
            },
        )

    def choices(self, alternate: Alternate) -> list[Type]:
        """Return the types that an alternate may be, without alternates in it."""
        return [self.type(name) for name in alternate.choices]

    def members(self, owner: Object, case: str | None = None) -> dict[str, Member]:
        """Return the members of an object whose tag is `case`, by name.

        None stands for a tag that is not known: then the members of all cases count.
        """
        cases = owner.variants if case is None else {case} & owner.variants.keys()
        found = {member.name: member for member in owner.members}
        for value in cases:
            variant = self.type(owner.variants[value])
            assert isinstance(variant, Object)
            for name, member in self.members(variant).items():
                found.setdefault(name, member)
        return found

    def scalars(self, type_: Type) -> Iterator[Type]:
        """Yield what a text may stand for: the type itself, or the choices of an alternate."""
        if isinstance(type_, Alternate):
            yield from self.choices(type_)
        else:
            yield type_


def _enum_values(entity: Entity) -> Iterable[str]:
    """Return the values of an enum; servers before QEMU 6.2 have no `members` in it."""
    if "members" in entity:
        return (member["name"] for member in entity["members"])
    return (str(value) for value in entity["values"])
