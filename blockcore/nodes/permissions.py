# SPDX-License-Identifier: MIT
"""Permissions on nodes: QEMU's BLK_PERM_*.

Each user of a node needs some permissions on it, and shares some with other
users.  A node's needs on its children follow from its own users' needs, by the
role of the child; the functions here compute them (`bdrv_default_perms`).  They
take and return pairs (needed, shared).
"""

from __future__ import annotations

from enum import IntFlag
from typing import Protocol, TypeVar

N = TypeVar("N", contravariant=True)


class Perm(IntFlag):
    """The permissions, in the order in which messages name them."""

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
    """Whether the holder keeps its node when `bdrv_replace_node` moves other users."""

    def describe(self) -> str:
        """Return the holder's name for messages about conflicts."""

    def node_replaced(self, node: N) -> None:
        """Use `node` from now on, in place of the node that was replaced."""


class NodeUser:
    """A holder with constant permissions: a command or a job while it works."""

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
    """Return the permissions on a child whose data is shown as it is."""
    return perm, shared


def backing_child(perm: Perm, shared: Perm) -> Pair:
    """Return the permissions on a backing file.

    Other users may write it only if the overlay's users share writing: they see
    its data change.
    """
    writes = Perm.WRITE | Perm.RESIZE if shared & Perm.WRITE else NONE
    return perm & Perm.CONSISTENT_READ, writes | Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED


def data_child(perm: Perm, shared: Perm) -> Pair:
    """Return the permissions on a child with guest data that the parent arranges.

    No other user may resize the child.
    """
    if perm & Perm.WRITE_UNCHANGED:
        perm |= Perm.WRITE
    if perm & Perm.WRITE:
        perm |= Perm.RESIZE
    return perm, shared & ~Perm.RESIZE


def image_child(perm: Perm, shared: Perm, writable: bool) -> Pair:
    """Return the permissions on a child that also has the parent's metadata.

    No other user may write it.  A writable parent needs to write even if no user
    does, because it may change metadata.
    """
    perm |= Perm.CONSISTENT_READ
    if writable:
        perm |= Perm.WRITE | Perm.RESIZE
    return data_child(perm, shared & ~Perm.WRITE)


def names(perm: Perm) -> str:
    """Return the names of permissions as messages list them."""
    return ", ".join(str(one.name).lower().replace("_", " ") for one in Perm if one & perm)
