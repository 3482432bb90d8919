# SPDX-License-Identifier: MIT
"""The options that every command that starts a job takes."""

from __future__ import annotations

from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The options of a job; `speed` in bytes per second, 0 without a limit.

    `job_id` None: the name of the drive.  `filter_node_name` names the filter that
    the job puts over a node; without a name the filter is implicit.
    """

    job_id: str | None = None
    speed: int = 0
    auto_finalize: bool = True
    auto_dismiss: bool = True
    filter_node_name: str | None = None
