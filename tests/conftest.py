"""Order and protection of the whole run; a hang is ended by setup.cfg's faulthandler_timeout."""

from __future__ import annotations

import signal

import pytest

# A shell starts what it runs in the background with SIGINT ignored, which children inherit;
# tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow come last, so that a plain mistake is known in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
