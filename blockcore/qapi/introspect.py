# SPDX-License-Identifier: MIT
"""The answer of ``query-qmp-schema``: a command table as a list of SchemaInfo.

Commands, events and built-in types have their names.  All other types are named
by numbers, as in QEMU, so that no client can depend on their names.  The numbers
follow the order of the table, so that equal tables give equal lists.

All integer types are ``int`` here, because JSON does not distinguish them.  An
optional member has a ``default`` of null.  Names that begin with ``x-`` have the
feature ``unstable``, QEMU's mark for interfaces that may change.  A dataclass may
have a ClassVar `features`, by which clients see what an older version lacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from blockcore.qapi.members import Member, present
from blockcore.qapi.schema import Command, CommandTable
from blockcore.qapi.types import Alternate, FlatUnion, Struct
from blockcore.qapi.visitor import INT, Array, Builtin, Enumeration, QapiType, Unsigned

SchemaInfo = dict[str, Any]
"""An entry of the schema, in wire form."""


def schema_info(
    table: CommandTable, absent: frozenset[str] = frozenset()
) -> list[SchemaInfo]:
    """Return the schema of `table`, in dicts that the caller may change.

    Names in `absent` are left out (`qemu.Release.absent`).
    """
    types = _Types(absent)
    entries = [_command(command, types) for command in table if command.name not in absent]
    for name, cls in table.events.items():
        entries.append({"name": name, "meta-type": "event", "arg-type": types.name(Struct(cls))})
    return entries + types.entries()


def _command(command: Command, types: _Types) -> SchemaInfo:
    members = command.members
    return {
        "name": command.name,
        "meta-type": "command",
        "arg-type": types.name(members[0].type) if command.boxed else types.object(members),
        "ret-type": types.name(command.returns) if command.returns else types.object(()),
        **({"allow-oob": True} if command.allow_oob else {}),
        **_features(command.name, command.features),
    }


def _features(name: str, declared: tuple[str, ...] = ()) -> SchemaInfo:
    features = [*declared, *(["unstable"] if name.startswith("x-") else [])]
    return {"features": features} if features else {}


class _Types:
    """The names and descriptions of the types that commands and events refer to.

    A type gets its name when it is first referred to, and its description
    later, in `entries`: the description names the types of its members, among
    which may be the type itself.
    """

    def __init__(self, absent: frozenset[str]) -> None:
        self._absent = absent
        self._names: dict[Hashable, str] = {}
        self._numbered = 0
        self._undescribed: deque[tuple[str, Callable[[], SchemaInfo]]] = deque()

    def name(self, tp: QapiType) -> str:
        """Return the name of `tp` in this schema, and note that it has to be described."""
        if isinstance(tp, Unsigned):
            tp = INT
        if isinstance(tp, Builtin):
            builtin = {"meta-type": "builtin", "json-type": tp.json_type}
            return self._enter(tp, lambda: builtin, tp.name)
        if isinstance(tp, Array):
            element = self.name(tp.element)
            array = {"meta-type": "array", "element-type": element}
            return self._enter(f"[{element}]", lambda: array, f"[{element}]")
        if isinstance(tp, Struct):
            return self.object(tp.members, tp.cls)
        return self._enter(tp, partial(self._description, tp))

    def object(self, members: tuple[Member, ...], owner: Any = None) -> str:
        """Return the name of an object type; all types without members share one name."""
        features = getattr(owner, "features", ())
        return self._enter(
            (owner or members) if members or features else (),
            lambda: self._object(members) | _features("", features),
        )

    def entries(self) -> list[SchemaInfo]:
        """Return the descriptions of all types that have names, and of the types these refer to."""
        described = []
        while self._undescribed:
            name, describe = self._undescribed.popleft()
            described.append({"name": name, **describe()})
        return described

    def _enter(
        self, key: Hashable, describe: Callable[[], SchemaInfo], name: str | None = None
    ) -> str:
        """Return the name for `key`: `name`, or else the next number."""
        if key not in self._names:
            if name is None:
                name = str(self._numbered)
                self._numbered += 1
            self._names[key] = name
            self._undescribed.append((name, describe))
        return self._names[key]

    def _description(self, tp: QapiType) -> SchemaInfo:
        """Describe an enum, an alternate or a union."""
        if isinstance(tp, Enumeration):
            members = [{"name": value, **_features(value)} for value in tp.values]
            return {"meta-type": "enum", "members": members, "values": list(tp.values)}
        if isinstance(tp, Alternate):
            choices = [{"type": self.name(choice)} for choice in tp.choices.values()]
            return {"meta-type": "alternate", "members": choices}
        assert isinstance(tp, FlatUnion), tp
        here = tp.present_variants(self._absent)
        if not here:
            return self._object(tp.members)
        gone = tp.variants.keys() - here
        variants = [
            {"case": value, "type": self.object(tp.own_members(value), tp.variants.get(value))}
            for value in tp.tag_values
            if value not in gone
        ]
        common = tp.present_members(self._absent)
        return self._object(common) | {"tag": tp.tag, "variants": variants}

    def _object(self, members: tuple[Member, ...]) -> SchemaInfo:
        shown = [self._member(member) for member in present(members, self._absent)]
        return {"meta-type": "object", "members": shown}

    def _member(self, member: Member) -> SchemaInfo:
        return {
            "name": member.wire_name,
            "type": self.name(member.type),
            **({"default": None} if member.optional else {}),
            **_features(member.wire_name),
        }
