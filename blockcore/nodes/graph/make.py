# SPDX-License-Identifier: MIT
"""The table of drivers that a user can ask for: a new driver is a member of `DRIVERS`."""

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
"""Formats, then protocols, then filters."""

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
    """Return the driver with QAPI's name `name`, which must exist."""
    return _BY_NAME[name]


async def make_node(definition: BlockdevOptions, making: Making) -> BlockNode:
    """Return a new node that is not open yet but has open children; raise QmpError."""
    return await driver_named(definition.driver).make(definition, making)
