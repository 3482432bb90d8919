# SPDX-License-Identifier: MIT
"""Changes of blkdebug's state at events: of a blkdebug node, and by rules that do nothing else."""

from __future__ import annotations

from dataclasses import fields

from blockcore.faults.options import FaultOptions, IOTypes
from blockcore.qapi.names import BlkdebugEvent, QmpError
from blockcore.qapi.record import dataclass

OWN = frozenset({"node_name", "id", "action", "event", "state", "new_state"})
"""The members that a rule has which changes the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A change of state at an event (BlkdebugSetStateOptions); `state` 0 stands for any state."""

    event: BlkdebugEvent
    state: int = 0
    new_state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState(FaultOptions):
    """Options of a rule that changes blkdebug's state at each `event` (blkdebug's set-state).

    It is about no request.  Of several changes that fit an event and the state, the
    first is made.  Its hits are the changes that it has made.
    """

    @property
    def usual(self) -> IOTypes:
        return frozenset()

    def check(self) -> None:
        for field in fields(self):
            if field.name not in OWN and getattr(self, field.name) != field.default:
                name = field.name.replace("_", "-")
                raise QmpError(f"Parameter '{name}' does not go with action '{self.action}'")
        if self.event is BlkdebugEvent.NONE:
            raise QmpError(f"Parameter 'event' is needed for action '{self.action}'")

    @property
    def change(self) -> StateChange:
        """The change that the rule makes."""
        return StateChange(event=self.event, state=self.state, new_state=self.new_state)
