# SPDX-License-Identifier: MIT
"""Members of a rule of any kind: those that replace a rule's, and those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_type_hints

from blockcore.faults.kinds import KINDS
from blockcore.faults.options import FaultOptions
from blockcore.qapi.names import QmpError, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.types import Struct
from blockcore.qapi.visitor import Enumeration

FIXED = frozenset({"node_name", "id"})
"""Members that cannot be changed."""

COUNTING = frozenset({"after", "every", "count", "once", "rate"})
"""Members that say which of the matching requests are hit."""

OTHERS = {
    "sector": ("offset", "length"),
    "offset": ("sector",),
    "length": ("sector",),
    "once": ("count",),
    "count": ("once",),
    "how": ("bits", "at", "value"),
}
"""Members whose place another member takes, if it becomes another."""

NONE_OF_IT: Mapping[str, Any] = {"sector": -1, "once": False}
"""Values that say as much as leaving the member out."""


@dataclass(frozen=True, kw_only=True)
class RuleToChange:
    """The rule that is changed; the members that `CHANGES` adds are optional."""

    id: str


@dataclass(frozen=True, kw_only=True)
class RuleToSweep:
    """The rule that a sweep makes or goes on with; the members that `SWEEP` adds are optional."""

    id: str | None = None
    node_name: str | None = None
    nth: UInt64 | None = None


def _with_members(name: str, base: type[Any], but: Set[str]) -> type[Any]:
    """Return a class with the members of all kinds, each optional, besides those of `base`."""
    own: dict[str, Any] = {}
    for kind in KINDS.values():
        hints = get_type_hints(kind, include_extras=True)
        own |= {field.name: hints[field.name] for field in fields(kind)}
    actions = Enumeration("FaultAction", {name: name for name in KINDS})
    own["action"] = Annotated[str, actions]
    members: list[Any] = [(field, hint, None) for field, hint in own.items() if field not in but]
    return make_dataclass(name, members, bases=(base,), kw_only=True, eq=False, repr=False)


CHANGES = Struct(_with_members("FaultChanges", RuleToChange, FIXED))
"""The QAPI struct of a change: a rule's id, and any members of any kind."""

SWEEP = Struct(_with_members("FaultSweepOptions", RuleToSweep, FIXED | COUNTING))
"""The QAPI struct of a sweep: members of any kind but those that count, and which is the Nth."""


def given(changes: RuleToChange | RuleToSweep, but: Set[str] = FIXED) -> dict[str, Any]:
    """Return the members that a change or sweep has, by Python name."""
    values = {field.name: getattr(changes, field.name) for field in fields(changes)}
    return {name: value for name, value in values.items() if value is not None and name not in but}


def changed(options: FaultOptions, new: Mapping[str, Any]) -> FaultOptions:
    """Return the options with members replaced; raises QmpError if the kind has no such member.

    A member that excludes another takes its place.  What has the default of the rule's
    kind gets that of another kind: an errno is EIO for one that fails, 0 for one that
    hangs.  The result is not checked.
    """
    kind = KINDS[new.get("action", options.action)]
    known = {field.name: field for field in fields(kind)}
    for name in new:
        if name not in known:
            raise QmpError(f"Parameter '{name.replace('_', '-')}' is unexpected")
    values = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name in known and getattr(options, field.name) != field.default
    }
    for name, value in new.items():
        values[name] = value
        if value in (NONE_OF_IT.get(name), getattr(options, name, None)):
            continue
        for other in OTHERS.get(name, ()):
            if other not in new and other in known:
                values[other] = known[other].default
    return kind(**values)
