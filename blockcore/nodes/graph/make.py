# SPDX-License-Identifier: MIT
"""The table of drivers that a user can ask for: a new driver is a member of `DRIVERS`.

Their modules are imported when somebody asks for them, except for those that nearly
every machine has.
"""

from __future__ import annotations

from typing import Any, Final

from blockcore.bql.effects import Call
from blockcore.bql.later import Later, later
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.making import Driver, Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import FlatUnion

DRIVERS: Final[dict[str, Later]] = {
    "qcow2": later("blockcore.nodes.drivers.qcow2.node:Qcow2Node"),
    "raw": later("blockcore.nodes.drivers.raw:RawNode"),
    "file": later("blockcore.nodes.drivers.file:FileNode"),
    "nbd": later("blockcore.nodes.drivers.nbd:NbdNode"),
    "null-co": later("blockcore.nodes.drivers.null:NullNode"),
    "blkdebug": later("blockcore.nodes.drivers.blkdebug:BlkdebugNode"),
    "x-volatile-cache": later("blockcore.nodes.drivers.volatile_cache:VolatileCacheNode"),
}
"""The classes (`Driver`) by QAPI's names: formats, then protocols, then filters."""


def load_drivers() -> None:
    """Import the modules of all drivers."""
    for driver in DRIVERS.values():
        driver()


def _specific_info() -> dict[str, Any]:
    infos = {name: driver().specific_info for name, driver in DRIVERS.items()}
    return {name: info for name, info in infos.items() if info is not None}


IMAGE_INFO_SPECIFIC: Final = FlatUnion(
    "ImageInfoSpecific", tag="type", base=ImageInfoSpecific, variants=_specific_info
)


async def driver_named(name: str) -> Driver:
    """Return the driver with QAPI's name `name`, which must exist; imports it outside the lock.

    Raises QmpError if that fails: its file may be gone, or there is no descriptor.
    """
    driver = DRIVERS[name]
    if not driver.is_loaded:
        try:
            await Call(driver)
        except (ImportError, OSError) as exc:
            raise QmpError(f"The driver '{name}' cannot be loaded: {exc}") from None
    found: Driver = driver()
    return found


async def make_node(definition: BlockdevOptions, making: Making) -> BlockNode:
    """Return a new node that is not open yet but has open children; raise QmpError."""
    driver = await driver_named(definition.driver)
    return await driver.make(definition, making)
