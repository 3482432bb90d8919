# SPDX-License-Identifier: MIT
"""What a process is born with: limits, sockets and a parent, as far as a machine cares."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

import click

DESCRIPTORS_MIN = 64
"""A machine with one drive and some clients; below 20 not even nbdkit's Python can start."""

ADDRESS_SPACE_MIN = 768 << 20
"""nbdkit, Python and the stacks of a machine's threads and of one connection's."""

ACTIVATION = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def checked(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that nbdkit can have; ClickException if a machine cannot live here."""
    _require_limits()
    return _without_activation(environ)


def _require_limits() -> None:
    """ClickException where a machine could not start, or only in part.

    Where it is nbdkit, or its Python, that lacks something, there is nobody to
    say so: some end without a word, some wait for ever.
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
    """The environment without sockets of systemd's; ClickException if there are such for us.

    nbdkit refuses them together with a socket of its own, and says so of
    others' as well.
    """
    if environ.get("LISTEN_PID") == str(os.getpid()) and "LISTEN_FDS" in environ:
        raise click.ClickException(
            "LISTEN_FDS is set: to serve on sockets that another program has opened, "
            "run nbdkit with the plugin"
        )
    return {name: value for name, value in environ.items() if name not in ACTIVATION}


def open_parent() -> int:
    """A pidfd of the parent process, for the program that this process becomes."""
    parent = os.getppid()
    descriptor = os.pidfd_open(parent)
    if os.getppid() != parent:
        raise click.ClickException("the parent process has ended already")
    os.set_inheritable(descriptor, True)
    return descriptor
