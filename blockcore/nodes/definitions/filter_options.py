# SPDX-License-Identifier: MIT
"""What the filters of jobs are made from; nobody can ask for them but by starting a job."""

from __future__ import annotations

from dataclasses import dataclass

from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevRef, Resolve, resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsTop(BlockdevOptions):
    """Of mirror_top and commit_top."""

    backing: BlockdevRef

    def exact_filename(self, resolve: Resolve) -> str | None:
        return resolved(self.backing, resolve).exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        if self.node_name is None:
            return resolved(self.backing, resolve).full_options(resolve)
        return BlockdevOptions.full_options(self, resolve)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsCor(BlockdevOptions):
    """Of copy-on-read; `bottom` is the lowest node that is copied from."""

    weak_options = frozenset(("bottom",))
    file: BlockdevRef
    bottom: str | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        """Only an implicit one has no name of the user's, and copies everything of its child."""
        named = self.node_name is not None
        return None if named else resolved(self.file, resolve).exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        if self.node_name is None:
            return resolved(self.file, resolve).full_options(resolve)
        return BlockdevOptions.full_options(self, resolve)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsCbw(BlockdevOptions):
    """Of copy-before-write; `target` is where the old data goes."""

    file: BlockdevRef
    target: BlockdevRef

    def exact_filename(self, resolve: Resolve) -> str | None:
        return resolved(self.file, resolve).exact_filename(resolve)
