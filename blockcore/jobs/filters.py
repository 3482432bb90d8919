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
from blockcore.nodes.graph.relink import Relink, take_away
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
    """Put a filter over a node, and let the node's users use it (bdrv_append); raise QmpError.

    `make` creates the filter.  `definition` has the filter's name; without one the
    filter is implicit.
    """
    node = _make(machine, over, make, definition, read_only)
    node.implicit = definition.node_name is None
    async with Drain(machine, [over]):
        await node.do_open()
        async with Relink(machine.graph) as change:
            change.insert(node)
            change.replace(over, node)
    return node


async def insert_node(
    machine: Machine,
    over: BlockNode,
    make: Callable[[NodeOptions], F],
    definition: BlockdevOptions,
    *,
    implicit: bool = True,
) -> F:
    """Open a filter, then put it over a node, with prefixed errors (bdrv_insert_node).

    The errors tell whether the filter could not be opened or not take the place.
    `implicit`: a filter without a name of the user's is implicit.
    """
    with told("Could not create node: "):
        node = _make(machine, over, make, definition, False)
    node.implicit = implicit and definition.node_name is None
    async with Drain(machine, [over]):
        await node.do_open()
        async with Relink(machine.graph) as change:
            change.insert(node)
            with told("Could not create node: "):
                change.check(machine.graph.subtree(node))
            with told("Could not replace node: "):
                change.replace(over, node)
                change.check()
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


async def drop_filter(machine: Machine, node: FilterNode) -> None:
    """Let the users of a filter use what it shows, and close it, in a drained section."""
    async with Drain(machine, [node]):
        await take_away(machine.graph, node)
