# SPDX-License-Identifier: MIT
"""The interface between the graph and drivers that make nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from blockcore.nodes.definitions.options import BlockdevRef
from blockcore.nodes.driver import BackingFile, NodeHost, NodeOptions
from blockcore.nodes.node import BlockNode
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True)
class Making:
    """The arguments for making a node, apart from its definition.

    `options` are those that all nodes have.  `path` makes a file name absolute.
    `child` opens or finds a child, and raises QmpError.
    """

    options: NodeOptions
    host: NodeHost
    path: Callable[[str], str]
    child: Callable[[BlockdevRef], Awaitable[BlockNode]]


class Driver(Protocol):
    """A class of nodes that users can ask for, as the graph sees it (`driver.BlockDriver`)."""

    @property
    def driver(self) -> str:
        """QAPI's name of the driver (BlockdevDriver)."""

    @property
    def supports_backing(self) -> bool:
        """Whether images can have a backing file."""

    @property
    def creates_images(self) -> bool:
        """Whether images can be created in this format or protocol."""

    @property
    def creates_in_empty(self) -> bool:
        """Whether `do_create` needs an empty file, instead of one as long as the image."""

    @property
    def specific_info(self) -> type[ImageInfoSpecific] | None:
        """The variant that `do_specific_info` of the nodes returns, if any."""

    async def make(self, definition: Any, making: Making) -> BlockNode:
        """Return a new node that is not open yet, by the driver's own definition.

        Raises QmpError.
        """

    async def do_create(self, file: BlockNode, size: int, backing: BackingFile | None) -> None:
        """Write a new image of `size` bytes into a file; raise QmpError.

        The backing file's name and format go into the header as they are.
        """
