# SPDX-License-Identifier: MIT
"""docs/tutorial.md, typed with what this tree has installed; clean systems are for on-release."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tree import TREE
from tutorial import script

HANG_S = 250


def run(home: Path, text: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    path = f"{TREE}/.venv/bin:{os.environ['PATH']}"
    return subprocess.run(
        ["bash"],
        input=text,
        cwd=home,
        env=environ | {"HOME": str(home), "PATH": path, "TMPDIR": str(home / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.mark.slow
def test_all_of_it(home: Path) -> None:
    result = run(home, script(install=False))
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("nbdinfo --size", "nbdinfo --is read-only"), ("1073741824", "1073741825")],
)
def test_a_wrong_line_is_seen(home: Path, right: str, wrong: str) -> None:
    text = script(install=False)
    text = text[: text.index("cat >test_start.py")] + "echo done\n"
    assert text.count(right) == 1
    result = run(home, text.replace(right, wrong))
    assert result.returncode != 0, result.stdout
