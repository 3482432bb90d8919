# SPDX-License-Identifier: MIT
"""What the tests of the manager share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import Guests
from machines import IMAGE_SIZE
from manager import Manager

from faultline import Machine
from faultline.pytest_plugin import Factory

pytest_plugins = "machine_times"


class Volumes:
    """The manager's storage: volumes that the machine plays, extended with a delay."""

    def __init__(self, machine: Machine, latency_ms: int) -> None:
        self.machine = machine
        self.latency_ms = latency_ms

    def size(self, volume: str) -> int:
        return int(self.machine.volume(volume).info()["physical-size"])

    def extend(self, volume: str, add: int) -> None:
        self.machine.volume(volume).extend(add=add, latency_ms=self.latency_ms)


@pytest.fixture(autouse=True)
def _in_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def guests() -> Iterator[Guests]:
    guests = Guests()
    yield guests
    guests.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Make a raw image of random bytes."""
    path = tmp_path / "image"
    path.write_bytes(os.urandom(IMAGE_SIZE))
    return path


@pytest.fixture
def manage(faultline_factory: Factory) -> Iterator[Callable[..., Manager]]:
    """Let a manager look after a machine until the end of the test."""
    managers: list[Manager] = []

    def begin(machine: Machine, *, latency_ms: int = 0, **members: Any) -> Manager:
        storage = Volumes(machine, latency_ms)
        managers.append(Manager(machine.control, storage, **members).__enter__())
        return managers[-1]

    yield begin
    for manager in reversed(managers):
        manager.__exit__(None, None, None)
