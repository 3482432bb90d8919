# SPDX-License-Identifier: MIT
"""The drivers that a user can ask for: a new one is a member of `DRIVERS`."""

from __future__ import annotations

from typing import Final

from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.drivers.blkdebug import BlkdebugNode
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.nbd import NbdNode
from blockcore.nodes.drivers.null import NullNode
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.making import Driver, Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.schema import FlatUnion

DRIVERS: Final[tuple[Driver, ...]] = (
    *(Qcow2Node, RawNode),
    *(FileNode, NbdNode, NullNode),
    *(BlkdebugNode,),
)
"""Formats, protocols, filters."""

_BY_NAME: Final = {driver.driver: driver for driver in DRIVERS}

IMAGE_INFO_SPECIFIC: Final = FlatUnion(
    "ImageInfoSpecific",
    tag="type",
    base=ImageInfoSpecific,
    variants={
        driver.driver: driver.specific_info
        for driver in DRIVERS
        if driver.specific_info is not None
    },
)


def driver_named(name: str) -> Driver:
    """Return a driver by QAPI's name; there is one."""
    return _BY_NAME[name]


async def make_node(definition: BlockdevOptions, making: Making) -> BlockNode:
    """A node that is not open yet, its children opened; raises QmpError."""
    return await driver_named(definition.driver).make(definition, making)
