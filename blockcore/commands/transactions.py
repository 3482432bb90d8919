# SPDX-License-Identifier: MIT
"""All kinds of action of `transaction`, and the commands that are transactions of one action.

Whoever uses one of these commands has to import this module, because `transaction`
does not know where its actions are.
"""

from __future__ import annotations

from blockcore.commands import backups, bitmap_actions, snapshots, transaction
from blockcore.qapi.schema import CommandTable

for _part in (bitmap_actions, snapshots, backups):
    transaction.actions.include(_part.actions)

table = CommandTable()
table.include(backups.table)
table.include(snapshots.table)
table.include(transaction.table)
