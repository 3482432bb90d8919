# SPDX-License-Identifier: MIT
"""Each scenario that is shipped, beside a manager that does wrong, and one that does right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

import pytest
from manager import Manager, Policy

from faultline.scenario import shipped, steps
from flows import Gullible, flow, managed, played, served
from live import Live

Managing = Callable[[Live], AbstractContextManager[object]]

PATIENCE_S = 0.2
"""How long a step waits for what a wrong manager does not do, in seconds."""


@dataclass(frozen=True)
class Case:
    """A right manager and a wrong one, and what is said of the second: the step, and the text.

    The wrong one has its turn first, with variables that are `given`, and on the same machine
    unless that `leaves_it_full`.  A flow may be played `on` a machine of another.
    """

    right: Managing
    wrong: Managing
    step: str
    what: str
    leaves_it_full: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    on: tuple[str, int] | None = None


def stopping(manager: Manager) -> None:
    """Back up a machine that is stopped meanwhile, and forget to continue it if that fails."""
    manager.machine.stop()
    manager.back_up("vda", "target")
    manager.machine.cont()


def forgetting(manager: Manager) -> None:
    """Begin a mirror that an error stops, and look no more at it."""
    manager.machine.blockdev_mirror(
        job_id="m", device="vda", target="target", sync="full", on_target_error="stop"
    )


CASES = {
    "late-extension": Case(
        lambda machine: managed(machine, thin=True, late=True),
        managed,
        "the manager extends the volume",
        "no X_VOLUME_EXTENDED came within 0.2 s",
        leaves_it_full=True,
    ),
    "pause-flapping": Case(
        managed,
        lambda machine: managed(machine, policy=Policy(tries=1000, delay_s=0)),
        "after: 60s",
        "RESUME came 9 times, more than 8",
        given={"away": "60s"},
        on=("mirror-side-error", 1),
    ),
    "storage-back": Case(
        managed,
        lambda machine: managed(machine, policy=Policy(tries=1)),
        "the manager tries again",
        "no RESUME came within 0.2 s",
        on=("mirror-side-error", 1),
    ),
    "full-told-as-error": Case(
        lambda machine: managed(machine, thin=True, late=True),
        lambda machine: managed(machine, Gullible),
        "the manager looks at the volume instead of the error",
        "no X_VOLUME_EXTENDED came within 0.2 s",
        leaves_it_full=True,
    ),
    "error-told-as-full": Case(
        lambda machine: managed(machine, thin=True),
        lambda machine: managed(machine, Gullible),
        "",
        "X_VOLUME_EXTENDED",
        on=("late-extension", 2),
    ),
    "backup-target-full": Case(
        lambda machine: managed(machine, work=lambda m: m.back_up("vda", "target")),
        lambda machine: managed(machine, has_room=False, work=stopping),
        "expect: {command: query-status, returns: {status: running}}",
        "query-status: status is paused, not running, within 0.2 s",
    ),
    "mirror-side-error": Case(
        lambda machine: managed(machine, work=lambda m: m.migrate("vda", "target")),
        lambda machine: managed(machine, work=forgetting),
        "the job has been completed, or given up, and is dismissed",
        "query-jobs: it is [{",
    ),
}


def impatient(played: Sequence[steps.Step], text: str) -> tuple[steps.Step, ...]:
    """Steps of which that with a text does not wait for long."""
    found: list[steps.Step] = []
    for step in played:
        if isinstance(step, steps.Repeat):
            step = replace(step, steps=impatient(step.steps, text))
        elif isinstance(step, steps.Wait | steps.Expect) and text in step.text:
            step = replace(step, within_s=PATIENCE_S)
        found.append(step)
    return tuple(found)


def test_all_that_are_shipped_have_a_case() -> None:
    assert sorted(CASES) == shipped.names()


@pytest.fixture(scope="module")
def machine_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], Live]]:
    """The machines of a flow, by their numbers."""
    with ExitStack() as stack:

        @functools.cache
        def start(name: str, number: int) -> Live:
            directory = tmp_path_factory.mktemp("flow")
            return stack.enter_context(served(flow(name, directory), directory))

        yield start


@pytest.mark.parametrize("name", CASES)
def test_it_finds_the_wrong_manager_and_lets_the_right_one_pass(
    name: str, machine_of: Callable[[str, int], Live]
) -> None:
    case = CASES[name]
    machine = machine_of(*(case.on or (name, 1)))
    scenario = flow(name, machine.directory, **case.given)
    short = replace(scenario, steps=impatient(scenario.steps, case.step))
    failure = played(machine, short, lambda: case.wrong(machine)).failure
    assert failure is not None
    assert case.what in failure.what
    assert failure.step is not None and case.step in failure.step.text
    if case.leaves_it_full:
        machine = machine_of(name, 2)
    scenario = flow(name, machine.directory)
    playing = played(machine, scenario, lambda: case.right(machine))
    assert playing.failure is None, playing.failure
