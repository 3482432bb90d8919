# SPDX-License-Identifier: MIT
"""The run state of the machine, and who may change it to what.

STOP and RESUME leave here and nowhere else; the state is always changed
before the event that speaks of it.  As in QEMU since 2014, an I/O error does
not stop the machine on the spot: it records a request (`request_stop`), which
the machine's main loop carries out (`system/runstate.c`
qemu_system_vmstop_request, `system/cpus.c` do_vm_stop, vm_prepare_start).
"""

from __future__ import annotations

from collections.abc import Callable

from blockcore.qapi.events import Event, Resume, Stop
from blockcore.qapi.names import QmpError, RunState

RUN_STATE_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.PRELAUNCH: frozenset({RunState.RUNNING, RunState.SHUTDOWN}),
    RunState.RUNNING: frozenset({RunState.PAUSED, RunState.IO_ERROR, RunState.SHUTDOWN}),
    RunState.PAUSED: frozenset({RunState.RUNNING, RunState.PRELAUNCH, RunState.SHUTDOWN}),
    RunState.IO_ERROR: frozenset({RunState.RUNNING, RunState.PRELAUNCH, RunState.SHUTDOWN}),
    RunState.SHUTDOWN: frozenset(),
}


class Vm:
    """The run state, plus the stop that an I/O error has asked for.

    `changed` is called at each change of the state.
    """

    def __init__(
        self,
        state: RunState,
        emit: Callable[[Event], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = state
        self._changed = changed
        self.stop_requested: RunState | None = None
        self._emit = emit

    @property
    def running(self) -> bool:
        return self.state is RunState.RUNNING

    def request_stop(self, state: RunState) -> None:
        """Ask the main loop to stop the machine; the last request before it runs wins."""
        self.stop_requested = state

    def take_stop_request(self) -> RunState | None:
        """The recorded request, which is thereby spent."""
        requested, self.stop_requested = self.stop_requested, None
        return requested

    def stop(self, state: RunState) -> bool:
        """Enter `state` and say STOP, if the machine runs (do_vm_stop).

        Returns whether it did.  A stopped machine keeps the state it has: a
        user's `stop` does not turn io-error into paused.
        """
        if not self.running:
            return False
        self.set(state)
        self._emit(Stop())
        return True

    def start(self) -> bool:
        """Run, saying RESUME (vm_prepare_start); returns whether held requests are to go on.

        A stop that was requested and not yet carried out is consumed: STOP
        and RESUME leave back to back and the machine never stops.  QEMU
        forgets the held requests on that path; this project retries them.
        Raises QmpError when only a new process could run again.
        """
        if self.state is RunState.SHUTDOWN:
            raise QmpError("Resetting the Virtual Machine is required")
        if self.running:
            if self.take_stop_request() is None:
                return False
            self._emit(Stop())
            self._emit(Resume())
            return True
        self.take_stop_request()
        self.set(RunState.RUNNING)
        self._emit(Resume())
        return True

    def set(self, state: RunState) -> None:
        """Change the state without an event; an impossible change is a bug."""
        if state is self.state:
            return
        assert state in RUN_STATE_TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state
        self._changed()
