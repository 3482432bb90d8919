# SPDX-License-Identifier: MIT
"""docs/testing.md: its tests pass, its script runs, and what it says of arguments is so."""

from __future__ import annotations

import re
import subprocess
import sys

from faultline.every_io import LIMIT
from faultline.pytest_machines import OF_EACH_DRIVE
from runs import RUN_S, place
from tree import TREE

PAGE = (TREE / "docs" / "testing.md").read_text()

MODULES = dict(re.findall(r"^```python (\S+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_every_block_is_a_module() -> None:
    assert len(MODULES) == PAGE.count("```python") == 8


def test_its_tests_pass() -> None:
    with place() as here:
        for name, text in MODULES.items():
            (here.tests / name).write_text(text)
        printed = here.run("", "-q", "-n", "2", *(name for name in MODULES if name != "script.py"))
        assert "9 passed" in printed.splitlines()[-1], printed
        here.await_the_end_of_all()
        assert not here.left()


def test_its_script_runs() -> None:
    with place() as here:
        (here.tests / "script.py").write_text(MODULES["script.py"])
        done = subprocess.run(
            [sys.executable, "script.py"],
            cwd=here.tests,
            env=here.environ(),
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=True,
        )
        assert done.stdout.startswith("running nbd+unix:///vda?socket=")


def test_what_it_says_of_arguments() -> None:
    paragraph = PAGE.split("\n`faultline_machine` is")[1].split("\n\n")[0]
    assert set(re.findall("`([a-z_]+)`", paragraph)) > set(OF_EACH_DRIVE)
    assert f"default {LIMIT} |" in PAGE
