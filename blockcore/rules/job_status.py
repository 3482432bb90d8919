# SPDX-License-Identifier: MIT
"""The life of a job as tables: which status may follow, which verbs are accepted.

QEMU's JobSTT and JobVerbTable (`job.c`).
"""

from __future__ import annotations

from typing import Final

from blockcore.qapi.names import JobStatus as S
from blockcore.qapi.names import JobVerb as V
from blockcore.qapi.names import QmpError

JOB_TRANSITIONS: Final[dict[S, frozenset[S]]] = {
    S.UNDEFINED: frozenset({S.CREATED}),
    S.CREATED: frozenset({S.RUNNING, S.ABORTING, S.NULL}),
    S.RUNNING: frozenset({S.PAUSED, S.READY, S.WAITING, S.ABORTING}),
    S.PAUSED: frozenset({S.RUNNING}),
    S.READY: frozenset({S.STANDBY, S.WAITING, S.ABORTING}),
    S.STANDBY: frozenset({S.READY}),
    S.WAITING: frozenset({S.PENDING, S.ABORTING}),
    S.PENDING: frozenset({S.ABORTING, S.CONCLUDED}),
    S.ABORTING: frozenset({S.ABORTING, S.CONCLUDED}),
    S.CONCLUDED: frozenset({S.NULL}),
    S.NULL: frozenset(),
}
"""The statuses that may follow each status; any other change is a bug."""

_MOVING = frozenset({S.CREATED, S.RUNNING, S.PAUSED, S.READY, S.STANDBY})

JOB_VERBS: Final[dict[V, frozenset[S]]] = {
    V.CANCEL: _MOVING | {S.WAITING, S.PENDING},
    V.PAUSE: _MOVING,
    V.RESUME: _MOVING,
    V.SET_SPEED: _MOVING,
    V.COMPLETE: frozenset({S.READY, S.STANDBY}),
    V.FINALIZE: frozenset({S.PENDING}),
    V.DISMISS: frozenset({S.CONCLUDED}),
    V.CHANGE: _MOVING,
}
"""The statuses in which a job accepts each verb."""

READY: Final = frozenset({S.READY, S.STANDBY})
"""The source and the target are in sync (job_is_ready)."""

COMPLETED: Final = frozenset({S.WAITING, S.PENDING, S.ABORTING, S.CONCLUDED, S.NULL})
"""The job's own work is over (job_is_completed)."""


def check_transition(old: S, new: S) -> None:
    """Raise AssertionError unless `new` may follow `old` (job_state_transition)."""
    assert new in JOB_TRANSITIONS[old], f"a job cannot go from {old} to {new}"


def check_verb(job_id: str, status: S, verb: V) -> None:
    """Raise QmpError if a job with this status does not accept the verb (job_apply_verb)."""
    if status not in JOB_VERBS[verb]:
        raise QmpError(f"Job '{job_id}' in state '{status}' cannot accept command verb '{verb}'")
