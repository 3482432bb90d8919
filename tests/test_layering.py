"""Who may import what, and how large a thing may be: the architecture, checked."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = (
    ("qapi", "qemu", "events", "effects", "clock"),
    ("keyval", "qmp"),
    ("gate", "lock"),
    (
        *("policy", "runstate", "accounting", "faults", "throttle", "throttle_group"),
        *("bitmap", "ratelimit", "volume"),
    ),
    ("nodes",),
    ("short_path", "guest_request", "block_backend", "volume_responder"),
    (
        *("job_status", "job_driver", "job_coroutine", "job", "job_txn", "block_job"),
        *("drain", "transaction", "vm_stop"),
    ),
    ("machine",),
    ("graph_changes", "new_image", "snapshot", "jobs"),
    ("config", "device_config", "drive_config", "assemble"),
    ("commands",),
    ("routine", "pool", "recursion"),
    ("socket_file", "nbd_address", "bql", "connection", "log_writer", "stderr", "log"),
    ("control", "loop"),
    ("signals", "leftovers", "start", "ending", "server"),
    ("cli", "plugin"),
)
"""From the bottom to the top; a module imports from its own layer and from those below."""

CORE = frozenset(
    {
        *("qapi", "events", "effects", "policy", "runstate", "accounting", "gate", "lock"),
        *("faults", "throttle", "throttle_group", "guest_request", "block_backend", "machine"),
        *("job_status", "ratelimit", "job_driver", "job_coroutine", "job", "job_txn"),
        *("block_job", "drain", "qemu", "vm_stop"),
        *("bitmap", "transaction", "volume", "volume_responder"),
    }
)
"""Decides, and never performs, waits, logs or looks at a clock."""

CORE_MAY_IMPORT = frozenset(
    {
        *("__future__", "bisect", "bitarray", "collections", "contextlib", "copy"),
        *("dataclasses", "enum", "errno", "functools", "itertools", "os", "typing"),
    }
)
"""Of `os` only `strerror`."""

ONLY = {
    "asyncio": {"loop", "control", "cli"},
    "ctypes": {"plugin", "nodes.fallocate"},
    "nbd": {"nodes.nbd", "nodes.nbd_server"},
    "nbdkit": {"plugin"},
    "random": {"server"},
    "signal": {"signals"},
    "socket": {"socket_file", "control", "leftovers", "loop", "server", "nodes.nbd", "cli"},
    "structlog": {"ending", "log", "loop", "control", "server", "cli"},
    "subprocess": {"cli"},
    "threading": {
        *("bql", "ending", "log_writer", "loop", "pool", "routine", "server", "signals"),
        *("start", "stderr", "plugin"),
    },
    "time": {"clock", "ending", "nodes.nbd"},
}
"""What these do is for these modules only (or for all modules of a package)."""

PLUGIN = ("failure", "heap", "lifetime", "shortage", "survive", "threadstate")
"""What `plugin/drive.py` imports from beside it, by plain name."""

NOT_REQUIRED = frozenset(
    {*sys.stdlib_module_names, "blockcore", *PLUGIN, "nbd", "nbdkit", "zstandard"}
)
"""What is imported without a requirement: ours, nbdkit's own, and what only some nodes need."""

FORBIDDEN_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}

MODULE_LINES_MAX = 300
LARGER = {"nodes.node": 400}
"""The I/O core is one subject: what every request to every node goes through."""

FUNCTION_LINES_MAX = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, Path]:
    """Names without the package ``blockcore``; the plugin's begin with ``plugin``."""
    found = {}
    for path in sorted(ROOT.glob("blockcore/**/*.py")):
        name = ".".join(path.relative_to(ROOT / "blockcore").with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".") or "blockcore"] = path
    for path in sorted(ROOT.glob("plugin/*.py")):
        found[f"plugin.{path.stem}"] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def imported(module: str) -> Iterator[tuple[str, str]]:
    """Pairs: a module, and the name that is taken from it ("" for all of it)."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{module}: relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def own_imports(module: str) -> set[str]:
    """The project's modules that a module imports."""
    found = set()
    for name, taken in imported(module):
        if name.partition(".")[0] in ("blockcore", *PLUGIN):
            short = name.removeprefix("blockcore").lstrip(".")
            inner = f"{short}.{taken}".lstrip(".")
            found.add(inner if inner in modules() else short or "blockcore")
    return {f"plugin.{name}" if name in PLUGIN else name for name in found}


def within(module: str, names: set[str] | frozenset[str] | tuple[str, ...]) -> bool:
    """Whether a module is one of `names`, or in a package that is."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer(module: str) -> int:
    (found,) = (index for index, names in enumerate(LAYERS) if within(module, names))
    return found


def functions(module: str) -> Iterator[Function]:
    for node in ast.walk(tree(module)):
        if isinstance(node, Function):
            yield node


def test_there_are_modules() -> None:
    assert {"machine", "nodes.node", "qmp.session", "plugin.drive"} <= set(modules())
    named = {name for names in LAYERS for name in names}
    for name in named | CORE | set().union(*ONLY.values()):
        assert any(within(module, {name}) for module in modules()), f"there is no {name}"


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    if module == "blockcore":
        assert not own_imports(module)
        return
    assert own_imports(module) <= set(modules())
    above = {name for name in own_imports(module) if layer(name) > layer(module)}
    assert not above, f"{module} imports {above}"


def test_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in own_imports(module):
                visit(name, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


@pytest.mark.parametrize("module", modules())
def test_restricted_imports(module: str) -> None:
    for name, _ in imported(module):
        allowed = ONLY.get(name.partition(".")[0])
        assert allowed is None or within(module, allowed), f"{module} imports {name}"


def test_requirements_are_what_is_imported() -> None:
    """What is imported inside nbdkit, and what besides it by the command."""

    def required(path: str) -> set[str]:
        lines = (ROOT / path).read_text().splitlines()
        return {line.split()[0].partition(".")[0] for line in lines if not line.startswith("#")}

    inside: set[str] = set()
    command: set[str] = set()
    for module in modules():
        found = {name.partition(".")[0] for name, _ in imported(module)}
        (command if within(module, {"cli"}) else inside).update(found - NOT_REQUIRED)
    assert inside == required("plugin/requirements.txt")
    assert command - inside == required("blockcore/cli/requirements.txt")


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_only_decides(module: str) -> None:
    for name, taken in imported(module):
        top = name.partition(".")[0]
        assert top in CORE_MAY_IMPORT or top == "blockcore", f"{module} imports {name}"
        assert top != "os" or not taken, f"{module} takes {taken} from os"
    for node in ast.walk(tree(module)):
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
    names = {node.id for node in ast.walk(tree(module)) if isinstance(node, ast.Name)}
    assert not names & {"TYPE_CHECKING", "__import__"}
    assert ("typing", "TYPE_CHECKING") not in imported(module)


@pytest.mark.parametrize("module", modules())
def test_size_of_modules(module: str) -> None:
    limit = LARGER.get(module, MODULE_LINES_MAX)
    assert len(modules()[module].read_text().splitlines()) <= limit


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
    assert ast.get_docstring(tree(module)), module
