"""Recordings of real QEMU with a guest that does I/O, played against live machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from replay import GOLDEN, OtherOrder, Recording, play

RECORDINGS = sorted(
    path
    for pattern in ("guest-*.jsonl", "ide-*.jsonl", "misc-*.jsonl")
    for path in GOLDEN.glob(pattern)
)

NOT_YET = {
    "guest-copy-on-read-enospc": "a qcow2 image on a drive with copy-on-read",
}
"""Recordings that need what this machine does not have, and what that is."""

ANONYMOUS = "cont makes the io-status of every drive ok; QEMU forgets those without a name"
COUNTED = "rerror=enospc counts as a policy that stops; QEMU forgets it, and aborts (see below)"
DRAINED = "virtio-blk with ioeventfd is drained just before STOP; here, as without, just after"

DIFFERENCES: dict[str, dict[str, tuple[Any, Any, str]]] = {
    "guest-blockdev-anonymous-iostatus": {
        "7.return.0.io-status": ("nospace", "ok", ANONYMOUS),
        "9.return.0.io-status": ("nospace", "failed", ANONYMOUS),
        "12.return.0.io-status": ("nospace", "ok", ANONYMOUS),
    },
    "guest-read-rerror-enospc": {"7.return.0.io-status": ("nospace", "ok", ANONYMOUS)},
    "guest-read-rerror-enospc-werror-report": {"2.return.0.io-status": (None, "ok", COUNTED)},
}
"""By recording and path: what QEMU said, what is said here, and why."""

SWAPPED_EVENTS = {"guest-throttled-at-stop-ioeventfd": (0, 1, DRAINED)}
"""Two events that come the other way round, and why."""

EIO, NO_SPACE = "Input/output error", "No space left on device"

OVERTAKEN: dict[str, dict[str, tuple[Any, Any]]] = {
    "guest-first-error-latched": {
        "event.0.data.nospace": (False, True),
        "event.0.data.reason": (EIO, NO_SPACE),
        "event.1.data.nospace": (True, False),
        "event.1.data.reason": (NO_SPACE, EIO),
        "4.return.0.io-status": ("failed", "nospace"),
    },
    "guest-read-stop-write-report": {
        "event.0.data.operation": ("read", "write"),
        "event.0.data.action": ("stop", "report"),
        "event.1.data.operation": ("write", "read"),
        "event.1.data.action": ("report", "stop"),
    },
}
"""What is different if the second of two requests that are sent together fails first.

A virtqueue is worked off in order; requests of an NBD connection are carried
out by as many threads, any of which may be first.
"""

BATCHES = ("guest-write-3inflight-stop", *OVERTAKEN)
"""Recordings in which several requests that are sent together fail, and then STOP comes.

The machine gives such requests some milliseconds to arrive before it stops.  On
a busy host one of them may take longer; then it waits for `cont`, which is not
what was recorded, and is played again.
"""

PLAYS = 10

HELD: dict[str, Any] = {
    "device": "",
    "node-name": "disk",
    "operation": "read",
    "action": "stop",
    "nospace": True,
    "reason": NO_SPACE,
}

CONTINUATIONS: dict[str, list[dict[str, Any]]] = {
    "guest-read-rerror-enospc-werror-report": [
        {"kind": "event", "msg": {"timestamp": {}, "event": "BLOCK_IO_ERROR", "data": HELD}},
        {"kind": "event", "msg": {"timestamp": {}, "event": "STOP"}},
        {"kind": "guest", "action": "poll", "still_pending": [0]},
        {"kind": "command", "msg": {"execute": "cont", "id": 3}},
        {"kind": "event", "msg": {"timestamp": {}, "event": "RESUME"}},
        {"kind": "response", "msg": {"return": {}, "id": 3}},
        {"kind": "guest", "action": "completion", "tag": 0, "status": "OK", "data": "0x11 x512"},
    ]
}
"""How it goes on where QEMU has aborted."""


def swap_events(recording: Recording, first: int, second: int) -> Recording:
    entries = list(recording.entries)
    places = [n for n, entry in enumerate(entries) if entry["kind"] == "event"]
    one, other = places[first], places[second]
    entries[one], entries[other] = entries[other], entries[one]
    return replace(recording, entries=tuple(entries))


@pytest.mark.parametrize("path", RECORDINGS, ids=[path.stem for path in RECORDINGS])
def test_recorded(path: Path, tmp_path: Path) -> None:
    if path.stem in NOT_YET:
        pytest.skip(f"needs {NOT_YET[path.stem]}")
    recording = Recording.load(path)
    if path.stem in SWAPPED_EVENTS:
        recording = swap_events(recording, *SWAPPED_EVENTS[path.stem][:2])
    more = CONTINUATIONS.get(path.stem, [])
    recording = replace(recording, entries=recording.entries + tuple(more))
    known = {key: pair[:2] for key, pair in DIFFERENCES.get(path.stem, {}).items()}
    for attempt in range(PLAYS):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        try:
            found = play(recording, directory)
            break
        except OtherOrder:
            if path.stem not in BATCHES or attempt == PLAYS - 1:
                raise
    assert found in (known, OVERTAKEN.get(path.stem, known))


def test_tables_are_about_recordings() -> None:
    tables = (NOT_YET, DIFFERENCES, SWAPPED_EVENTS, OVERTAKEN, CONTINUATIONS)
    assert {name for table in tables for name in table} <= {path.stem for path in RECORDINGS}
