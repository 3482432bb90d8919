# SPDX-License-Identifier: MIT
"""Changes of links in a running graph, with everything that a change requires elsewhere.

    async with Relink(graph) as change:
        change.attach(overlay, "backing", old)
        change.replace(old, overlay)

Without an await in the block, no request sees its intermediate states, so they
may be states that would be refused.  At the end of the block

1. permissions are checked, unless they were; a conflict, like any other exception in the block or
   in the check, puts every link back, the last one first, and is raised;
2. the file names of all nodes that are connected with the change are recomputed;
3. nodes that the change has left without users are closed.

The single links (`links`) invalidate the shortcuts of requests, and tell drives
that they have another root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

from blockcore.nodes.filter import FilterNode
from blockcore.nodes.graph import links
from blockcore.nodes.graph.conflicts import check_permissions
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import Holder
from blockcore.qapi.names import QmpError


class Relink:
    """A change of links, as an async context; `undo` takes it back if a transaction fails."""

    def __init__(self, graph: BlockGraph) -> None:
        self._graph = graph
        self._unchecked = False
        self._touched: dict[BlockNode, None] = {}
        self._undo: list[Callable[[], object]] = []
        self._unused: list[BlockNode] = []

    async def __aenter__(self) -> Relink:
        return self

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            return  # the process is ending
        try:
            if error is not None:
                self.undo()
                return
            if self._unchecked:
                self.check()
            self._refresh()
        except Exception:
            self.undo()
            raise
        finally:
            for node in self._unused:
                await self._graph.release(node)

    def attach(self, parent: BlockNode, name: str, child: BlockNode) -> None:
        """Make `child` the child `name` of a node that has no child of that name."""
        links.attach(parent, name, child)
        self._done(lambda: links.detach(parent, name), parent, child)

    def detach(self, parent: BlockNode, name: str) -> None:
        """Cut the link to child `name`; a child without other users is closed at the end."""
        child = links.detach(parent, name)
        self._done(lambda: links.attach(parent, name, child), parent, child)
        self.release(child)

    def set_child(self, parent: BlockNode, name: str, child: BlockNode | None) -> None:
        """Replace child `name`, which may be missing, by `child`; None: by no child."""
        if name in parent.children:
            self.detach(parent, name)
        if child is not None:
            self.attach(parent, name, child)

    def replace(self, old: BlockNode, new: BlockNode) -> None:
        """Let the users of `old` use `new`, except `new` and nodes below it (bdrv_replace_node)."""
        moved = links.replace(old, new, self._graph.subtree(new))
        self._done(lambda: links.move(moved, new, old), old, new)

    def insert(self, node: FilterNode) -> None:
        """List a filter that was made and opened, and tell its children of it."""
        # The undo function must not hold `self`, which holds the function: such a cycle would
        # keep the nodes until the garbage collector runs.
        graph = self._graph
        graph.nodes[node.node_name] = node
        for name, child in node.children.items():
            links.adopt(node, name, child)
        self._done(lambda: _take_out(graph, node), node)

    async def open_backing(self, node: BlockNode) -> None:
        """Open the backing file that the header of a node names; raise QmpError."""
        await self._graph.open_backing(node)
        if (backing := node.children.get("backing")) is not None:
            self._done(lambda: links.detach(node, "backing"), node, backing)
            self.release(backing)

    def reconfigured(self, node: BlockNode) -> None:
        """Note that options of the node have changed, which file names may show."""
        node.concerns_changed()
        self._touched[node] = None

    def release(self, node: BlockNode) -> None:
        """Close a node at the end of the block, unless it has users or the monitor owns it."""
        self._unused.append(node)

    def check(
        self, nodes: Iterable[BlockNode] | None = None, closing: Iterable[BlockNode] = ()
    ) -> None:
        """Raise QmpError if users conflict at `nodes` or, without these, at any connected node.

        `closing` are nodes that are about to become read-only.  A check of all
        connected nodes makes the one at the end of the block unnecessary.
        """
        check_permissions(self._near() if nodes is None else nodes, closing)
        self._unchecked = self._unchecked and nodes is not None

    def checked(self) -> None:
        """Note that the links as they are now were checked before, and nobody may refuse them."""
        self._unchecked = False

    def undo(self) -> None:
        """Put every link back, the last one first."""
        while self._undo:
            self._undo.pop()()
        self._refresh()

    def _done(self, undo: Callable[[], object], *nodes: BlockNode) -> None:
        self._unchecked = True
        self._undo.append(undo)
        self._touched.update(dict.fromkeys(nodes))

    def _near(self) -> list[BlockNode]:
        return self._graph.connected(*self._touched)

    def _refresh(self) -> None:
        self._graph.refresh_filenames(self._near())


async def take_away(graph: BlockGraph, node: FilterNode) -> None:
    """Let the users of a filter use the node below it, and close the filter (bdrv_drop_filter).

    Permissions are not checked: without the filter there are fewer users, which
    cannot conflict where more did not (QEMU passes `&error_abort`).
    """
    links.replace(node, node.below, graph.subtree(node.below))
    _take_out(graph, node)
    graph.refresh_filenames(graph.connected(node.below))
    await node.do_close()


def _take_out(graph: BlockGraph, node: FilterNode) -> None:
    del graph.nodes[node.node_name]
    node.closed = True
    for name, child in node.children.items():
        links.disown(node, name, child)


def add_user(node: BlockNode, user: Holder[BlockNode], among: Iterable[BlockNode]) -> None:
    """Let a drive, a job or a command use a node.

    Raises QmpError, and takes the user away again, if users of `among` conflict.
    """
    node.parents.append(user)
    try:
        check_permissions(among)
    except QmpError:
        node.parents.remove(user)
        raise
