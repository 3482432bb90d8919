# SPDX-License-Identifier: MIT
"""The surroundings in which `serve` was started: limits, inherited sockets, the parent."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

import click

DESCRIPTORS_MIN = 64
"""Descriptors that a machine with one drive and some clients needs.

Below 20 not even nbdkit's Python can start.
"""

ADDRESS_SPACE_MIN = 768 << 20
"""Bytes of address space that a machine needs: for nbdkit, Python, and the stacks of the
machine's threads and of one connection's."""

ACTIVATION = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""The variables of systemd's socket activation."""


def checked(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for nbdkit; raises ClickException if a machine cannot run here."""
    _require_limits()
    return _without_activation(environ)


def _require_limits() -> None:
    """Raise ClickException if limits are so low that a machine cannot start.

    nbdkit and its Python do not report that: with too little they end without a
    message, or hang.
    """
    limits = (
        (resource.RLIMIT_NOFILE, DESCRIPTORS_MIN, 1, "descriptors (ulimit -n)"),
        (resource.RLIMIT_AS, ADDRESS_SPACE_MIN, 1024, "KiB of address space (ulimit -v)"),
    )
    for kind, needed, unit, what in limits:
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and limit < needed:
            raise click.ClickException(
                f"a machine needs {needed // unit} {what}, the limit is {limit // unit}"
            )


def _without_activation(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables of socket activation (sd_listen_fds).

    nbdkit refuses them together with a socket option, even if they are for another
    process, and sockets for this one are passed on by variables of our own (`launch`).
    """
    return {name: value for name, value in environ.items() if name not in ACTIVATION}


def open_parent() -> int:
    """Open a pidfd of the parent process.

    Raises ClickException if the parent has ended.  A parent that ends while this
    process is being started is noticed if it has set FAULTLINE_STARTED_BY to its
    number.
    """
    parent = os.getppid()
    started_by = os.environ.pop("FAULTLINE_STARTED_BY", str(parent))
    descriptor = os.pidfd_open(parent)
    # If the parent ended before pidfd_open, the number may be another process's by now.
    if os.getppid() != parent or started_by != str(parent):
        raise click.ClickException("the parent process has ended already")
    return descriptor
