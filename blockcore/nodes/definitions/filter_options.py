# SPDX-License-Identifier: MIT
"""What the filters of jobs are made from; nobody can ask for them but by starting a job."""

from __future__ import annotations

from dataclasses import dataclass

from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevRef


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsTop(BlockdevOptions):
    """Of mirror_top and commit_top."""

    backing: BlockdevRef


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsCor(BlockdevOptions):
    """Of copy-on-read; `bottom` is the lowest node that is copied from."""

    file: BlockdevRef
    bottom: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsCbw(BlockdevOptions):
    """Of copy-before-write; `target` is where the old data goes."""

    file: BlockdevRef
    target: BlockdevRef
