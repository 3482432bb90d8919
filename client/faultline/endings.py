# SPDX-License-Identifier: MIT
"""Why there is no connection, in one line."""

from __future__ import annotations

import os
import stat


def closed_by_server(path: str, greeted: bool = True) -> str:
    """Return the line for a connection that the server has closed; `greeted`: it spoke QMP."""
    return f"{path}: {'the machine has hung up' if greeted else 'does not speak QMP'}"


def cause_of(path: str, error: BaseException | None, timeout: float) -> str:
    """Return why there is no QMP server at a path; `error` None: it did not greet in time."""
    if error is None:
        return f"{path}: no QMP greeting within {timeout:g} s, is it a control socket?"
    if isinstance(error, ConnectionRefusedError) and not _is_socket(path):
        return f"{path}: is not a socket"
    if isinstance(error, OSError) and error.strerror:
        return f"{path}: {error.strerror}"
    return f"{path}: {error}"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
