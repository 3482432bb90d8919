# SPDX-License-Identifier: MIT
"""Cutting connections that hang (QEMU's `util/yank.c`, `qapi/yank.json`).

Both commands may be executed out of band: they wait for no other command and no server.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QapiErrorClass, QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable, FlatUnion

table = CommandTable()


class YankInstanceType(StrEnum):
    """QAPI's YankInstanceType; here only nodes have connections that can be cut."""

    BLOCK_NODE = "block-node"
    CHARDEV = "chardev"
    MIGRATION = "migration"


@dataclass(frozen=True, slots=True, kw_only=True)
class YankInstance:
    type: YankInstanceType


@dataclass(frozen=True, slots=True, kw_only=True)
class YankInstanceBlockNode(YankInstance):
    node_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class YankInstanceChardev(YankInstance):
    id: str


YANK_INSTANCE = FlatUnion(
    "YankInstance",
    tag="type",
    base=YankInstance,
    variants={"block-node": YankInstanceBlockNode, "chardev": YankInstanceChardev},
)


@table.command("yank", allow_oob=True)
def yank(
    machine: Machine, *, instances: list[Annotated[YankInstance, YANK_INSTANCE]]
) -> None:
    """Cut the connections of all these instances, or of none if one of them does not exist."""
    # All are found before the first is cut.
    for node in [_find(machine, instance) for instance in instances]:
        node.yank()


def _find(machine: Machine, instance: YankInstance) -> BlockNode:
    if isinstance(instance, YankInstanceBlockNode):
        for node in _connected(machine):
            if node.node_name == instance.node_name:
                return node
    raise QmpError("Instance not found", QapiErrorClass.DEVICE_NOT_FOUND)


@table.command("query-yank", allow_oob=True)
def query_yank(machine: Machine) -> list[Annotated[YankInstance, YANK_INSTANCE]]:
    """Return all instances whose connections can be cut, the oldest first."""
    return [
        YankInstanceBlockNode(type=YankInstanceType.BLOCK_NODE, node_name=node.node_name)
        for node in _connected(machine)
    ]


def _connected(machine: Machine) -> Iterator[BlockNode]:
    """Yield the nodes that have a connection.

    Nodes that are being opened or closed are among them: they may wait for their
    servers as well.
    """
    unlisted = sorted(machine.graph.unlisted, key=lambda node: node.node_name)
    for node in (*machine.graph.nodes.values(), *unlisted):
        if node.connected:
            yield node
