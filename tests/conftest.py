# SPDX-License-Identifier: MIT
"""Order and protection of the whole run; a hang is ended by setup.cfg's faulthandler_timeout.

And what several modules share: two machines for cases beside QEMU, and a client that clears up.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from beside_qemu import Shared
from both_ways import WAYS, force
from live import Live, Qmp, directory_of_all

# A shell starts what it runs in the background with SIGINT ignored, which children inherit;
# tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow come last, so that a plain mistake is known in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_collection_finish() -> None:
    """Keep what is there now, some 220,000 objects, out of the garbage collector's sight.

    It goes through all of them each time it goes through everything, and does that the
    more rarely the more there are: simulated machines, which are cycles, pile up meanwhile.
    """
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a module with the mark `both_ways` run with the shortcut forced off, and on."""
    marks = list(metafunc.definition.iter_markers())
    if any(m.name == "both_ways" for m in marks) and all(m.name != "one_way" for m in marks):
        metafunc.parametrize("_way", WAYS, indirect=True)


@pytest.fixture(autouse=True, name="_way")
def _forced_way(request: pytest.FixtureRequest) -> Iterator[None]:
    if not hasattr(request, "param"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        force(patch, request.param)
        yield


@pytest.fixture
def common_path() -> Iterator[Path]:
    """Like tmp_path, but other users reach it, too."""
    with directory_of_all() as directory:
        yield directory


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """QEMU and this tree's machine, for all cases of a module."""
    shared = Shared(lambda: tmp_path_factory.mktemp("machines"))
    yield shared
    shared.close()


@pytest.fixture
def qmp(live: Live) -> Iterator[Qmp]:
    """A control client of the module's machine, its fixture `live`; rules end with the test."""
    with live.qmp() as control:
        yield control
        control("x-fault-clear")
