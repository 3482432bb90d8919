# SPDX-License-Identifier: MIT
"""What every command that starts a job takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """`speed` in bytes per second, 0 without a limit.

    `job_id` None: the name of the drive.  `filter_node_name` is for the node that
    the job puts over another; without it the node is implicit.
    """

    job_id: str | None = None
    speed: int = 0
    auto_finalize: bool = True
    auto_dismiss: bool = True
    filter_node_name: str | None = None
