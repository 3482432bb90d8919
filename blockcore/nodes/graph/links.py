# SPDX-License-Identifier: MIT
"""Links between nodes, and between nodes and their other users: made, cut and moved one by one.

Only the graph itself and `relink`, which knows all duties of a change, use these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import ALL_OPS, ALLOWED_ON_BACKING
from blockcore.nodes.permissions import Holder


class Moved(NamedTuple):
    """A user that uses another node now: a parent by its child's name, or a holder."""

    user: BlockNode | Holder[BlockNode]
    name: str | None = None


def attach(parent: BlockNode, name: str, child: BlockNode) -> None:
    """Make `child` the child `name` of a node that has none."""
    parent.set_child(name, child)
    adopt(parent, name, child)


def adopt(parent: BlockNode, name: str, child: BlockNode) -> None:
    """Tell a child of its parent, which knows it already."""
    child.parents.append(parent)
    parent.concerns_changed()
    if name == "backing" and parent.filters is None:
        reason = f"node is used as backing hd of '{parent.device_or_node_name}'"
        child.op_blockers.block(parent, reason, ALL_OPS - ALLOWED_ON_BACKING)


def detach(parent: BlockNode, name: str) -> BlockNode:
    """Cut the link to child `name`; gives the child, which may have no other user."""
    child = parent.children[name]
    parent.set_child(name, None)
    disown(parent, name, child)
    return child


def disown(parent: BlockNode, name: str, child: BlockNode) -> None:
    """Tell a child that a link has been cut."""
    child.parents.remove(parent)
    parent.concerns_changed()
    if name == "backing" and parent.filters is None:
        child.op_blockers.unblock(parent)


def replace(old: BlockNode, new: BlockNode, below: Iterable[BlockNode]) -> list[Moved]:
    """Let the users of `old` use `new` and return those that do now (bdrv_replace_node).

    `below` are `new` and everything it uses: they go on using `old`, and so
    does a holder that means this very node.
    """
    keep = list(below)
    moved = []
    for parent in dict.fromkeys(old.parents):
        if isinstance(parent, BlockNode):
            if parent not in keep:
                names = [name for name, child in parent.children.items() if child is old]
                moved += [Moved(parent, name) for name in names]
        elif not parent.stay_at_node:
            moved.append(Moved(parent))
    move(moved, old, new)
    return moved


def move(users: Iterable[Moved], old: BlockNode, new: BlockNode) -> None:
    """Let these users of `old` use `new`."""
    for user, name in users:
        if isinstance(user, BlockNode):
            assert name is not None
            detach(user, name)
            attach(user, name, new)
        else:
            old.parents.remove(user)
            new.parents.append(user)
            user.node_replaced(new)
