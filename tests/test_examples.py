"""scripts/examples, run as by somebody who has copied them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from live import TIMEOUT_S, TREE, Live

EXAMPLES = TREE / "scripts" / "examples"


def run(directory: Path, *argv: str, stdin: Path | None = None, **environ: str) -> str:
    """Run a program with .venv/bin on PATH, as the README says; what it prints."""
    path = f"{TREE}/.venv/bin:{os.environ['PATH']}"
    with open(stdin or os.devnull) as file:
        result = subprocess.run(
            argv,
            cwd=directory,
            env=os.environ | environ | {"PATH": path},
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_nbdsh_script(tmp_path: Path) -> None:
    with Live(tmp_path) as machine:
        printed = run(
            tmp_path,
            *("nbdsh", "-u", machine.uri("vda"), "-c", "-"),
            stdin=EXAMPLES / "nospace.nbdsh",
            FAULTLINE_CONTROL=machine.control,
        )
    assert printed.splitlines() == [
        "failed: No space left on device",
        "status: io-error, nospace",
        "the writer waits",
        "status: running, ok",
        "content: right",
    ]


def test_pytest_file(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "test_nospace.py", tmp_path)
    printed = run(tmp_path, "pytest", "-q", "-W", "error", f"--basetemp={tmp_path}/t")
    assert printed.splitlines()[-1].startswith("1 passed")


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.glob("*.*"))])
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
