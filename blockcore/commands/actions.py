"""The actions of a `transaction`, declared as commands are: one function each.

The function prepares the action, as `blockcore/transaction.py` has it.  Its
type on the wire is a dataclass with a member `data`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from blockcore.machine import Machine
from blockcore.qapi import QmpError
from blockcore.qmp.schema import FlatUnion
from blockcore.transaction import ActionCompletionMode, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionAction:
    """What all actions have; each class of them adds a member `data`."""

    type: str


Prepare = Callable[[Machine, Any, Transaction], Awaitable[None]]
"""Gets the action, an instance of its class; raises QmpError if it cannot be."""

P = TypeVar("P", bound=Prepare)


@dataclass(frozen=True, slots=True)
class _Kind:
    prepare: Prepare
    may_be_grouped: bool


class ActionTable:
    """Kinds of action by name; `union` is the QAPI type of all of them."""

    def __init__(self) -> None:
        self.union = FlatUnion("TransactionAction", tag="type", base=TransactionAction)
        self._kinds: dict[str, _Kind] = {}

    def action(self, name: str, variant: type, *, may_be_grouped: bool = False) -> Callable[[P], P]:
        """Register the decorated function as what prepares actions of type `name`.

        `variant` is their class.  Actions that start no job have no part in a
        grouped completion, and QEMU refuses them there, all but `abort`.
        """

        def register(prepare: P) -> P:
            assert name not in self._kinds, name
            self._kinds[name] = _Kind(prepare, may_be_grouped)
            self.union.variants[name] = variant
            return prepare

        return register

    def include(self, other: ActionTable) -> None:
        """Take over everything that `other` has by now."""
        assert not self._kinds.keys() & other._kinds.keys()
        self._kinds |= other._kinds
        self.union.variants |= other.union.variants

    async def prepare(
        self, machine: Machine, action: TransactionAction, transaction: Transaction
    ) -> None:
        """Prepare one action; QmpError if it cannot be."""
        kind = self._kinds[action.type]
        mode = transaction.completion_mode
        if mode is not ActionCompletionMode.INDIVIDUAL and not kind.may_be_grouped:
            raise QmpError(
                f"Action '{action.type}' does not support"
                f" Transaction property completion-mode = {mode}"
            )
        await kind.prepare(machine, action, transaction)
