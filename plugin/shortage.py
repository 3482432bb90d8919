# SPDX-License-Identifier: MIT
"""The message for too little memory while the plugin imports its modules.

nbdkit lets Python print the exception that ends an import.  A traceback says
nothing useful then; one line with the reason does.  This module imports only
modules of the interpreter itself, so that it can be loaded with little memory.
"""

from __future__ import annotations

import errno
import os
import sys
from types import TracebackType

UNMAPPED = "failed to map segment from shared object"
"""What the dynamic linker says if it lacks address space; ImportError has it."""


def watch() -> None:
    """Replace `sys.excepthook`, until `Start.begin` replaces it again."""
    sys.excepthook = _print


def is_shortage(error: BaseException) -> bool:
    """Return whether an exception says that memory or address space is too small."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or UNMAPPED in str(error)


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if is_shortage(error):
        reason = os.strerror(errno.ENOMEM)
        os.write(2, f"faultline: cannot start: {reason} (ulimit -v)\n".encode())
    else:
        sys.__excepthook__(kind, error, trace)
