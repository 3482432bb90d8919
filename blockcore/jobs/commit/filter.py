# SPDX-License-Identifier: MIT
"""The filter over the image that is committed (`block/commit.c`: bdrv_commit_top)."""

from __future__ import annotations

from blockcore.nodes.filter import FilterNode
from blockcore.nodes.permissions import ALL, NONE, Pair, Perm


class CommitTopNode(FilterNode):
    """A filter that needs nothing of the node below and allows the job everything.

    Its users see the same data all the time, wherever the data is by then.
    """

    driver = "commit_top"
    filters = "backing"
    of_job = True
    never_frozen = True

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return no needs, and everything shared (bdrv_commit_top_child_perm)."""
        return NONE, ALL
