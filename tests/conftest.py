# SPDX-License-Identifier: MIT
"""Order and protection of the whole run; a hang is ended by setup.cfg's faulthandler_timeout.

And what several modules share: two machines for cases beside QEMU.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from beside_qemu import Shared

# A shell starts what it runs in the background with SIGINT ignored, which children inherit;
# tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow come last, so that a plain mistake is known in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """QEMU and this tree's machine, for all cases of a module."""
    shared = Shared(lambda: tmp_path_factory.mktemp("machines"))
    yield shared
    shared.close()
