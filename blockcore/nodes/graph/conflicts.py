# SPDX-License-Identifier: MIT
"""Checks of permissions: each user of a node must share what the other users need.

Links are made first and checked afterwards (bdrv_refresh_perms), and undone on a
conflict.  There is no await between the two steps, so no request and no command
sees a graph that was not checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import ALL, NONE, Pair, Perm, names
from blockcore.qapi.names import QmpError

Link = tuple[Perm, Perm, str, str]
"""Of a user of a node: permissions needed, permissions shared, who it is, its child's name."""


def needed(node: BlockNode) -> Pair:
    """Return what any user of a node needs, and what all users share."""
    known: dict[BlockNode, Pair] = {}
    for above in _users_first([node], known):
        known[above] = _together(_links(above, known))
    return known[node]


def _links(
    node: BlockNode, known: Mapping[BlockNode, Pair], but: BlockNode | None = None
) -> Iterator[Link]:
    """Yield the links of a node's users, the newest first, except those of `but`.

    `known` has the result of `needed` for each node above.
    """
    seen: set[BlockNode] = set()
    for parent in reversed(node.parents):
        if not isinstance(parent, BlockNode):
            yield parent.perm, parent.shared, parent.describe(), "root"
        elif parent is not but and parent not in seen:
            seen.add(parent)
            yield from _links_from(parent, node, known[parent])


def _links_from(parent: BlockNode, node: BlockNode, pair: Pair) -> Iterator[Link]:
    for name, child in parent.children.items():
        if child is node:
            perm, shared = parent.child_permissions(name, *pair)
            yield perm, shared, f"node '{parent.node_name}'", name


def _together(links: Iterable[Link]) -> Pair:
    perm, shared = NONE, ALL
    for link in links:
        perm |= link[0]
        shared &= link[1]
    return perm, shared


def check_permissions(nodes: Iterable[BlockNode], was_writable: Iterable[BlockNode] = ()) -> None:
    """Raise QmpError if users of a node conflict with each other, or write a read-only node.

    `was_writable` are nodes that are about to become read-only; their error has
    words of its own.
    """
    closing = set(was_writable)
    wanted = dict.fromkeys(nodes)
    known: dict[BlockNode, Pair] = {}
    for node in _users_first(wanted, known):
        users = list(_links(node, known))
        known[node] = _together(users)
        if node in wanted:
            _check_users(node, users, known[node][0], node in closing)


def _check_users(node: BlockNode, users: list[Link], perm: Perm, closing: bool) -> None:
    for strict in users:
        for other in users:
            if other is not strict and other[0] & ~strict[1]:
                raise _conflict(node, strict, other)
    if node.read_only and perm & (Perm.WRITE | Perm.WRITE_UNCHANGED):
        if closing:
            raise QmpError(
                f"Read-only block node '{node.node_name}' cannot support read-write users"
            )
        raise QmpError(node.why_read_only or "Block node is read-only")


def concerned_by(node: BlockNode) -> list[BlockNode]:
    """Return the nodes below `node` whose permissions change because `node` uses them.

    The walk down ends at nodes whose users need no more and share no less than
    before.  Of a chain that was open already, only the first image is returned:
    the cost of opening an overlay does not grow with the length of the chain.
    """
    known = {node: needed(node)}
    found: dict[BlockNode, None] = {}
    left = [node]
    while left:
        parent = left.pop()
        for child in dict.fromkeys(parent.children.values()):
            for above in _users_first([child], known):
                known[above] = _together(_links(above, known))
            found[child] = None
            if not _is_old_news(parent, child, known):
                left.append(child)
    return list(found)


def _is_old_news(parent: BlockNode, child: BlockNode, known: Mapping[BlockNode, Pair]) -> bool:
    """Tell whether `parent` needs no more of a child and shares no less than other users do."""
    perm, shared = _together(_links_from(parent, child, known[parent]))
    other_perm, other_shared = _together(_links(child, known, but=parent))
    return not perm & ~other_perm and not other_shared & ~shared


def _users_first(
    nodes: Iterable[BlockNode], known: Mapping[BlockNode, Pair]
) -> Iterator[BlockNode]:
    """Yield the nodes and all nodes above them, each after the nodes that use it.

    Nodes in `known` are left out; the caller adds each node that it was given.
    """
    begun: set[BlockNode] = set()
    for wanted in nodes:
        stack = [wanted]
        while stack:
            node = stack[-1]
            above = [
                parent
                for parent in node.node_parents
                if parent not in known and parent not in begun
            ]
            begun.add(node)
            if above:
                stack += reversed(above)
                continue
            stack.pop()
            if node not in known:
                yield node


def _conflict(node: BlockNode, strict: Link, other: Link) -> QmpError:
    name = node.node_name
    return QmpError(
        f"Permission conflict on node '{name}': permissions '{names(other[0] & ~strict[1])}'"
        f" are both required by {other[2]} (uses node '{name}' as '{other[3]}' child)"
        f" and unshared by {strict[2]} (uses node '{name}' as '{strict[3]}' child)."
    )
