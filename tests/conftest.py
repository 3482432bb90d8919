"""Order and protection of the whole run; a hang is ended by setup.cfg's faulthandler_timeout."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow come last, so that a plain mistake is known in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
