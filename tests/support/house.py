# SPDX-License-Identifier: MIT
"""The plan of the house: which room imports from which.

`scripts/rooms` prints it.  A room is a folder of the package, at the top or at
any depth; an arrow says that some module of one imports from some module of the
other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tree import TREE

PACKAGE = TREE / "blockcore"

PLUGIN = ("failure", "heap", "lifetime", "own_socket", "shortage", "survive", "threadstate")
"""Modules that `plugin/drive.py` imports from beside it, by plain name."""

Arrows = dict[str, set[str]]
"""For each room, the rooms that it imports from."""


@cache
def modules() -> dict[str, Path]:
    """Names without the package ``blockcore``; the plugin's begin with ``plugin``."""
    found = {}
    for path in sorted(PACKAGE.glob("**/*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".") or "blockcore"] = path
    for path in sorted((TREE / "plugin").glob("*.py")):
        found[f"plugin.{path.stem}"] = path
    return found


@cache
def syntax(module: str) -> ast.Module:
    """Return the module's syntax tree."""
    return ast.parse(modules()[module].read_text())


def imported(module: str) -> Iterator[tuple[str, str]]:
    """Yield pairs: a module, and the name that is taken from it ("" for all of it).

    What is imported when it is first used counts as well (`bql.later`).
    """
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{module}: relative import"
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) == "later":
            yield place_of(node)


def called(call: ast.Call) -> str:
    """Return the name of the function that is called, without what it is taken from."""
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def place_of(call: ast.Call) -> tuple[str, str]:
    """Return the module and the name in a call of `later`, which are written out there."""
    (place,) = call.args
    assert isinstance(place, ast.Constant) and isinstance(place.value, str), ast.unparse(call)
    module, _, name = place.value.partition(":")
    return module, name


@cache
def own_imports(module: str) -> set[str]:
    """Return the project's modules that a module imports."""
    found = set()
    for name, taken in imported(module):
        if name.partition(".")[0] in ("blockcore", *PLUGIN):
            short = name.removeprefix("blockcore").lstrip(".")
            inner = f"{short}.{taken}".lstrip(".")
            found.add(inner if inner in modules() else short or "blockcore")
    return {f"plugin.{name}" if name in PLUGIN else name for name in found}


def room_at_top(module: str) -> str:
    """Return the folder right below ``blockcore`` in which a module is."""
    return module.partition(".")[0]


def room(module: str) -> str:
    """Return the folder in which a module is; a package is in its own."""
    if modules()[module].stem == "__init__":
        return module
    return module.rpartition(".")[0]


def arrows(room_of: Callable[[str], str]) -> Arrows:
    """Draw the arrows between the rooms that `room_of` puts modules into."""
    found: Arrows = {}
    for module in modules():
        if module != "blockcore":
            targets = found.setdefault(room_of(module), set())
            targets |= {room_of(name) for name in own_imports(module) if name != "blockcore"}
    return {name: targets - {name} for name, targets in sorted(found.items())}


def circle(graph: Arrows) -> list[str]:
    """Return rooms that import each other in a circle; empty if there is none."""
    done: set[str] = set()

    def search(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for target in sorted(graph[name]):
                if found := search(target, (*path, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in graph if (found := search(name, ()))), [])


def floors(graph: Arrows) -> list[list[str]]:
    """Put each room on the lowest floor that is above all rooms it imports from."""

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(target) for target in graph[name]), default=-1)

    found: list[list[str]] = []
    for name in sorted(graph, key=lambda name: (floor(name), name)):
        if floor(name) == len(found):
            found.append([])
        found[-1].append(name)
    return found


def picture(graph: Arrows) -> str:
    """Draw the rooms as a Mermaid flowchart, without arrows that others imply."""
    lines = ["flowchart TD"]
    for name in (name for names in reversed(floors(graph)) for name in names):
        direct = graph[name] - {far for near in graph[name] for far in reached(graph, near)}
        lines += [f"    {name} --> {target}" for target in sorted(direct)]
    return "\n".join(lines)


def reached(graph: Arrows, name: str) -> set[str]:
    """Return all rooms that one imports from, directly or through others."""
    found: set[str] = set()
    for target in graph[name]:
        found |= {target} | reached(graph, target)
    return found


def main() -> int:
    """Print the plan; 1 if rooms go in a circle."""
    top, deep = arrows(room_at_top), arrows(room)
    for graph, level in ((top, "at the top"), (deep, "with the folders inside")):
        if found := circle(graph):
            print(f"{level}: a circle: {' -> '.join(found)}", file=sys.stderr)
            return 1
        count = sum(map(len, graph.values()))
        print(f"{level}: {len(graph)} rooms, {count} arrows, {len(floors(graph))} floors")
    for number, names in enumerate(floors(top), 1):
        for name in names:
            print(f"{number:3} {name:10} {' '.join(sorted(top[name]))}".rstrip())
    print()
    print(picture(top))
    return 0


if __name__ == "__main__":
    sys.exit(main())
