# SPDX-License-Identifier: MIT
"""Changes of links in a running graph, with everything that a change owes to others.

    async with Relink(graph) as change:
        change.attach(overlay, "backing", old)
        change.replace(old, overlay)

Nobody sees the graph between two awaits, so what stands in the block may pass
through states that would be refused.  At its end

1. permissions are checked; a conflict, like any other exception, puts every
   link back, the last one first, and is raised;
2. the file names of all nodes that are connected with the change are found anew;
3. nodes that the change has left without users are closed.

The links themselves tell the machine that requests which go past nodes have to
decide anew (`links.adopt`, `links.disown`), and drives that they have another root.
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
    """One change of links, as an async context; `undo` takes it back if a transaction fails."""

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
        except QmpError:
            self.undo()
            raise
        finally:
            for node in self._unused:
                await self._graph.release(node)

    def attach(self, parent: BlockNode, name: str, child: BlockNode) -> None:
        """Make `child` the child `name` of a node that has none."""
        links.attach(parent, name, child)
        self._done(lambda: links.detach(parent, name), parent, child)

    def detach(self, parent: BlockNode, name: str) -> None:
        """Cut the link to the child `name`, which is closed at the end if it has no other user."""
        child = links.detach(parent, name)
        self._done(lambda: links.attach(parent, name, child), parent, child)
        self.release(child)

    def set_child(self, parent: BlockNode, name: str, child: BlockNode | None) -> None:
        """Cut the link to the child `name`, if there is one, and make another, if one is given."""
        if name in parent.children:
            self.detach(parent, name)
        if child is not None:
            self.attach(parent, name, child)

    def replace(self, old: BlockNode, new: BlockNode) -> None:
        """Let the users of `old` use `new`, but for those that `new` is on (bdrv_replace_node)."""
        moved = links.replace(old, new, self._graph.subtree(new))
        self._done(lambda: links.move(moved, new, old), old, new)

    def insert(self, node: FilterNode) -> None:
        """List a filter that has been made and opened, and tell its children of it."""
        graph = self._graph  # not self: what undoes a change must not lead back to it in a cycle
        graph.nodes[node.node_name] = node
        for name, child in node.children.items():
            links.adopt(node, name, child)
        self._done(lambda: _take_out(graph, node), node)

    async def open_backing(self, node: BlockNode) -> None:
        """Open the backing file that an image names; QmpError."""
        await self._graph.open_backing(node)
        if (backing := node.children.get("backing")) is not None:
            self._done(lambda: links.detach(node, "backing"), node, backing)
            self.release(backing)

    def reconfigured(self, node: BlockNode) -> None:
        """Options of the node have changed, which may be part of file names."""
        node.concerns_changed()
        self._touched[node] = None

    def release(self, node: BlockNode) -> None:
        """Close a node at the end, unless it has users then, or the monitor owns it."""
        self._unused.append(node)

    def check(
        self, nodes: Iterable[BlockNode] | None = None, closing: Iterable[BlockNode] = ()
    ) -> None:
        """Raise QmpError now if users of these nodes conflict, or of any that are connected.

        `closing` are nodes that are about to become read-only.
        """
        check_permissions(self._near() if nodes is None else nodes, closing)
        self._unchecked = self._unchecked and nodes is not None

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
    """Let the users of a filter use what it shows, and close the filter (bdrv_drop_filter).

    Nothing is checked: fewer nodes cannot conflict where more did not, and QEMU
    passes `&error_abort`.
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
    """Let a drive, a job or a command use a node; QmpError if users of `among` conflict then."""
    node.parents.append(user)
    try:
        check_permissions(among)
    except QmpError:
        node.parents.remove(user)
        raise
