# SPDX-License-Identifier: MIT
"""The graph of block nodes: names, parents, opening and closing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from typing import Any

from blockcore.nodes.definitions.flat_options import with_format
from blockcore.nodes.definitions.options import (
    BlockdevOptions,
    BlockdevOptionsProbed,
    BlockdevRef,
    check_node_name,
)
from blockcore.nodes.definitions.shown_filename import filename, full_filename
from blockcore.nodes.driver import MAX_OPENINGS, NodeHost, NodeOptions
from blockcore.nodes.drivers.probe import probe
from blockcore.nodes.graph.backing import (
    MAX_CHAIN,
    backing_ref,
    name_counts,
    named_file,
)
from blockcore.nodes.graph.chain import is_overridden
from blockcore.nodes.graph.changing import Changing, reached
from blockcore.nodes.graph.conflicts import check_permissions, concerned_by
from blockcore.nodes.graph.inherit import inherit, options_for_backing
from blockcore.nodes.graph.links import adopt, attach, disown
from blockcore.nodes.graph.make import make_node
from blockcore.nodes.lifetime import close_node, open_node
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import Null


class BlockGraph:
    """All nodes of a machine by node-name, in the order of QEMU's graph_bdrv_states.

    A format node is listed after its file and before its backing file, a filter
    or protocol before its child; queries show this order.

    `directory` is the one that relative file names are relative to: the user's
    working directory, which nbdkit leaves when it starts.
    """

    def __init__(self, host: NodeHost, directory: str) -> None:
        self.nodes: dict[str, BlockNode] = {}
        self.directory = directory
        self.changing = Changing()
        """The turns of commands and jobs that change parts of the graph."""
        self.unlisted: set[BlockNode] = set()
        """Nodes that are being opened or closed: no command finds them by name.

        Their names are taken all the same, and they can be aborted and yanked.
        """
        self._host = host
        self._names = 0
        self._openings = 0

    async def open(self, options: BlockdevOptions) -> BlockNode:
        """Open a definition with all its children, and return the node.

        The new node has no parent and no owner: the caller gives it one.  On
        QmpError, everything that was opened is closed again.
        """
        if self._openings >= MAX_OPENINGS:
            raise QmpError(f"Already {MAX_OPENINGS} nodes are waiting to be opened")
        self._openings += 1
        try:
            return await self._open(options, None, (), [])
        finally:
            self._openings -= 1

    async def _open(
        self,
        options: BlockdevOptions,
        parent: NodeOptions | None,
        chain: tuple[str, ...],
        opened_before: list[str],
    ) -> BlockNode:
        """Open a definition below `parent`: its children, then the node on top of them.

        `chain` has the full names of the images above if the node is to be their
        backing file.  The names of opened nodes are appended to `opened_before`,
        from which the caller restores QEMU's order of nodes.
        """
        effective = inherit(options, parent, self.new_name(options.node_name))
        below: list[str] = []
        asked: list[BlockdevRef] = []
        children: list[BlockNode] = []

        async def child(ref: BlockdevRef) -> BlockNode:
            if ref not in asked:
                asked.append(ref)
                children.append(await self._child(ref, effective, (), below))
            return children[asked.index(ref)]

        try:
            probed = isinstance(options, BlockdevOptionsProbed)
            if isinstance(options, BlockdevOptionsProbed):
                options = with_format(options, await probe(await child(options.file)))
            node = await make_node(options, Making(effective, self._host, self.path, child))
            node.definition = options
        except Exception:
            for opened in children:
                await self.release(opened)
            raise
        # QEMU lists a format after its file, which it opens first, and a filter before its
        # child, which the driver opens; a backing file always comes after its overlay.
        before = len(below) if node.filters is None else 0
        await self._open_on(node, children, chain, below)
        self.nodes[node.node_name] = node
        self._list_last(set(below[before:]))
        opened_before += (*below, node.node_name)
        node.filename = filename(self.shown(node), self._definition)
        if probed:
            node.format_guessed()
        return node

    async def _open_on(
        self, node: BlockNode, children: list[BlockNode], chain: tuple[str, ...], below: list[str]
    ) -> None:
        """Open a node on its children; if that fails, close children that only it used.

        Permissions are checked twice: before the driver opens, because it may write
        at once (qcow2 clears autoclear bits), and after the backing file was opened.
        """
        for name, opened in node.children.items():
            adopt(node, name, opened)
            if isinstance(getattr(node.definition, name), BlockdevOptions):
                opened.inherits_from = node
        try:
            # Other commands ran while the children were opened: the name may be taken by now,
            # and a child that was given by name may be closed.
            self._check_free(node.node_name)
            if gone := [child.node_name for child in children if child.closed]:
                raise QmpError(f"Node '{gone[0]}' was closed meanwhile")
            self.unlisted.add(node)
            check_permissions(concerned_by(node))
            await open_node(node)
            try:
                if node.supports_backing:
                    await self._open_backing(node, chain, below)
                check_permissions(concerned_by(node))
            except Exception:
                await close_node(node)
                raise
        except Exception:
            await self._let_go(node)
            raise
        finally:
            self.unlisted.discard(node)

    async def release(self, node: BlockNode) -> None:
        """Close a node if it has no users, then the children that only it used."""
        if node.parents or node.monitor_owned or self.nodes.get(node.node_name) is not node:
            return
        del self.nodes[node.node_name]
        node.closed = True
        self.unlisted.add(node)
        await close_node(node)
        self.unlisted.discard(node)
        await self._let_go(node)

    async def _let_go(self, node: BlockNode) -> None:
        """Cut a closed node, or one that could not be opened, from its children; release them."""
        for name, child in node.children.items():
            disown(node, name, child)
            child.inherits_from = None if child.inherits_from is node else child.inherits_from
            await self.release(child)

    async def close_all(self) -> None:
        """Close every node, parents before their children."""
        closed: set[str] = set()
        for node in list(self.nodes.values()):
            await self._close_from_above(node, closed)

    async def _close_from_above(self, node: BlockNode, closed: set[str]) -> None:
        if node.node_name in closed:
            return
        closed.add(node.node_name)
        for parent in node.node_parents:
            await self._close_from_above(parent, closed)
        await close_node(node)

    def subtree(self, node: BlockNode) -> Iterator[BlockNode]:
        """Yield the node and everything below it, each node once."""
        found, left = {node}, [node]
        while left:
            here = left.pop()
            yield here
            for child in reversed(here.children.values()):
                if child not in found:
                    found.add(child)
                    left.append(child)

    def abort(self) -> None:
        """Make blocked I/O of all nodes return soon, because the process is ending."""
        for node in (*self.nodes.values(), *self.unlisted):
            node.abort()

    def path(self, filename: str) -> str:
        """Return a user's file name as an absolute path.

        A NUL in it becomes the two bytes C0 80, as in QEMU, whose JSON strings are
        in modified UTF-8.
        """
        return os.path.join(self.directory, filename.replace("\0", "\udcc0\udc80"))

    def _list_last(self, names: Set[str]) -> None:
        for name in [name for name in self.nodes if name in names]:
            self.nodes[name] = self.nodes.pop(name)

    def _definition(self, node_name: str) -> BlockdevOptions:
        return self.shown(self.nodes[node_name])

    def new_name(self, wanted: str | None) -> str:
        """Return `wanted`, or a generated name if it is None (bdrv_assign_node_name).

        Raises QmpError if the name is malformed or taken.
        """
        if wanted is None:
            self._names += 1
            return f"#block{self._names:03d}"
        check_node_name(wanted)
        self._check_free(wanted)
        return wanted

    def _check_free(self, name: str) -> None:
        """Raise QmpError if a drive or a node, listed or not, has the name."""
        if name in map(self._host.device_of, self.nodes.values()):
            raise QmpError(f"node-name={name} is conflicting with a device id")
        if name in self.nodes or any(node.node_name == name for node in self.unlisted):
            raise QmpError(f"Duplicate nodes with node-name='{name}'")

    async def open_backing(self, node: BlockNode) -> None:
        """Open the backing file that the header of a node names, which was opened without.

        Raises QmpError.
        """
        node.definition = replace(node.definition, backing=None)  # type: ignore[call-arg]
        await self._open_backing(node, (), [])

    async def _open_backing(
        self, node: BlockNode, chain: tuple[str, ...], below: list[str]
    ) -> None:
        """Open the backing file of a node: as its definition asks, completed by the header.

        A file that the header names must be allowed, and must not be one of the
        images above (`chain`): images can name each other in a circle.  A node that
        the definition names must exist.  `auto_backing_file` remembers the name of
        a backing file that came from the header alone.
        """
        asked = node.definition.asked_backing()
        name, image_format = node.backing_file or (None, None)
        if isinstance(asked, Null) or not (asked or name):
            return
        if asked == node.node_name:
            raise QmpError(f"Making '{asked}' a backing child of '{asked}' would create a cycle")
        if name and name_counts(asked):
            name = await named_file(node, name, self._host.allow_backing, self.directory)
            own = replace(self.shown(node), backing=None)  # type: ignore[call-arg]
            chain = (*chain, full_filename(own, self._definition))
            if name in chain or len(chain) > MAX_CHAIN:
                raise QmpError(f"Backing file '{name}' creates an infinite loop.")
        try:
            ref = backing_ref(asked, name, image_format)
            backing = await self._child(ref, options_for_backing(node.options), chain, below)
        except QmpError as exc:
            raise QmpError(f"Could not open backing file: {exc.desc}", exc.error_class) from None
        attach(node, "backing", backing)
        if isinstance(ref, BlockdevOptions):
            backing.inherits_from = node
        if asked is None:
            node.auto_backing_file = backing.filename

    async def _child(
        self, ref: BlockdevRef, parent: NodeOptions, chain: tuple[str, ...], below: list[str]
    ) -> BlockNode:
        if isinstance(ref, BlockdevOptions):
            return await self._open(ref, parent, chain, below)
        node = self.nodes.get(ref)
        if node is None:
            raise QmpError(f"Cannot find device='{ref}' nor node-name='{ref}'")
        return node

    def connected(self, *nodes: BlockNode) -> list[BlockNode]:
        """Return all nodes connected with the given nodes, in the order of `self.nodes`."""
        found = reached(nodes)
        return [other for other in self.nodes.values() if other in found]

    def refresh_filenames(self, nodes: Iterable[BlockNode] | None = None) -> None:
        """Recompute the file names of all nodes, or of `nodes` and the nodes below them.

        Call this after changing links or the backing file name in a header.
        """
        done: set[str] = set()
        for node in self.nodes.values() if nodes is None else nodes:
            self._refresh_filename(node, done)

    def _refresh_filename(self, node: BlockNode, done: set[str]) -> None:
        if node.node_name in done:
            return
        done.add(node.node_name)
        for child in node.children.values():
            self._refresh_filename(child, done)
        node.filename = filename(self.shown(node), self._definition)

    def shown(self, node: BlockNode) -> BlockdevOptions:
        """Return a node's definition with its present children by name.

        A backing file that the header names is left out (bdrv_backing_overridden).
        """
        children: dict[str, Any] = {
            name: child.node_name for name, child in node.children.items()
        }
        if node.supports_backing:
            children["backing"] = _shown_backing(node)
        return replace(node.definition, **children)


def _shown_backing(node: BlockNode) -> BlockdevRef | Null | None:
    """Return the `backing` member to show: None if the backing file is the header's."""
    if not is_overridden(node):
        return None
    return Null.NULL if node.backing is None else node.backing.node_name
