# SPDX-License-Identifier: MIT
"""Definitions of the filters that jobs insert; users cannot define such nodes themselves."""

from __future__ import annotations

from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevRef, Resolve, resolved
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsTop(BlockdevOptions):
    """Options of mirror_top and commit_top."""

    backing: BlockdevRef

    def exact_filename(self, resolve: Resolve) -> str | None:
        return resolved(self.backing, resolve).exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        if self.node_name is None:
            return resolved(self.backing, resolve).full_options(resolve)
        return BlockdevOptions.full_options(self, resolve)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsCor(BlockdevOptions):
    """Options of copy-on-read; `bottom` is the lowest node from which data is copied."""

    weak_options = frozenset(("bottom",))
    file: BlockdevRef
    bottom: str | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        """Return the child's file name for a filter without a node name, otherwise None.

        A filter without a name is implicit: it shows its child's data and file name.
        """
        named = self.node_name is not None
        return None if named else resolved(self.file, resolve).exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        if self.node_name is None:
            return resolved(self.file, resolve).full_options(resolve)
        return BlockdevOptions.full_options(self, resolve)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsCbw(BlockdevOptions):
    """Options of copy-before-write; old data goes to `target`."""

    file: BlockdevRef
    target: BlockdevRef

    def exact_filename(self, resolve: Resolve) -> str | None:
        return resolved(self.file, resolve).exact_filename(resolve)
