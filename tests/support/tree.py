# SPDX-License-Identifier: MIT
"""Where things stand in this tree."""

from __future__ import annotations

from pathlib import Path

TREE = Path(__file__).resolve().parents[2]

RECORDINGS = {release: TREE / "tests" / "golden" / release for release in ("7.2", "10.0")}
"""What QEMU has said, by its release as the key `qemu` names it."""
