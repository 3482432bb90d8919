# SPDX-License-Identifier: MIT
"""What is said where memory does not even suffice for what the plugin imports.

nbdkit has Python print the exception that ends the import, and says itself that
there was one.  Where Python was is of no interest then.  This module imports
nothing but what every interpreter has.
"""

from __future__ import annotations

import errno
import os
import sys
from types import TracebackType

UNMAPPED = "failed to map segment from shared object"
"""The dynamic linker's words for it."""


def watch() -> None:
    """Be what Python prints exceptions with, until somebody else is."""
    sys.excepthook = _print


def is_shortage(error: BaseException) -> bool:
    """Whether it tells of too little memory, or address space."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or UNMAPPED in str(error)


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if is_shortage(error):
        reason = os.strerror(errno.ENOMEM)
        os.write(2, f"faultline: cannot start: {reason} (ulimit -v)\n".encode())
    else:
        sys.__excepthook__(kind, error, trace)
