# SPDX-License-Identifier: MIT
"""Recordings of real QEMU with block jobs, played against live machines."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replay import Recording, floods, recording_id, recordings, without_surplus
from replay_jobs import play_with_jobs

KINDS = ("stream", "commit", "mirror", "backup", "drive", "job", "jobs", "transaction")

RECORDINGS = recordings(*KINDS)

UNUSED = re.compile(r"\d+\.return\.1\.(io-status|qdev|removable)")
"""A second drive that no device is on: here every drive is one that a guest can see."""

PACED = {
    "job-vm-stop-cont": r"event\.7\.data\.offset|note\.after exit: cmp .*",
    "job-verb-errors": r"(41\.return\.0|event\.7\.data)\.offset",
    "jobs-quit": r"event\.(17|27)\.data\.offset",
    "mirror-filter-and-replaces": r"10\.return\.3\.dirty-bitmaps\.0\.count",
    "stream-parallel": r"7\.return\.6\.image\.virtual-size",
}
"""How far a slow job was: the recorder, or its machine, was slower than the player is."""


LATE = {"backup-incremental-error-then-ok": 11}
"""A command that QEMU carried out after the end of a job that had been started right before."""

UNDISTURBED = {"10.0-jobs-quit", "10.0-stream-parallel"}
"""QEMU 10.0 drains all that there is for each change of the graph, up to six times for one command
(bdrv_graph_wrlock), so that a job that sleeps pauses and goes on, wherever it works.  Here a change
drains what it concerns, so that nobody waits for a disk that has nothing to do with it."""

NAMELESS = "Device '(null)' is in use"
"""QEMU prints the missing name of a device; here it is the node's."""


@pytest.mark.parametrize("path", RECORDINGS, ids=recording_id)
def test_recorded(path: Path, tmp_path: Path) -> None:
    recording = Recording.load(path)
    if path.stem in LATE:
        recording = later(recording, LATE[path.stem])
    rests = recording_id(path) not in UNDISTURBED
    found = play_with_jobs(recording, tmp_path, rests=rests)
    assert {key: pair for key, pair in found.items() if not wanted(path.stem, key, pair)} == {}


def wanted(name: str, key: str, pair: tuple[Any, Any]) -> bool:
    """Whether a difference is one of those above."""
    paced = re.fullmatch(PACED.get(name, "$."), key)
    return bool(UNUSED.fullmatch(key) or paced or pair[0] == NAMELESS)


def later(recording: Recording, command: int) -> Recording:
    """The command is sent right before its reply comes, after the events in between."""
    entries = list(recording.entries)
    sent = next(e for e in entries if e["kind"] == "command" and e["msg"]["id"] == command)
    reply = next(e for e in entries if e["kind"] == "response" and e["msg"].get("id") == command)
    entries.remove(sent)
    entries.insert(entries.index(reply), sent)
    return replace(recording, entries=tuple(entries))


def test_of_a_flood_only_the_beginning_is_compared() -> None:
    found = [floods(Recording.load(path)) for path in RECORDINGS if "flood" in path.stem]
    assert found == [{"BLOCK_JOB_ERROR": 10}] * 2
    error, other = {"event": "BLOCK_JOB_ERROR"}, {"event": "JOB_STATUS_CHANGE"}
    ours = [other, *[error] * 9, other, *[error] * 4, other]
    assert without_surplus(ours, found[0]) == [other, *[error] * 9, other, error, other]
    assert without_surplus(ours, {}) == ours


def test_all_kinds_are_recorded() -> None:
    assert {recording_id(path) for path in RECORDINGS} > UNDISTURBED
    names: list[Any] = [path.stem for path in RECORDINGS]
    assert all(any(name.startswith(kind) for name in names) for kind in KINDS)
    assert PACED.keys() | LATE.keys() <= set(names)
