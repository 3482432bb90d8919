# SPDX-License-Identifier: MIT
"""Putting the filter of a job over a node, and taking it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from blockcore.machine.drain import Drain
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.graph.links import adopt, check, disown
from blockcore.nodes.graph.links import replace as replace_node
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError

F = TypeVar("F", bound=FilterNode)


async def insert_filter(
    machine: Machine,
    over: BlockNode,
    make: Callable[[NodeOptions], F],
    definition: BlockdevOptions,
    *,
    read_only: bool = False,
) -> F:
    """Whoever uses `over` uses a filter on it from now on (bdrv_append); QmpError.

    `definition` says its name, or that it is to have none of the user's; then
    it is implicit.
    """
    node = _make(machine, over, make, definition, read_only)
    node.implicit = definition.node_name is None
    async with Drain(machine, [over]):
        await node.do_open()
        _link(machine, node)
        with _undone(machine, node):
            _put_over(machine, node, over)
    return node


async def insert_node(
    machine: Machine,
    over: BlockNode,
    make: Callable[[NodeOptions], F],
    definition: BlockdevOptions,
    *,
    implicit: bool = True,
) -> F:
    """The same for a filter that is opened first, and told apart in errors (bdrv_insert_node).

    `implicit` says whether one without a name of the user's may be so.
    """
    with told("Could not create node: "):
        node = _make(machine, over, make, definition, False)
    node.implicit = implicit and definition.node_name is None
    async with Drain(machine, [over]):
        await node.do_open()
        _link(machine, node)
        with _undone(machine, node):
            with told("Could not create node: "):
                check(machine.graph.subtree(node))
            with told("Could not replace node: "):
                _put_over(machine, node, over)
    return node


@contextmanager
def told(prefix: str) -> Iterator[None]:
    """Begin the text of a QmpError with what was tried (error_prepend)."""
    try:
        yield
    except QmpError as exc:
        raise QmpError(prefix + exc.desc, exc.error_class) from None


def _make(
    machine: Machine,
    over: BlockNode,
    make: Callable[[NodeOptions], F],
    definition: BlockdevOptions,
    read_only: bool,
) -> F:
    graph = machine.graph
    options = NodeOptions(
        node_name=graph.new_name(definition.node_name),
        read_only=read_only,
        direct=over.options.direct,
        no_flush=over.options.no_flush,
        # QEMU opens the filters of jobs without BDRV_O_UNMAP: discards end there.
        discard_unmap=False,
    )
    node = make(options)
    node.definition = definition
    return node


def _link(machine: Machine, node: FilterNode) -> None:
    for name, child in node.children.items():
        adopt(node, name, child)
    machine.graph.nodes[node.node_name] = node


@contextmanager
def _undone(machine: Machine, node: FilterNode) -> Iterator[None]:
    """If what follows fails, the filter is not there any more."""
    try:
        yield
    except QmpError:
        _unlink(machine, node)
        raise


def _put_over(machine: Machine, node: FilterNode, over: BlockNode) -> None:
    graph = machine.graph
    replace_node(over, node, graph.subtree(node))
    near = graph.connected(node)
    check(near)
    graph.refresh_filenames(near)


async def drop_filter(machine: Machine, node: FilterNode) -> None:
    """Whoever uses the filter uses what it shows from now on."""
    async with Drain(machine, [node]):
        await remove_filter(machine, node)
        machine.graph.refresh_filenames(machine.graph.connected(node.below))


async def remove_filter(machine: Machine, node: FilterNode) -> None:
    """The same for a caller whose drained section it is, and who does the rest."""
    _unlink(machine, node)
    await node.do_close()


def _unlink(machine: Machine, node: FilterNode) -> None:
    graph = machine.graph
    replace_node(node, node.below, graph.subtree(node.below))
    del graph.nodes[node.node_name]
    node.closed = True
    for name, child in list(node.children.items()):
        disown(node, name, child)
