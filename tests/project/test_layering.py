# SPDX-License-Identifier: MIT
"""Who may import what, and how large a thing may be: the architecture, checked."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

from house import (
    PLUGIN,
    arrows,
    called,
    circle,
    floors,
    imported,
    modules,
    own_imports,
    picture,
    place_of,
    room,
    room_at_top,
    syntax,
)
from tree import TREE

FLOORS = (
    ("bql", "qapi"),
    ("faults", "qmp"),
    ("rules",),
    ("nodes",),
    ("drive", "job"),
    ("machine",),
    ("config", "jobs"),
    ("commands",),
    ("process",),
    ("cli", "plugin"),
)
"""The rooms, from the bottom to the top; modules import from their room and from below."""

DECIDES = (
    *("rules", "faults", "drive", "job", "jobs", "machine", "config", "qmp.session"),
    *("bql.effects", "bql.lock", "qapi.names", "qapi.events", "qapi.qemu"),
    *("nodes.node", "nodes.driver", "nodes.filter", "nodes.vertex", "nodes.permissions"),
    *("nodes.op_blockers", "nodes.tracking", "nodes.copy_on_read", "nodes.graph.links"),
)
"""Decide, and never perform, wait, log or look at a clock."""

CORE_MAY_IMPORT = frozenset(
    {
        *("__future__", "bisect", "bitarray", "collections", "contextlib", "copy"),
        *("dataclasses", "enum", "errno", "functools", "itertools", "math", "os"),
        "typing",
    }
)
"""Of `os` only `strerror`."""

ONLY = {
    "asyncio": {"process.loop", "process.control", "cli"},
    "importlib": {"bql.later", "cli", "plugin", "process.recording_header"},
    "ctypes": {"plugin", "nodes.drivers.fallocate"},
    "faultline": {"cli"},
    "nbd": {"nodes.drivers.nbd", "nodes.drivers.nbd_server"},
    "nbdkit": {"plugin"},
    "random": {"process.server"},
    "signal": {"process.signals"},
    "socket": {
        *("process.socket_file", "process.control", "process.leftovers", "process.loop"),
        *("process.exports", "process.nbd_socket", "process.server", "nodes.drivers.nbd", "cli"),
    },
    "structlog": {"process", "cli"},
    "subprocess": {"cli"},
    "threading": {"bql.big_lock", "bql.routine", "process", "plugin"},
    "time": {
        *("bql.clock", "nodes.drivers.nbd"),
        *("process.control", "process.ending", "process.log"),
    },
}
"""What these do is for these modules only (or for all modules of a package)."""

NOT_REQUIRED = frozenset(
    {*sys.stdlib_module_names, "blockcore", "faultline", *PLUGIN, "nbd", "nbdkit", "zstandard"}
)
"""What is imported without a requirement: ours, nbdkit's own, and what only some nodes need."""

FORBIDDEN_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}

MODULE_LINES_MAX = 400

FUNCTION_LINES_MAX = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def within(module: str, names: set[str] | tuple[str, ...]) -> bool:
    """Whether a module is one of `names`, or in a room that is."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def floor(module: str) -> int:
    (found,) = (at for at, names in enumerate(FLOORS) if room_at_top(module) in names)
    return found


def functions(module: str) -> Iterator[Function]:
    for node in ast.walk(syntax(module)):
        if isinstance(node, Function):
            yield node


def test_there_are_modules() -> None:
    named = set(DECIDES).union(*ONLY.values())
    for name in named:
        assert any(within(module, {name}) for module in modules()), f"there is no {name}"


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    if module == "blockcore":
        assert not own_imports(module)
        return
    assert own_imports(module) <= set(modules())
    others = {name for name in own_imports(module) if room_at_top(name) != room_at_top(module)}
    above = {name for name in others if floor(name) >= floor(module)}
    assert not above, f"{module} imports {above}"


@pytest.mark.parametrize("room_of", [room_at_top, room, str], ids=["top", "inside", "modules"])
def test_no_circles(room_of: Callable[[str], str]) -> None:
    assert not circle(arrows(room_of))


def test_the_plan_fits_on_a_page() -> None:
    top = arrows(room_at_top)
    assert {name for names in FLOORS for name in names} == set(top)
    assert len(top) <= 16
    assert sum(map(len, top.values())) <= 65
    assert len(floors(top)) <= 10


def test_the_picture_is_drawn_as_it_is() -> None:
    drawn = (TREE / "docs/internals.md").read_text().split("```mermaid\n")[1].split("\n```")[0]
    assert drawn == picture(arrows(room_at_top)), "scripts/rooms prints it anew"


@pytest.mark.parametrize("name", sorted(set(arrows(room)) - {"plugin"}))
def test_rooms_tell_what_is_in_them(name: str) -> None:
    """A folder's docstring names each of its modules, and each folder inside."""
    docstring = ast.get_docstring(syntax(name)) or ""
    words = re.findall(r"`([a-z0-9_.]+)", docstring)
    inside = {module for module in modules() if module.rpartition(".")[0] == name}
    told = {word.partition(".")[0] for word in words}
    assert {module.rpartition(".")[2] for module in inside} <= told


@pytest.mark.parametrize("module", modules())
def test_restricted_imports(module: str) -> None:
    for name, _ in imported(module):
        allowed = ONLY.get(name.partition(".")[0])
        assert allowed is None or within(module, allowed), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in modules() if name != "qapi.record"])
def test_dataclasses_are_made_quickly(module: str) -> None:
    """By `qapi.record`; a standard one that is frozen cannot be derived from one of those."""
    assert ("dataclasses", "dataclass") not in imported(module)


def test_links_change_in_one_place() -> None:
    """Everything else goes through `relink`, which checks permissions and puts back."""
    links = "nodes.graph.links"
    users = {module for module in modules() if links in own_imports(module)}
    assert users <= {f"nodes.graph.{name}" for name in ("conflicts", "graph", "relink")}


def test_requirements_are_what_is_imported() -> None:
    """What is imported inside nbdkit, and what besides it by the command."""

    def required(path: str) -> set[str]:
        lines = (TREE / path).read_text().splitlines()
        return {line.split()[0].partition(".")[0] for line in lines if not line.startswith("#")}

    inside: set[str] = set()
    command: set[str] = set()
    for module in modules():
        found = {name.partition(".")[0] for name, _ in imported(module)}
        (command if within(module, {"cli"}) else inside).update(found - NOT_REQUIRED)
    assert inside == required("plugin/requirements.txt")
    # The command stands on the client library, which reads scenario files with PyYAML
    # (`test_client_library` knows of each import there).
    assert (command - inside) | {"pyyaml"} == required("blockcore/cli/requirements.txt")


@pytest.mark.parametrize("module", [name for name in modules() if within(name, DECIDES)])
def test_the_core_only_decides(module: str) -> None:
    for name, taken in imported(module):
        top = name.partition(".")[0]
        assert top in CORE_MAY_IMPORT or top == "blockcore", f"{module} imports {name}"
        assert top != "os" or not taken, f"{module} takes {taken} from os"
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "os" or node.attr == "strerror", f"{module}: os.{node.attr}"


@pytest.mark.parametrize("module", modules())
def test_imports_stand_at_the_top(module: str) -> None:
    """None in a function, none that only a type checker would see."""
    for function in functions(module):
        inner = [
            node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not inner, f"{module}.{function.name} imports"
    names = {node.id for node in ast.walk(syntax(module)) if isinstance(node, ast.Name)}
    assert not names & {"TYPE_CHECKING", "__import__"}
    assert ("typing", "TYPE_CHECKING") not in imported(module)


def test_what_is_imported_later_is_there() -> None:
    """Each name is written out, in a module that has it; nothing else imports by a name."""
    found = {
        place_of(node)
        for module in modules()
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.Call) and called(node) == "later"
    }
    assert len(found) > 20
    for module, name in found:
        assert hasattr(import_module(module), name), f"{module}:{name}"


@pytest.mark.parametrize("module", modules())
def test_size_of_modules(module: str) -> None:
    assert len(modules()[module].read_text().splitlines()) <= MODULE_LINES_MAX


@pytest.mark.parametrize("module", modules())
def test_size_of_functions(module: str) -> None:
    """A function is as long as what is not its docstring."""
    for function in functions(module):
        assert lines(function) <= FUNCTION_LINES_MAX, f"{module}.{function.name}"


def lines(function: Function) -> int:
    assert function.end_lineno is not None
    docstring = 0
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        docstring = (first.end_lineno or first.lineno) - first.lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


@pytest.mark.parametrize("module", modules())
def test_names_say_something(module: str) -> None:
    assert not set(module.split(".")) & FORBIDDEN_NAMES


@pytest.mark.parametrize("module", modules())
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(syntax(module)), module


def test_tests_share_only_what_is_in_support() -> None:
    """A module of tests that takes from another works only beside it."""
    tests = [*(TREE / "tests").glob("*/test_*.py")]
    assert len(tests) > 100
    taken = {
        (path.name, node.module)
        for path in tests
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("test_")
    }
    assert taken == set()
