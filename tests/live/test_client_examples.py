# SPDX-License-Identifier: MIT
"""The examples in the docstrings of the client library, run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import faultline
from tree import TREE

CLIENT = TREE / "client" / "faultline"

MODULES = sorted(
    ".".join(path.relative_to(CLIENT.parent).with_suffix("").parts)
    for path in CLIENT.rglob("*.py")
    if path.parent.name != "aio" and ">>>" in path.read_text()
)
"""Those of `aio` are the same text with `await`."""


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {public: getattr(faultline, public) for public in faultline.__all__}
    result = doctest.testmod(module, extraglobs=names)
    assert result.attempted and not result.failed
