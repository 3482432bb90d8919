# SPDX-License-Identifier: MIT
"""What a driver makes a node from, and what makes a class a driver that can be asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from blockcore.nodes.definitions.options import BlockdevRef
from blockcore.nodes.driver import BackingFile, NodeHost, NodeOptions
from blockcore.nodes.node import BlockNode
from blockcore.nodes.specific import ImageInfoSpecific


@dataclass(frozen=True, slots=True)
class Making:
    """Beside its definition: the options all nodes have, and where to get the rest.

    `path` makes a file name absolute; `child` opens a child, or finds it; it
    raises QmpError.
    """

    options: NodeOptions
    host: NodeHost
    path: Callable[[str], str]
    child: Callable[[BlockdevRef], Awaitable[BlockNode]]


class Driver(Protocol):
    """A class of nodes that a user can ask for, as the graph sees it."""

    @property
    def driver(self) -> str:
        """QAPI's name of it (BlockdevDriver)."""

    @property
    def supports_backing(self) -> bool:
        """Whether its images can have a backing file."""

    @property
    def creates_images(self) -> bool:
        """Whether new images can be made of it, or in what its nodes are opened on."""

    @property
    def creates_in_empty(self) -> bool:
        """Whether `do_create` gets an empty file, not one that is as long as the image."""

    @property
    def specific_info(self) -> type[ImageInfoSpecific] | None:
        """What its nodes give as `do_specific_info`, if anything."""

    async def make(self, definition: Any, making: Making) -> BlockNode:
        """Return a node that is not open yet, of the driver's own definition; QmpError."""

    async def do_create(self, file: BlockNode, size: int, backing: BackingFile | None) -> None:
        """Write a new image of `size` bytes into a file; QmpError.

        What is said of the backing file goes into it as it is.
        """
