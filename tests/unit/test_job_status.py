# SPDX-License-Identifier: MIT
"""The life of a job against tables written down once more, as pictures."""

from __future__ import annotations

from itertools import product

import pytest

from blockcore.qapi.names import JobStatus, JobVerb, QmpError
from blockcore.rules.job_status import JOB_TRANSITIONS, JOB_VERBS, check_transition, check_verb

TRANSITIONS = """
             undefined created running paused ready standby waiting pending aborting concluded null
undefined        -        x       -      -      -      -       -       -       -         -       -
created          -        -       x      -      -      -       -       -       x         -       x
running          -        -       -      x      x      -       x       -       x         -       -
paused           -        -       x      -      -      -       -       -       -         -       -
ready            -        -       -      -      -      x       x       -       x         -       -
standby          -        -       -      -      x      -       -       -       -         -       -
waiting          -        -       -      -      -      -       -       x       x         -       -
pending          -        -       -      -      -      -       -       -       x         x       -
aborting         -        -       -      -      -      -       -       -       x         x       -
concluded        -        -       -      -      -      -       -       -       -         -       x
null             -        -       -      -      -      -       -       -       -         -       -
"""
"""JobSTT: from (lines) and to (columns)."""

VERBS = """
             undefined created running paused ready standby waiting pending aborting concluded null
cancel           -        x       x      x      x      x       x       x       -         -       -
pause            -        x       x      x      x      x       -       -       -         -       -
resume           -        x       x      x      x      x       -       -       -         -       -
set-speed        -        x       x      x      x      x       -       -       -         -       -
complete         -        -       -      -      x      x       -       -       -         -       -
finalize         -        -       -      -      -      -       -       x       -         -       -
dismiss          -        -       -      -      -      -       -       -       -         x       -
change           -        x       x      x      x      x       -       -       -         -       -
"""
"""JobVerbTable: what is accepted (lines), and when (columns)."""


def picture(text: str) -> set[tuple[str, str]]:
    """The crosses of a picture: line and column."""
    head, *lines = text.strip().splitlines()
    columns = head.split()
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert all(len(row) == len(columns) for row in cells.values())
    return {
        (name, column)
        for name, row in cells.items()
        for column, cell in zip(columns, row, strict=True)
        if cell == "x"
    }


@pytest.mark.parametrize(("old", "new"), list(product(JobStatus, JobStatus)))
def test_transitions(old: JobStatus, new: JobStatus) -> None:
    if (old, new) in picture(TRANSITIONS):
        check_transition(old, new)
    else:
        with pytest.raises(AssertionError, match=f"cannot go from {old} to {new}"):
            check_transition(old, new)


@pytest.mark.parametrize(("verb", "status"), list(product(JobVerb, JobStatus)))
def test_verbs(verb: JobVerb, status: JobStatus) -> None:
    if (verb, status) in picture(VERBS):
        check_verb("job0", status, verb)
        return
    with pytest.raises(QmpError) as caught:
        check_verb("job0", status, verb)
    said = f"Job 'job0' in state '{status}' cannot accept command verb '{verb}'"
    assert caught.value.desc == said


def test_the_tables_are_whole() -> None:
    assert set(JOB_TRANSITIONS) == set(JobStatus) and len(JobStatus) == 11
    assert set(JOB_VERBS) == set(JobVerb) and len(JobVerb) == 8
