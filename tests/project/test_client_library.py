# SPDX-License-Identifier: MIT
"""The client library: what it imports, what is written from what, and that all of it is told."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest

import faultline
import faultline.aio
import generate_client
from tree import TREE

CLIENT = TREE / "client" / "faultline"

MODULES = sorted(path.relative_to(CLIENT) for path in CLIENT.rglob("*.py"))

THREADS = {"sync/channel.py", "spares.py", "events.py"}

OPTIONAL = {
    "pytest_plugin.py": {"pytest"},
    "pytest_rounds.py": {"pytest", "_pytest"},
    "scenario/tree.py": {"yaml"},
}
"""What else a module may import, because whoever loads the module has it."""

SYNCHRONOUS = ("__init__.py", "pytest_plugin.py", "pytest_machines.py")
"""Modules outside of both faces that import the synchronous one."""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((CLIENT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports(path: Path) -> None:
    """Users' environments may have any packages; nothing of the core is needed to import it."""
    names = imports(path)
    tops = {name.partition(".")[0] for name in names} - {"faultline"}
    foreign = tops - sys.stdlib_module_names - OPTIONAL.get(str(path), set())
    assert foreign == ({"blockcore"} if path.name == "__main__.py" else set())
    assert "asyncio" not in names or path.parts[0] == "aio"
    assert "threading" not in names or str(path) in THREADS
    faces = {name.split(".")[1] for name in names if name.startswith("faultline.")}
    if path.parts[0] in ("aio", "sync"):
        assert not faces & ({"aio", "sync"} - {path.parts[0]})
    elif len(path.parts) == 1 and path.name not in SYNCHRONOUS:
        assert not faces & {"aio", "sync"}


def test_written_modules_are_up_to_date() -> None:
    stale = {
        str(path.relative_to(TREE))
        for path, text in generate_client.written().items()
        if not path.exists() or path.read_text() != text
    }
    assert stale == set(), "scripts/generate_client.py writes them"


def test_both_faces_have_the_same_names() -> None:
    assert set(faultline.aio.__all__) <= set(faultline.__all__)
    for name in faultline.aio.__all__:
        ours, theirs = getattr(faultline, name), getattr(faultline.aio, name)
        assert public(ours) == public(theirs)


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_names_are_in_the_modules_that_type_checkers_see() -> None:
    tree = ast.parse((CLIENT / "__init__.py").read_text())
    (seen,) = (node for node in tree.body if isinstance(node, ast.If))
    modules = {
        alias.name: node.module
        for node in seen.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert modules == faultline._MODULES
    assert sorted(modules) == sorted(faultline.__all__)
    assert set(faultline.__all__) <= set(dir(faultline))
    with pytest.raises(AttributeError, match="no attribute 'Machin'"):
        getattr(faultline, "Machin")  # noqa: B009


def test_every_public_name_is_told() -> None:
    untold = [
        f"{name}.{member}"
        for name in faultline.__all__
        if inspect.isclass(cls := getattr(faultline, name))
        for member, value in vars(cls).items()
        if not member.startswith("_") and (callable(value) or isinstance(value, property))
        if not inspect.getdoc(value)
    ]
    untold += [name for name in faultline.__all__ if not inspect.getdoc(getattr(faultline, name))]
    assert untold == []


def test_every_public_name_has_an_example() -> None:
    """`tests/live/test_client_examples.py` runs them."""
    without = [
        name for name in faultline.__all__ if ">>>" not in str(getattr(faultline, name).__doc__)
    ]
    assert without == []
