# SPDX-License-Identifier: MIT
"""The table of a transaction's actions: one function for each kind, declared as commands are.

The function prepares the action, as `machine/transaction.py` says.  On the wire
an action is a dataclass with a member `data`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from blockcore.machine.machine import Machine
from blockcore.machine.transaction import ActionCompletionMode, Transaction
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import FlatUnion


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionAction:
    """An action of a transaction; each kind adds a member `data` with its arguments."""

    type: str


_NODES = ("device", "node", "node_name", "overlay", "target")
"""The members of `data`, or of the entries of `data.bitmaps`, that may name a node or a drive."""


def names_of_nodes(action: TransactionAction) -> Iterator[str]:
    """Yield the texts in an action that may name a node or a drive."""
    data = action.data  # type: ignore[attr-defined]  # of each class its own
    for one in (data, *getattr(data, "bitmaps", ())):
        for member in _NODES:
            name = getattr(one, member, None)
            if isinstance(name, str):
                yield name


Prepare = Callable[[Machine, Any, Transaction], Awaitable[None]]
"""Prepares one action, an instance of its class; raises QmpError if the action is impossible."""

P = TypeVar("P", bound=Prepare)


class ActionTable:
    """The kinds of action by name; `union` is the QAPI type of all of them."""

    def __init__(self) -> None:
        self.union = FlatUnion("TransactionAction", tag="type", base=TransactionAction)
        self._prepare: dict[str, Prepare] = {}

    def action(self, name: str, variant: type) -> Callable[[P], P]:
        """Return a decorator that registers the function which prepares actions of type `name`.

        `variant` is the class of these actions.
        """

        def register(prepare: P) -> P:
            assert name not in self._prepare, name
            self._prepare[name] = prepare
            self.union.variants[name] = variant
            return prepare

        return register

    def include(self, other: ActionTable) -> None:
        """Take over all kinds that `other` has by now; no kind may be in both."""
        assert not self._prepare.keys() & other._prepare.keys()
        self._prepare |= other._prepare
        self.union.variants |= other.union.variants

    async def prepare(
        self, machine: Machine, action: TransactionAction, transaction: Transaction
    ) -> None:
        """Prepare one action; raise QmpError if it is impossible."""
        if transaction.completion_mode is ActionCompletionMode.GROUPED:
            check_grouped(machine, action)
        await self._prepare[action.type](machine, action, transaction)


def check_grouped(machine: Machine, action: TransactionAction) -> None:
    """Raise QmpError for an action that cannot be in a transaction with grouped completion.

    `Release.groupable_actions` has the actions that can: others have nothing that
    could complete.
    """
    if action.type not in machine.qemu.groupable_actions:
        raise QmpError(
            f"Action '{action.type}' does not support {machine.qemu.transaction_property}"
            f" completion-mode = {ActionCompletionMode.GROUPED}"
        )
