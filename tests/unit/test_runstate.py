# SPDX-License-Identifier: MIT
"""Run state: every transition there could be, and what is said about it."""

from __future__ import annotations

import pytest

from blockcore.qapi.events import Event
from blockcore.qapi.names import QmpError, RunState
from blockcore.rules.runstate import RUN_STATE_TRANSITIONS, Vm

# QEMU's runstate_transitions_def, restricted to the states there are, but for
# shutdown: here `quit` enters it from anywhere, and nothing leaves it.
TABLE = """
            prelaunch  running  paused  io-error  shutdown
prelaunch       .         x        .        .         x
running         .         .        x        x         x
paused          x         x        .        .         x
io-error        x         x        .        .         x
shutdown        .         .        .        .         .
"""


def _cells() -> dict[tuple[RunState, RunState], bool]:
    head, *rows = TABLE.strip().splitlines()
    columns = [RunState(name) for name in head.split()]
    return {
        (RunState(row.split()[0]), column): mark == "x"
        for row in rows
        for column, mark in zip(columns, row.split()[1:], strict=True)
    }


def make_vm(state: RunState) -> tuple[Vm, list[tuple[str, RunState]]]:
    said: list[tuple[str, RunState]] = []

    def emit(event: Event) -> None:
        said.append((event.NAME, vm.state))

    vm = Vm(state, emit)
    return vm, said


def test_the_table_is_complete() -> None:
    assert set(_cells()) == {(old, new) for old in RunState for new in RunState}
    assert set(RUN_STATE_TRANSITIONS) == set(RunState)


@pytest.mark.parametrize(("old", "new"), list(_cells()), ids=str)
def test_transition(old: RunState, new: RunState) -> None:
    vm, said = make_vm(old)
    if _cells()[old, new] or old is new:
        vm.set(new)
        assert vm.state is new
    else:
        with pytest.raises(AssertionError):
            vm.set(new)
        assert vm.state is old
    assert not said


@pytest.mark.parametrize("state", RunState)
def test_running(state: RunState) -> None:
    assert make_vm(state)[0].running == (state is RunState.RUNNING)


@pytest.mark.parametrize("wanted", [RunState.PAUSED, RunState.IO_ERROR])
@pytest.mark.parametrize("state", RunState)
def test_stop(state: RunState, wanted: RunState) -> None:
    """STOP is said, in the new state, if the machine ran; else nothing changes."""
    vm, said = make_vm(state)
    assert vm.stop(wanted) == (state is RunState.RUNNING)
    if state is RunState.RUNNING:
        assert vm.state is wanted and said == [("STOP", wanted)]
    else:
        assert vm.state is state and not said


@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("state", RunState)
def test_start(state: RunState, requested: bool) -> None:
    vm, said = make_vm(state)
    if requested:
        vm.request_stop(RunState.IO_ERROR)
    if state is RunState.SHUTDOWN:
        with pytest.raises(QmpError, match="^Resetting the Virtual Machine is required$"):
            vm.start()
        assert not said
        return
    goes_on = vm.start()
    assert vm.state is RunState.RUNNING
    assert vm.take_stop_request() is None
    if state is not RunState.RUNNING:
        assert goes_on and [name for name, _ in said] == ["RESUME"]
    elif requested:
        assert goes_on and [name for name, _ in said] == ["STOP", "RESUME"]
    else:
        assert not goes_on and not said


def test_the_last_stop_request_wins_and_is_spent() -> None:
    vm, said = make_vm(RunState.RUNNING)
    assert vm.take_stop_request() is None
    vm.request_stop(RunState.PAUSED)
    vm.request_stop(RunState.IO_ERROR)
    assert vm.running and not said
    assert vm.take_stop_request() is RunState.IO_ERROR
    assert vm.take_stop_request() is None
