# SPDX-License-Identifier: MIT
"""Drivers are asked, not recognised: who may look at the class of a node, and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from house import modules, own_imports, syntax

KNOW_DRIVERS = ("nodes.drivers", "nodes.definitions")
"""What else has to know a driver asks it (`nodes/driver.py`)."""

NODE_OR_HOLDER = {
    "nodes.graph.conflicts": 1,
    "nodes.graph.links": 2,
}
"""Tells nodes from other users of a node where the order among all of them matters."""

TAKE_DRIVERS = {
    "nodes.graph.make": "has the list of all drivers",
    "nodes.graph.create": "makes the files that new images are in",
    "nodes.graph.graph": "probes the format of a file before there is a driver",
    "machine.power": "cuts the power of caches, and gives it back",
    "machine.crash_clones": "puts the node of a clone beside a cache",
    "jobs.shortcut": "copies on threads of its own, with the system calls of files",
}
"""Import from the drivers' folder."""


def outside() -> Iterator[str]:
    for module in modules():
        if not module.startswith(KNOW_DRIVERS):
            yield module


def classes_of_nodes() -> set[str]:
    """Return the names of all classes that `BlockNode` is, or is above of."""
    found = {"BlockNode"}
    defined = [node for name in modules() for node in ast.walk(syntax(name))]
    classes = [node for node in defined if isinstance(node, ast.ClassDef)]
    while more := {
        cls.name
        for cls in classes
        if cls.name not in found
        and any(isinstance(above, ast.Name) and above.id in found for above in cls.bases)
    }:
        found |= more
    return found


def recognised(module: str, classes: set[str]) -> list[str]:
    """Return the classes of nodes that a module tests for, by isinstance or a case."""
    tested: list[ast.expr] = []
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.MatchClass):
            tested.append(node.cls)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            tested.append(node.args[1])
    names = [name for test in tested for name in ast.walk(test) if isinstance(name, ast.Name)]
    return [name.id for name in names if name.id in classes]


def test_nobody_recognises_a_driver() -> None:
    classes = classes_of_nodes()
    assert {"FilterNode", "Qcow2Node", "MirrorTopNode"} < classes
    found = {module: recognised(module, classes) for module in outside()}
    counts = {module: len(names) for module, names in found.items() if names}
    assert counts == NODE_OR_HOLDER, found
    assert all({*found[module]} == {"BlockNode"} for module in counts)


def test_few_take_anything_from_drivers() -> None:
    takes = {
        module
        for module in outside()
        if any(name.startswith("nodes.drivers.") for name in own_imports(module))
    }
    assert takes == set(TAKE_DRIVERS)
