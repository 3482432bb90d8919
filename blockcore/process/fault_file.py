# SPDX-License-Identifier: MIT
"""Files of fault rules that a machine begins with (``faults=``)."""

from __future__ import annotations

import errno
import os

from blockcore.commands.fault_files import load_faults
from blockcore.machine.machine import Machine
from blockcore.qapi.names import QmpError

BYTES_MAX = 16 << 20
"""Largest file, in bytes: about 200,000 rules."""


def load(machine: Machine, directory: str, file: str) -> list[str]:
    """Add the rules of a file, whose name may be relative to `directory`; return its rules.

    Raises QmpError, whose `where` is the file with the line.
    """
    try:
        return load_faults(machine, _text(os.path.join(directory, file)))
    except QmpError as error:
        error.where = ", ".join(filter(None, (file, error.where)))
        raise


def _text(path: str) -> str:
    """Return the text of a file; a FIFO without a writer is empty, an endless device too large."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(BYTES_MAX + 1) or b""
    except OSError as exc:
        raise QmpError(f"Could not read file of faults: {os.strerror(exc.errno or 0)}") from None
    if len(data) > BYTES_MAX:
        raise QmpError(f"Could not read file of faults: {os.strerror(errno.EFBIG)}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise QmpError("Could not read file of faults: it is no text in UTF-8") from None
