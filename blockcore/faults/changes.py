# SPDX-License-Identifier: MIT
"""Changes of a fault rule that exists: members that replace the rule's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_type_hints

from blockcore.faults.kinds import KINDS
from blockcore.faults.options import FaultOptions
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.types import Struct
from blockcore.qapi.visitor import Enumeration

FIXED = frozenset({"node_name", "id"})
"""Members that cannot be changed."""

OTHERS = {
    "sector": ("offset", "length"),
    "offset": ("sector",),
    "length": ("sector",),
    "once": ("count",),
    "count": ("once",),
}
"""Members whose place another member takes."""

NONE_OF_IT: Mapping[str, Any] = {"sector": -1, "once": False}
"""Values that say as much as leaving the member out."""


@dataclass(frozen=True, kw_only=True)
class RuleToChange:
    """The rule that is changed; the members that `CHANGES` adds are optional."""

    id: str


def _changes_class() -> type[RuleToChange]:
    own: dict[str, Any] = {}
    for kind in KINDS.values():
        hints = get_type_hints(kind, include_extras=True)
        own |= {field.name: hints[field.name] for field in fields(kind)}
    actions = Enumeration("FaultAction", {name: name for name in KINDS})
    own["action"] = Annotated[str, actions]
    members: list[Any] = [(name, hint, None) for name, hint in own.items() if name not in FIXED]
    return make_dataclass(
        "FaultChanges", members, bases=(RuleToChange,), kw_only=True, eq=False, repr=False
    )


CHANGES = Struct(_changes_class())
"""The QAPI struct of a change: a rule's id, and any members of any kind."""


def given(changes: RuleToChange) -> dict[str, Any]:
    """Return the members that a change has, by Python name."""
    values = {field.name: getattr(changes, field.name) for field in fields(changes)}
    return {name: value for name, value in values.items() if value is not None and name != "id"}


def changed(options: FaultOptions, new: Mapping[str, Any]) -> FaultOptions:
    """Return the options with members replaced; raises QmpError if the kind has no such member.

    A member that excludes another takes its place.  The result is not checked.
    """
    kind = KINDS[new.get("action", options.action)]
    known = {field.name: field for field in fields(kind)}
    for name in new:
        if name not in known:
            raise QmpError(f"Parameter '{name.replace('_', '-')}' is unexpected")
    values = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name in known
    }
    for name, value in new.items():
        values[name] = value
        if value == NONE_OF_IT.get(name):
            continue
        for other in OTHERS.get(name, ()):
            if other not in new:
                values[other] = known[other].default
    return kind(**values)
