"""Recordings of real QEMU with block jobs, played against live machines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from replay import GOLDEN, Recording
from replay_jobs import play_with_jobs

KINDS = ("stream", "commit", "mirror", "backup", "drive", "job", "transaction")

RECORDINGS = sorted(path for kind in KINDS for path in GOLDEN.glob(f"{kind}-*.jsonl"))

UNUSED = re.compile(r"\d+\.return\.1\.(io-status|qdev|removable)")
"""A second drive that no device is on: here every drive is one that a guest can see."""

PACED = {
    "job-vm-stop-cont": r"event\.7\.data\.offset|note\.after exit: cmp .*",
    "job-verb-errors": r"(41\.return\.0|event\.7\.data)\.offset",
}
"""How far a slow job was: the recorder, or its machine, was slower than the player is."""


@pytest.mark.parametrize("path", RECORDINGS, ids=[path.stem for path in RECORDINGS])
def test_recorded(path: Path, tmp_path: Path) -> None:
    recording = Recording.load(path)
    found = play_with_jobs(recording, tmp_path)
    assert {key: pair for key, pair in found.items() if not expected(path.stem, key)} == {}


def expected(name: str, key: str) -> bool:
    return bool(UNUSED.fullmatch(key) or re.fullmatch(PACED.get(name, "$."), key))


def test_all_kinds_are_recorded() -> None:
    names: list[Any] = [path.stem for path in RECORDINGS]
    assert all(any(name.startswith(kind) for name in names) for kind in KINDS)
    assert PACED.keys() <= set(names)
