# SPDX-License-Identifier: MIT
"""The scenarios that are shipped, by their names."""

from __future__ import annotations

from pathlib import Path

from faultline.names import right_names
from faultline.scenario.values import ScenarioError

FLOWS = Path(__file__).parent / "flows"
"""The folder that has them."""

SUFFIX = ".yaml"


def names() -> list[str]:
    """Return the names of all.

    >>> "late-extension" in names()
    True
    """
    return sorted(path.stem for path in FLOWS.glob(f"*{SUFFIX}"))


def find(typed: str) -> Path:
    """Return the path of a file, or of a scenario that is shipped, by its name.

    What is no name of one that is shipped is the path of a file, which may not exist; but
    a name without ``/`` and without a suffix raises ScenarioError if there is none.
    """
    path = Path(typed)
    if path.exists() or "/" in typed or path.suffix:
        return path
    if typed not in names():
        raise ScenarioError(f"there is no scenario '{typed}'{right_names(typed, names())}")
    return FLOWS / f"{typed}{SUFFIX}"
