# SPDX-License-Identifier: MIT
"""File names as ``query-block`` shows them: names that would open equal data again."""

from __future__ import annotations

import json

from blockcore.nodes.definitions.options import FILENAME_MAX, BlockdevOptions, Resolve


def filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """Return what QEMU shows as the file name of a node (bdrv_refresh_filename).

    It is a plain name (a path, ``nbd://``, ``blkdebug:CONF:IMAGE``) if such a
    name stands for all of the node's data, otherwise ``json:{...}`` with the
    options that decide about data.  Cache modes and node names are never shown.
    `resolve` returns the definitions of children that are given by name.  A
    name longer than FILENAME_MAX ends in ``...``, as in QEMU.
    """
    full = full_filename(options, resolve)
    return full if len(full) <= FILENAME_MAX else full[: FILENAME_MAX - 3] + "..."


def full_filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """Return the file name of a node at its full length, so that it can be compared."""
    exact = options.exact_filename(resolve)
    return "json:" + json.dumps(options.full_options(resolve)) if exact is None else exact
