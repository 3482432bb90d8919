# SPDX-License-Identifier: MIT
"""Primitives that make, cut and move one link from a node or another user to a node.

Only the graph and `relink` call them: `relink` also checks permissions, refreshes
file names and closes unused nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import ALL_OPS, ALLOWED_ON_BACKING
from blockcore.nodes.permissions import Holder


class Moved(NamedTuple):
    """A user whose node was replaced: a parent with its child's name, or a holder without."""

    user: BlockNode | Holder[BlockNode]
    name: str | None = None


def attach(parent: BlockNode, name: str, child: BlockNode) -> None:
    """Make `child` the child `name` of a node that has no child of that name."""
    parent.set_child(name, child)
    adopt(parent, name, child)


def adopt(parent: BlockNode, name: str, child: BlockNode) -> None:
    """Tell a child of its new parent, whose side of the link is made already."""
    child.parents.append(parent)
    parent.concerns_changed()
    if name == "backing" and parent.filters is None:
        reason = f"node is used as backing hd of '{parent.device_or_node_name}'"
        child.op_blockers.block(parent, reason, ALL_OPS - ALLOWED_ON_BACKING)


def detach(parent: BlockNode, name: str) -> BlockNode:
    """Cut the link to child `name` and return the child, which may be without users now."""
    child = parent.children[name]
    parent.set_child(name, None)
    disown(parent, name, child)
    return child


def disown(parent: BlockNode, name: str, child: BlockNode) -> None:
    """Tell a child that the link from `parent` is cut."""
    child.parents.remove(parent)
    parent.concerns_changed()
    if name == "backing" and parent.filters is None:
        child.op_blockers.unblock(parent)


def replace(old: BlockNode, new: BlockNode, below: Iterable[BlockNode]) -> list[Moved]:
    """Let the users of `old` use `new`, and return the users that moved (bdrv_replace_node).

    `below` are `new` and everything below it: these keep their links to `old`, or
    the graph would have a cycle.  A holder with `stay_at_node` stays as well.
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
    """Let some users of `old` use `new`."""
    for user, name in users:
        if isinstance(user, BlockNode):
            assert name is not None
            detach(user, name)
            attach(user, name, new)
        else:
            old.parents.remove(user)
            new.parents.append(user)
            user.node_replaced(new)
