# SPDX-License-Identifier: MIT
"""A node's place in the graph: its name, its children, who uses it, and what that forbids."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from blockcore.nodes.op_blockers import BlockOpType, OpBlockers
from blockcore.nodes.permissions import Holder, Pair, Perm, backing_child, filtered_child
from blockcore.qapi.names import QmpError

N = TypeVar("N", bound="Vertex")  # type: ignore[type-arg]  # a node is a vertex of nodes


class Vertex(Generic[N]):
    """A vertex of a graph of `N`; `links` and `graph` change it."""

    filters: ClassVar[str | None] = None
    """The child whose data is shown as it is, if that is all there is to see (is_filter)."""

    never_frozen: ClassVar[bool] = False
    """Whether it will go, however others may rely on the links to it (never_freeze)."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self.children: dict[str, N] = {}
        self.parents: list[N | Holder[N]] = []
        """All users, each as often as it uses this one, in the order in which they came."""
        self.inherits_from: N | None = None
        self.frozen: set[str] = set()
        """Names of children that may not be replaced."""
        self.op_blockers = OpBlockers()
        self.monitor_owned = False
        self.why_read_only: str | None = None
        """What keeps it from being writable, where nobody has asked for that."""
        self.implicit = False
        """Put there by a job without the user's asking: commands about drives look past it."""
        self.closed = False
        self.auto_backing_file = ""
        """The name that the backing file has if it is the one that the image says."""

    @property
    def device_or_node_name(self) -> str:
        """What messages call it."""
        return self.node_name

    @property
    def node_parents(self) -> list[N]:
        """The users that are nodes."""
        return [parent for parent in self.parents if isinstance(parent, Vertex)]

    @property
    def backing(self) -> N | None:
        """The image that a read falls through to where this one has nothing."""
        return self.children.get("backing")

    @property
    def filtered(self) -> N | None:
        """What a filter shows; None if this is none."""
        return None if self.filters is None else self.children.get(self.filters)

    @property
    def cow(self) -> N | None:
        """The backing file, of an image (bdrv_cow_bs)."""
        return self.backing if self.filters is None else None

    @property
    def file(self) -> N | None:
        """The child that carries the node's data: `file`, or `image` of a blkdebug node."""
        return self.children.get("file") or self.children.get("image")

    def check_op(self, op: BlockOpType) -> None:
        """QmpError if something forbids an operation on the node (bdrv_op_is_blocked)."""
        reason = self.op_blockers.reason(op)
        if reason is not None:
            raise QmpError(f"Node '{self.device_or_node_name}' is busy: {reason}")

    def check_link(self, name: str) -> None:
        """QmpError if a job needs the link to a child to stay as it is."""
        child = self.children.get(name)
        if name in self.frozen and child is not None:
            raise QmpError(
                f"Cannot change frozen '{name}' link from '{self.node_name}' to '{child.node_name}'"
            )

    def set_child(self, name: str, child: N | None) -> None:
        """Use another child, or none; `links` does this, and tells the children."""
        if child is None:
            del self.children[name]
        else:
            self.children[name] = child

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """What the node needs and shares of a child, given what its users need and share."""
        return (backing_child if name == "backing" else filtered_child)(perm, shared)
