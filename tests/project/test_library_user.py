# SPDX-License-Identifier: MIT
"""`library_user.py` as in a project of its own: checked with `mypy --strict`, and run."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import faultline
import faultline.aio
from faultline.sync.commands import Commands
from live import make_image
from tree import TREE

PROGRAM = TREE / "tests" / "project" / "library_user.py"

SEEN_BY_OTHERS = {
    "Event": {"message"},
    "Machine": {"start", "wait_until"},
    "JobInfo": {*("current", "total", "speed", "io_status", "auto_finalize", "error", "status")}
    | {"cancelled"},
}
"""Members that the program has no use for."""

MADE_BY = {
    **{"Bitmap": {"add"}, "Fault": {"add"}, "Faults": {"add"}, "Responder": {"begin"}},
    **{"JobInfo": {"of"}, "Event": {"of"}},
}
"""Constructors that the library itself uses."""


def attributes() -> set[str]:
    tree = ast.parse(PROGRAM.read_text())
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    members = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return named | members | {str(keyword) for keyword in keywords}


@pytest.mark.parametrize("name", faultline.__all__)
def test_it_uses_every_name(name: str) -> None:
    used = attributes()
    value = getattr(faultline, name)
    members = {name}
    if inspect.isclass(value):
        base = Commands if issubclass(value, Commands) else object
        own = [cls for cls in value.__mro__ if cls.__module__.startswith("faultline.")]
        members |= {
            member
            for cls in own
            if cls is not Commands
            for member in vars(cls)
            if not member.startswith("_") and not hasattr(base, member)
        }
    assert members - used - SEEN_BY_OTHERS.get(name, set()) - MADE_BY.get(name, set()) == set()


def test_it_uses_every_name_of_asyncio() -> None:
    text = PROGRAM.read_text()
    assert [name for name in faultline.aio.__all__ if f"faultline.aio.{name}" not in text] == []


def mypy(program: Path, python: Path) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}", program],
        cwd=program.parent,
        env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


def test_types(tmp_path: Path) -> None:
    """An environment that has the package installed, and nothing else; a wrong type is seen."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    names = {"base": str(venv), "platbase": str(venv)}
    place = sysconfig.get_path("purelib", "venv", vars=names)
    shutil.copytree(TREE / "client" / "faultline", Path(place) / "faultline")
    program = tmp_path / "user.py"
    shutil.copy(PROGRAM, program)
    status, printed = mypy(program, venv / "bin" / "python")
    assert status == 0, printed
    text = PROGRAM.read_text()
    assert 'offset="64k"' in text
    program.write_text(
        text.replace('offset="64k"', "offset=6.5").replace("await b0.count()", "b0.count()")
    )
    status, printed = mypy(program, venv / "bin" / "python")
    assert status == 1 and "Found 2 errors" in printed, printed


def test_it_runs(tmp_path: Path) -> None:
    """What the types say is so."""
    make_image(tmp_path / "b.img", 1 << 20)
    argv: list[str | Path] = [sys.executable, "-W", "error", PROGRAM]
    result = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
