# SPDX-License-Identifier: MIT
"""A node's place in the graph: name, children, users, and what the users forbid."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from blockcore.nodes.op_blockers import BlockOpType, OpBlockers
from blockcore.nodes.permissions import Holder, Pair, Perm, backing_child, filtered_child
from blockcore.qapi.names import QmpError

N = TypeVar("N", bound="Vertex")  # type: ignore[type-arg]  # a node is a vertex of nodes


class Vertex(Generic[N]):
    """A vertex in a graph of `N`; only `graph.links` and `graph.graph` change its links."""

    filters: ClassVar[str | None] = None
    """The name of the child that a filter shows; None if the node is no filter (is_filter)."""

    never_frozen: ClassVar[bool] = False
    """Whether links to the node cannot be frozen, because a job will remove it (never_freeze)."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self.children: dict[str, N] = {}
        self.parents: list[N | Holder[N]] = []
        """All users in the order in which they came, each as often as it uses the node."""
        self.inherits_from: N | None = None
        """The parent that this node was opened with: it inherits options from there."""
        self.frozen: set[str] = set()
        """Names of children that may not be replaced."""
        self.op_blockers = OpBlockers()
        self.monitor_owned = False
        self.why_read_only: str | None = None
        """Why the node is read-only although writing was asked for; None if it is not."""
        self.implicit = False
        """Whether a job inserted the node without a name: commands about drives look past it."""
        self.closed = False
        self.auto_backing_file = ""
        """The file name that the backing node has if it is the one in the image's header."""

    @property
    def device_or_node_name(self) -> str:
        """The name by which messages call the node."""
        return self.node_name

    @property
    def node_parents(self) -> list[N]:
        """The users that are nodes."""
        return [parent for parent in self.parents if isinstance(parent, Vertex)]

    @property
    def backing(self) -> N | None:
        """The child `backing`, whose data shows where this node has none."""
        return self.children.get("backing")

    @property
    def filtered(self) -> N | None:
        """The child that a filter shows; None if the node is no filter."""
        return None if self.filters is None else self.children.get(self.filters)

    @property
    def cow(self) -> N | None:
        """The backing file of an image; None for a filter (bdrv_cow_bs)."""
        return self.backing if self.filters is None else None

    @property
    def file(self) -> N | None:
        """The child that carries the node's data: `file`, or `image` of a blkdebug node."""
        return self.children.get("file") or self.children.get("image")

    def check_op(self, op: BlockOpType) -> None:
        """Raise QmpError if a blocker forbids an operation on the node (bdrv_op_is_blocked)."""
        reason = self.op_blockers.reason(op)
        if reason is not None:
            raise QmpError(f"Node '{self.device_or_node_name}' is busy: {reason}")

    def check_link(self, name: str) -> None:
        """Raise QmpError if a job has frozen the link to child `name`."""
        child = self.children.get(name)
        if name in self.frozen and child is not None:
            raise QmpError(
                f"Cannot change frozen '{name}' link from '{self.node_name}' to '{child.node_name}'"
            )

    def set_child(self, name: str, child: N | None) -> None:
        """Replace or remove a child on this side of the link; `graph.links` tells the child."""
        if child is None:
            del self.children[name]
        else:
            self.children[name] = child

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return what the node needs and shares of child `name`, by its users' needs and shares."""
        return (backing_child if name == "backing" else filtered_child)(perm, shared)
