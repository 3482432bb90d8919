# SPDX-License-Identifier: MIT
"""The actions of a `transaction`, declared as commands are: one function each.

The function prepares the action, as `machine/transaction.py` has it.  Its
type on the wire is a dataclass with a member `data`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from blockcore.machine.machine import Machine
from blockcore.machine.transaction import ActionCompletionMode, Transaction
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import FlatUnion


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionAction:
    """What all actions have; each class of them adds a member `data`."""

    type: str


_NODES = ("device", "node", "node_name", "overlay", "target")
"""Members of `data`, or of what is in a list there, that may name a node."""


def names_of_nodes(action: TransactionAction) -> Iterator[str]:
    """What in an action may be the name of a node or a drive."""
    data = action.data  # type: ignore[attr-defined]  # of each class its own
    for one in (data, *getattr(data, "bitmaps", ())):
        for member in _NODES:
            name = getattr(one, member, None)
            if isinstance(name, str):
                yield name


Prepare = Callable[[Machine, Any, Transaction], Awaitable[None]]
"""Gets the action, an instance of its class; raises QmpError if it cannot be."""

P = TypeVar("P", bound=Prepare)


class ActionTable:
    """Kinds of action by name; `union` is the QAPI type of all of them."""

    def __init__(self) -> None:
        self.union = FlatUnion("TransactionAction", tag="type", base=TransactionAction)
        self._prepare: dict[str, Prepare] = {}

    def action(self, name: str, variant: type) -> Callable[[P], P]:
        """Register the decorated function as what prepares actions of type `name`.

        `variant` is their class.
        """

        def register(prepare: P) -> P:
            assert name not in self._prepare, name
            self._prepare[name] = prepare
            self.union.variants[name] = variant
            return prepare

        return register

    def include(self, other: ActionTable) -> None:
        """Take over everything that `other` has by now."""
        assert not self._prepare.keys() & other._prepare.keys()
        self._prepare |= other._prepare
        self.union.variants |= other.union.variants

    async def prepare(
        self, machine: Machine, action: TransactionAction, transaction: Transaction
    ) -> None:
        """Prepare one action; QmpError if it cannot be."""
        if transaction.completion_mode is ActionCompletionMode.GROUPED:
            check_grouped(machine, action)
        await self._prepare[action.type](machine, action, transaction)


def check_grouped(machine: Machine, action: TransactionAction) -> None:
    """QmpError for an action that has no part in a grouped completion: it starts no job."""
    if action.type not in machine.qemu.groupable_actions:
        raise QmpError(
            f"Action '{action.type}' does not support {machine.qemu.transaction_property}"
            f" completion-mode = {ActionCompletionMode.GROUPED}"
        )
