# SPDX-License-Identifier: MIT
"""What only some drivers know of their images, as QAPI has it; variants are beside the drivers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecific:
    """QAPI's union, of which a driver's variant has `data` besides."""

    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStatsSpecificFile:
    """Discards that reached a file: how many, and how many bytes."""

    driver: str
    discard_nb_ok: int
    discard_nb_failed: int
    discard_bytes_ok: int
