# SPDX-License-Identifier: MIT
"""The process of a machine, asked by several threads while one of them ends it."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import faultline.process
from faultline.errors import StartFailed
from faultline.process import Process
from faultline.sync.waiting import readable

LIMIT_S = 60.0


def ended_with(script: str, monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process that has ended, and whose status nobody has asked for."""
    monkeypatch.setattr(faultline.process, "serve_command", lambda: ["sh", "-c", script])
    process = Process(())
    assert readable(process.pidfd, LIMIT_S)
    return process


def test_the_status_while_another_thread_collects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so with the lock of Popen, for which `Popen.poll` does not wait."""
    process = ended_with("exit 3", monkeypatch)
    popen: Any = process._popen
    told: list[int | None] = []
    asking = threading.Thread(target=lambda: told.append(process.status))
    with popen._waitpid_lock:
        asking.start()
        asking.join(0.1)
        assert told == []
    asking.join(LIMIT_S)
    assert told == [3]
    process.closed()


def test_what_has_ended_still_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    process = ended_with("echo words >&2; exit 3", monkeypatch)
    process.closed()
    assert (process.status, process.log_text()) == (3, "words\n")
    assert readable(process.pidfd, 0)


def test_its_descriptors_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    process = ended_with("exit 3", monkeypatch)
    process.closed()
    del process
    assert os.listdir("/proc/self/fd") == before


def test_no_command_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faultline.process, "serve_command", lambda: ["/none"])
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartFailed, match="/none: No such file"):
        Process(())
    assert os.listdir("/proc/self/fd") == before
