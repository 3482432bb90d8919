# SPDX-License-Identifier: MIT
"""QAPI's types for information that only some drivers give; their variants are with the drivers."""

from __future__ import annotations

from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfoSpecific:
    """The base of QAPI's union; each variant adds `data`."""

    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStatsSpecificFile:
    """Numbers of discards that reached a file: done, failed, and bytes of those done."""

    driver: str
    discard_nb_ok: int
    discard_nb_failed: int
    discard_bytes_ok: int
