"""The graph of block nodes: names, parents, opening and closing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set

from blockcore.nodes.drivers import make_node
from blockcore.nodes.filename import filename
from blockcore.nodes.node import BlockNode, NodeOptions, Surroundings
from blockcore.nodes.options import (
    BlockdevCacheOptions,
    BlockdevOptions,
    BlockdevRef,
    check_node_name,
)
from blockcore.qapi import BlockdevDetectZeroesOptions, BlockdevDiscardOptions, QmpError


class BlockGraph:
    """All nodes of a machine, by node-name, in the order of QEMU's graph_bdrv_states.

    A format node is listed after its file, a protocol's before its child: the
    queries show it.

    `directory` is what relative file names are relative to: the working
    directory of the user, which nbdkit leaves.
    """

    def __init__(self, around: Surroundings, directory: str) -> None:
        self.nodes: dict[str, BlockNode] = {}
        self.directory = directory
        self._around = around
        self._names = 0

    async def open(self, options: BlockdevOptions, parent: NodeOptions | None = None) -> BlockNode:
        """Open a definition with all its children; QmpError, and nothing is left open.

        The new node has no parent and no owner yet: the caller says whose it is.
        """
        if options.node_name is not None:
            self._check_name(options.node_name)
        effective = self._inherit(options, parent)
        earlier = set(self.nodes)
        children: list[BlockNode] = []

        async def child(ref: BlockdevRef) -> BlockNode:
            children.append(await self._child(ref, effective))
            return children[-1]

        try:
            node = await make_node(options, effective, self._around, self.path, child)
            await node.do_open()
            await self._check_name_again(node)
        except QmpError:
            for opened in children:
                await self.release(opened)
            raise
        node.definition = options
        node.filename = filename(options, self._definition)
        self.nodes[node.node_name] = node
        for opened in children:
            opened.parents.append(node)
        if node.driver == "blkdebug":
            self._list_last(self.nodes.keys() - earlier - {node.node_name})
        return node

    async def release(self, node: BlockNode) -> None:
        """Close a node that nobody uses, then the children that only it used."""
        if node.parents or node.monitor_owned or self.nodes.get(node.node_name) is not node:
            return
        del self.nodes[node.node_name]
        node.closed = True
        await flush_quietly(node)
        await node.do_close()
        for child in node.children.values():
            child.parents.remove(node)
            await self.release(child)

    async def flush_all(self) -> None:
        """Flush every node that no other is above of (bdrv_flush_all); errors are not reported."""
        for node in list(self.nodes.values()):
            if not any(isinstance(parent, BlockNode) for parent in node.parents):
                await flush_quietly(node)

    def subtree(self, node: BlockNode) -> Iterator[BlockNode]:
        """The node and everything below it."""
        yield node
        for child in node.children.values():
            yield from self.subtree(child)

    def abort(self) -> None:
        """Make blocked I/O of all nodes return soon: the process is ending."""
        for node in self.nodes.values():
            node.abort()

    def path(self, filename: str) -> str:
        """A file name as the user meant it, made absolute."""
        return os.path.join(self.directory, filename)

    def _list_last(self, names: Set[str]) -> None:
        for name in [name for name in self.nodes if name in names]:
            self.nodes[name] = self.nodes.pop(name)

    def _definition(self, node_name: str) -> BlockdevOptions:
        return self.nodes[node_name].definition

    def _check_name(self, name: str) -> None:
        """QmpError unless a new node may have the name (bdrv_assign_node_name)."""
        check_node_name(name)
        if name in self.nodes:
            raise QmpError(f"Duplicate nodes with node-name='{name}'")

    async def _check_name_again(self, node: BlockNode) -> None:
        """QmpError, and the node is closed, if its name was taken while it was being opened."""
        if node.node_name in self.nodes:
            await node.do_close()
            raise QmpError(f"Duplicate nodes with node-name='{node.node_name}'")

    async def _child(self, ref: BlockdevRef, parent: NodeOptions) -> BlockNode:
        if isinstance(ref, BlockdevOptions):
            return await self.open(ref, parent)
        node = self.nodes.get(ref)
        if node is None:
            raise QmpError(f"Cannot find device='{ref}' nor node-name='{ref}'")
        return node

    def _inherit(self, options: BlockdevOptions, parent: NodeOptions | None) -> NodeOptions:
        """A child takes read-only and the cache mode from its parent, and always unmaps.

        What the node above decides about discards has to get through below
        (bdrv_inherited_options).
        """
        cache = options.cache or BlockdevCacheOptions()
        up = parent or NodeOptions(node_name="")
        unmap = options.discard is BlockdevDiscardOptions.UNMAP
        return NodeOptions(
            node_name=options.node_name or self._generated_name(),
            read_only=up.read_only if options.read_only is None else options.read_only,
            auto_read_only=bool(options.auto_read_only),
            discard_unmap=parent is not None if options.discard is None else unmap,
            detect_zeroes=options.detect_zeroes or BlockdevDetectZeroesOptions.OFF,
            direct=up.direct if cache.direct is None else cache.direct,
            no_flush=up.no_flush if cache.no_flush is None else cache.no_flush,
        )

    def _generated_name(self) -> str:
        self._names += 1
        return f"#block{self._names:03d}"


async def flush_quietly(node: BlockNode) -> None:
    """Flush a node where nobody could be told of an error."""
    try:
        await node.flush()
    except OSError:
        return
