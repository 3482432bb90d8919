# SPDX-License-Identifier: MIT
"""QMP's `transaction`: several actions or none.  `transactions` adds the kinds of others."""

from __future__ import annotations

from typing import Annotated

from blockcore.commands.actions import (
    ActionTable,
    TransactionAction,
    check_grouped,
    names_of_nodes,
)
from blockcore.job.job_txn import JobTxn
from blockcore.machine.drain import Drain
from blockcore.machine.graph_changes import changing_graph
from blockcore.machine.machine import Machine
from blockcore.machine.transaction import ActionCompletionMode, Transaction
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()
actions = ActionTable()

ACTION = actions.union


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionProperties:
    completion_mode: ActionCompletionMode = ActionCompletionMode.INDIVIDUAL


@table.command("transaction", wire_names={"wanted": "actions"})
async def transaction(
    machine: Machine,
    *,
    wanted: list[Annotated[TransactionAction, ACTION]],
    properties: TransactionProperties = TransactionProperties(),
) -> None:
    """Carry out all of the actions, at one moment as guests see it, or none of them.

    Everything is drained first, but only the nodes that an action names are waited
    for as long as it takes; guests of these wait until the end.  Jobs go on, except
    for jobs on nodes that an action drains.
    """
    grouped = properties.completion_mode is ActionCompletionMode.GROUPED
    under_way = Transaction(
        properties.completion_mode,
        JobTxn(machine) if grouped else None,
        newest_first=machine.qemu.transactions_start_newest_first,
    )
    if grouped and machine.qemu.grouped_actions_are_checked_first:
        for action in wanted:
            check_grouped(machine, action)
    names = [name for action in wanted for name in names_of_nodes(action)]
    async with changing_graph(machine, *names):
        # Guests are held around the drained moment, so that no write of theirs comes between that
        # and the last action.
        concerned = Drain(machine, machine.find.existing(names))
        with concerned.guests_held():
            await concerned.settled_beside_others(machine.clock)
            async with under_way:
                await _carry_out(machine, wanted, under_way)


async def _carry_out(
    machine: Machine, wanted: list[TransactionAction], under_way: Transaction
) -> None:
    try:
        for action in wanted:
            await actions.prepare(machine, action, under_way)
    except QmpError:
        await under_way.abort()
        raise
    await under_way.commit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """QAPI's Abort, which has no members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortAction(TransactionAction):
    data: Abort


@actions.action("abort", AbortAction)
async def _abort(machine: Machine, action: AbortAction, transaction: Transaction) -> None:
    """Fail, so that a client can see how the other actions are undone."""
    raise QmpError("Transaction aborted using Abort action")
