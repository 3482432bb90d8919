# SPDX-License-Identifier: MIT
"""What is imported when it is first used: most of a machine's code serves none of its requests.

    qcow2 = later("blockcore.nodes.drivers.qcow2.node:Qcow2Node")

Imports of all drivers, commands and jobs would take longer than everything else
that a machine does until it is ready.  `tests/project/test_layering.py` takes a
call of `later` for an import.

An import takes milliseconds and needs a descriptor.  So the core imports in a call
outside the big lock (`Later.is_loaded`), and whatever is used at the end of the
process, or to report an error, is not imported later.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class Later:
    """A name in a module; calling it gives what has the name, and imports the module before.

    On any thread: the import system lets other threads wait for a module that one of
    them is importing.
    """

    __slots__ = ("_found", "module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self._found: list[Any] = []

    def __call__(self) -> Any:
        """Return what has the name; raises ImportError, or OSError without a descriptor."""
        if not self._found:
            self._found.append(getattr(import_module(self.module), self.name))
        return self._found[0]

    @property
    def is_loaded(self) -> bool:
        """Whether a call imports nothing any more."""
        return bool(self._found)


@contextmanager
def without(module: str) -> Iterator[None]:
    """Let imports in the body find that a module is not installed; before there are threads."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module]
        else:
            sys.modules[module] = before


def later(place: str) -> Later:
    """Return the name for `place`, which is MODULE:NAME."""
    module, _, name = place.partition(":")
    return Later(module, name)

