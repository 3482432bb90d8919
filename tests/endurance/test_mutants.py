# SPDX-License-Identifier: MIT
"""A few damaged images of each kind; thousands of them: `scripts/endure mutants`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mutants import SHAPES, mutate, originals, run

SEEDS = range(8)


@pytest.fixture(scope="module", name="world")
def _world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    directory = tmp_path_factory.mktemp("mutants")
    return directory, originals(directory)


@pytest.mark.parametrize("shape", SHAPES)
def test_damaged(world: tuple[Path, dict[str, bytes]], shape: str) -> None:
    """Read as QEMU reads them, used without harm."""
    directory, images = world
    outcomes = Counter(run(directory, images, shape, seed) for seed in SEEDS)
    assert outcomes.total() == len(SEEDS)


def test_undamaged(world: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: what this driver has can be opened, read and used."""
    directory, images = world
    monkeypatch.setattr(f"{mutate.__module__}.mutate", lambda data, random: None)
    lacks = {"subclusters", "data file", "snapshots", "refcounts of a byte", "zstd", "bitmaps"}
    for shape in SHAPES.keys() - lacks:
        assert run(directory, images, shape, 0) == "all work", shape
    assert run(directory, images, "bitmaps", 0) == "refused"
    assert run(directory, images, "snapshots", 0) == "not read, refused"
