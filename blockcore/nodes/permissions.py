# SPDX-License-Identifier: MIT
"""Who may do what with a node, and who lets others: QEMU's BLK_PERM_*.

Every user of a node needs some permissions on it and shares some with the
others.  What a node needs of its children follows from what its own users
need of it, by the child's role; the functions here say how
(`bdrv_default_perms`).  All take and give (needed, shared).
"""

from __future__ import annotations

from enum import IntFlag
from typing import Protocol, TypeVar

N = TypeVar("N", contravariant=True)


class Perm(IntFlag):
    """In the order in which messages name them."""

    CONSISTENT_READ = 1
    WRITE = 2
    WRITE_UNCHANGED = 4
    RESIZE = 8


NONE = Perm(0)
ALL = Perm.CONSISTENT_READ | Perm.WRITE | Perm.WRITE_UNCHANGED | Perm.RESIZE

Pair = tuple[Perm, Perm]


class Holder(Protocol[N]):
    """A user of a node, of class `N`, from outside the graph: a drive, a job, a command."""

    perm: Perm
    shared: Perm
    stay_at_node: bool
    """Whether it is the node that is meant, and not whatever takes its place."""

    def describe(self) -> str:
        """Who it is, for messages about conflicts."""

    def node_replaced(self, node: N) -> None:
        """The node that it used has been replaced."""


class NodeUser:
    """A holder that needs no more than that: for as long as a command or a job works."""

    def __init__(
        self, perm: Perm, shared: Perm = ALL, who: str = "an unnamed block device"
    ) -> None:
        self.perm = perm
        self.shared = shared
        self.stay_at_node = True
        self._who = who

    def describe(self) -> str:
        return self._who

    def node_replaced(self, node: object) -> None:
        raise AssertionError("it stays where it is")


def filtered_child(perm: Perm, shared: Perm) -> Pair:
    """A child whose data is shown as it is."""
    return perm, shared


def backing_child(perm: Perm, shared: Perm) -> Pair:
    """A backing file: others may write it only where changing data disturbs nobody above."""
    writes = Perm.WRITE | Perm.RESIZE if shared & Perm.WRITE else NONE
    return perm & Perm.CONSISTENT_READ, writes | Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED


def data_child(perm: Perm, shared: Perm) -> Pair:
    """A child with guest data in an order of the parent's own: nobody else may resize it."""
    if perm & Perm.WRITE_UNCHANGED:
        perm |= Perm.WRITE
    if perm & Perm.WRITE:
        perm |= Perm.RESIZE
    return perm, shared & ~Perm.RESIZE


def image_child(perm: Perm, shared: Perm, writable: bool) -> Pair:
    """A child with metadata of the parent as well: nobody else may write it.

    A writable parent may write metadata although no guest writes.
    """
    perm |= Perm.CONSISTENT_READ
    if writable:
        perm |= Perm.WRITE | Perm.RESIZE
    return data_child(perm, shared & ~Perm.WRITE)


def names(perm: Perm) -> str:
    """As messages have them."""
    return ", ".join(str(one.name).lower().replace("_", " ") for one in Perm if one & perm)
