# SPDX-License-Identifier: MIT
"""Changes of options and children of open nodes (bdrv_reopen_multiple).

A reopening is a list of `Change`s.  The list is checked as a whole and carried
out node by node; if one node fails, the nodes before it go back.  The caller
holds a drained section: no request may be under way at the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, fields, replace

from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevRef
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.graph.inherit import inherit, options_for_backing
from blockcore.nodes.graph.relink import Relink
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlockdevDetectZeroesOptions, QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import Null

_COMMON = frozenset(member.name for member in fields(BlockdevOptions)) - {"driver", "force_share"}


@dataclass
class Change:
    """The new options of one node, and its replaced children by name (None: no such child)."""

    node: BlockNode
    options: NodeOptions
    definition: BlockdevOptions
    children: dict[str, BlockNode | None] = field(default_factory=dict)


def read_only_changes(graph: BlockGraph, node: BlockNode, read_only: bool) -> list[Change]:
    """Return the changes that make a node and its inheriting children read-only or writable.

    The option then counts as given for the node itself: it stays when a parent
    becomes read-only or writable later (bdrv_reopen_set_read_only).
    """
    definition = replace(node.definition, read_only=read_only)
    return _inherited(graph, node, replace(node.options, read_only=read_only), definition)


def asked_changes(graph: BlockGraph, wanted: Iterable[BlockdevOptions]) -> list[Change]:
    """Return the changes that `blockdev-reopen` asks for.

    Every option that is not given becomes the default again, except that
    `discard` stays as it is, as in QEMU.  Raises QmpError if a node does not
    exist, or if an option cannot change.
    """
    changes: list[Change] = []
    for definition in wanted:
        if definition.node_name is None:
            raise QmpError("node-name not specified")
        node = graph.nodes.get(definition.node_name)
        if node is None:
            raise QmpError(f"Failed to find node with node-name='{definition.node_name}'")
        changes += _asked(graph, node, definition, None)
    return changes


async def reopen(graph: BlockGraph, changes: list[Change]) -> None:
    """Carry out all changes, or none and raise QmpError or OSError.

    Each list of changes has parents before their children.  A node that becomes
    read-only goes before its children, because it may still have to write to
    them; a node that becomes writable goes after its children, because it may
    write at once.  Links change last, all together.
    """
    _check(graph, changes)
    closing = [one for one in changes if one.options.read_only]
    opening = [one for one in reversed(changes) if not one.options.read_only]
    done: list[Change] = []
    try:
        for change in closing + opening:
            node = change.node
            children = {name: node.children.get(name) for name in change.children}
            before = Change(node, node.options, node.definition, children)
            await node.do_reopen(change.options, change.definition, change.children)
            node.options = change.options
            done.append(before)
    except Exception:
        for before in reversed(done):
            await before.node.do_reopen(before.options, before.definition, before.children)
            before.node.options = before.options
        raise
    async with Relink(graph) as links:
        for change in changes:
            _set_children(links, change)
            change.node.definition = change.definition
            change.node.reconfigured()
            links.reconfigured(change.node)
        # By `_check`.  The drivers have the new options: a refusal now would be half an undoing.
        links.checked()


def _inherited(
    graph: BlockGraph, node: BlockNode, options: NodeOptions, definition: BlockdevOptions
) -> list[Change]:
    """Return the change of a node and of the children that inherit from it."""
    changes = [Change(node, options, definition)]
    for name, child in node.children.items():
        if child.inherits_from is node:
            up = options_for_backing(options) if name == "backing" else options
            own = inherit(child.definition, up, child.node_name)
            if own != child.options:
                changes += _inherited(graph, child, own, child.definition)
    return changes


def _asked(
    graph: BlockGraph, node: BlockNode, wanted: BlockdevOptions, parent: NodeOptions | None
) -> list[Change]:
    """Return the changes that a definition asks for at a node and below it.

    First come the options that all drivers have, with inheritance; then each child
    that the definition mentions, either as a definition in place (the function
    calls itself; the child must have been opened with the node) or by name (the
    link is replaced); at last the driver's own members.  QEMU's order of checks
    decides which of several errors is reported (bdrv_reopen_prepare).
    """
    options = inherit(wanted, parent, node.node_name)
    # QEMU changes BDRV_O_UNMAP only if the option is given (bdrv_reopen_prepare).
    if parent is None and wanted.discard is None:
        options = replace(options, discard_unmap=node.options.discard_unmap)
    unmaps = options.discard_unmap
    if options.detect_zeroes is BlockdevDetectZeroesOptions.UNMAP and not unmaps:
        raise QmpError(
            "setting detect-zeroes to unmap is not allowed without setting discard operation"
            " to unmap"
        )
    has_backing = node.supports_backing and (node.backing or node.backing_file)
    if has_backing and wanted.asked_backing() is None:
        raise QmpError(f"backing is missing for '{node.node_name}'")
    changes = _inherited(graph, node, options, wanted)
    # Reversed, because QEMU looks at the backing file before the file.
    for name in reversed(wanted.child_members()):
        ref: BlockdevRef | Null | None = getattr(wanted, name)
        if isinstance(ref, BlockdevOptions):
            child = node.children.get(name)
            if child is None or child.inherits_from is not node:
                raise QmpError(f"Cannot change the option '{name}.driver'")
            up = options_for_backing(options) if name == "backing" else options
            # The child's own definition replaces what it would only have inherited.
            changes = [one for one in changes if one.node is not child]
            changes += _asked(graph, child, ref, up)
        elif ref is not None:
            _new_child(graph, changes[0], name, ref)
    _check_members(node, wanted)
    return changes


def _new_child(graph: BlockGraph, change: Change, name: str, ref: str | Null) -> None:
    """Add to `change` the node that becomes child `name` (bdrv_reopen_parse_file_or_backing).

    Raises QmpError if there is no such node, or if it cannot become this child.
    """
    node, child = change.node, None
    old = node.children.get(name)
    if isinstance(ref, str):
        child = graph.nodes.get(ref)
        if child is None:
            raise QmpError(f"Cannot find device='' nor node-name='{ref}'")
        if node in graph.subtree(child):
            raise QmpError(
                f"Making '{ref}' a {name} child of '{node.node_name}' would create a cycle"
            )
    if child is old:
        return
    if old is not None and old.implicit:
        raise QmpError(f"Cannot replace implicit {name} child of {node.node_name}")
    if name not in ("file", "backing"):
        raise QmpError(f"Cannot change the option '{name}'")
    node.check_link(name)
    change.children[name] = child


def _check_members(node: BlockNode, wanted: BlockdevOptions) -> None:
    """Raise QmpError if a member changes that cannot, or was given before and is not now."""
    if wanted.driver != node.driver:
        raise QmpError("Cannot change the option 'driver'")
    for member in fields(wanted):
        name = member.name
        if name in _COMMON or name in node.mutable_opts:
            continue
        if name == "driver" or name in wanted.child_members():
            continue
        new, old = getattr(wanted, name), getattr(node.definition, name)
        wire = name.replace("_", "-")
        if new is None and old is not None:
            raise QmpError(f"Option '{wire}' cannot be reset to its default value")
        if new != old:
            raise QmpError(f"Cannot change the option '{wire}'")


def _check(graph: BlockGraph, changes: list[Change]) -> None:
    """Raise QmpError if the changed graph would have conflicting users.

    The changes are made on the graph itself and undone.  There is no await in
    between, so no request and no command sees them.
    """
    closing = [one.node for one in changes if one.options.read_only and not one.node.read_only]
    before = [(one.node, one.node.options) for one in changes]
    links = Relink(graph)
    try:
        for change in changes:
            change.node.options = change.options
            _set_children(links, change)
        links.check(graph.nodes.values(), closing)
    finally:
        links.undo()
        for node, options in before:
            node.options = options


def _set_children(links: Relink, change: Change) -> None:
    for name, child in change.children.items():
        links.set_child(change.node, name, child)
