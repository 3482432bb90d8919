# SPDX-License-Identifier: MIT
"""File names as ``query-block`` shows them: what would open the same data again."""

from __future__ import annotations

import json

from blockcore.nodes.definitions.options import FILENAME_MAX, BlockdevOptions, Resolve


def filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """What QEMU shows as the file name of a node, as much as it has room for.

    A plain name if one stands for all of the node's data: a path, ``nbd://``,
    ``blkdebug:CONF:IMAGE``...  Otherwise ``json:{...}`` with the options that
    decide about data; cache modes, names and the like are never shown.
    `resolve` is asked about children that are given by name.
    """
    full = full_filename(options, resolve)
    return full if len(full) <= FILENAME_MAX else full[: FILENAME_MAX - 3] + "..."


def full_filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """The same, however long: what tells one node from another."""
    exact = options.exact_filename(resolve)
    return "json:" + json.dumps(options.full_options(resolve)) if exact is None else exact
