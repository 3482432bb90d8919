# SPDX-License-Identifier: MIT
"""The answer of ``query-qmp-schema``: a command table as a list of SchemaInfo.

Commands and events have their names, built-in types theirs; all other types
are numbers, as in QEMU, so that no client can depend on what they are called.
Numbers are given in the order in which the types are met, which is the order
of the table: the same table always gives the same list.

All integer types are ``int`` here, since JSON does not tell them apart.  What
is optional has a ``default`` of null; what is called ``x-...`` has the feature
``unstable``, QEMU's mark for interfaces that may change.  A dataclass may have
a ClassVar `features`, for clients that ask what an older version lacks.
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
"""One entry, as it goes on the wire."""


def schema_info(
    table: CommandTable, absent: frozenset[str] = frozenset()
) -> list[SchemaInfo]:
    """Everything a client can know about `table`; entries are new, the caller's to keep.

    What is in `absent` is not there (`qemu.Release.absent`).
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
    """The types met so far, by what identifies them; a type is described once, and late.

    Describing a type names the types of its members, which may be itself.
    """

    def __init__(self, absent: frozenset[str]) -> None:
        self._absent = absent
        self._names: dict[Hashable, str] = {}
        self._numbered = 0
        self._undescribed: deque[tuple[str, Callable[[], SchemaInfo]]] = deque()

    def name(self, tp: QapiType) -> str:
        """What `tp` is called in this schema."""
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
        """The name of an object type; those without members are all the same one."""
        features = getattr(owner, "features", ())
        return self._enter(
            (owner or members) if members or features else (),
            lambda: self._object(members) | _features("", features),
        )

    def entries(self) -> list[SchemaInfo]:
        """Describe all types named so far, and those they need."""
        described = []
        while self._undescribed:
            name, describe = self._undescribed.popleft()
            described.append({"name": name, **describe()})
        return described

    def _enter(
        self, key: Hashable, describe: Callable[[], SchemaInfo], name: str | None = None
    ) -> str:
        if key not in self._names:
            if name is None:
                name = str(self._numbered)
                self._numbered += 1
            self._names[key] = name
            self._undescribed.append((name, describe))
        return self._names[key]

    def _description(self, tp: QapiType) -> SchemaInfo:
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
