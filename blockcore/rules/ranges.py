# SPDX-License-Identifier: MIT
"""Rounding of offsets and lengths to whole units (QEMU_ALIGN_DOWN, QEMU_ALIGN_UP)."""

from __future__ import annotations


def align_down(value: int, unit: int) -> int:
    """Return the largest multiple of `unit` that is not above `value`."""
    return value - value % unit


def align_up(value: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not below `value`."""
    return value + -value % unit
