# SPDX-License-Identifier: MIT
"""The run state of the machine, and which state may follow which.

Only this module emits STOP and RESUME.  The state changes before its event is
emitted, so that a client that answers STOP with query-status sees the new
state.  As in QEMU, an I/O error does not stop the machine on the spot: it
records a request (`request_stop`), which the machine's main loop carries out
(`system/runstate.c` qemu_system_vmstop_request; `system/cpus.c` do_vm_stop,
vm_prepare_start).
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
"""The states that may follow each state; any other change is a bug."""


class Vm:
    """The run state, and the stop that an I/O error has requested.

    `emit` sends an event; `changed` is called at each change of the state.
    All methods need the big lock.
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
        """Whether guests' requests are carried out."""
        return self.state is RunState.RUNNING

    def request_stop(self, state: RunState) -> None:
        """Ask the main loop to stop the machine; a later request replaces an earlier one."""
        self.stop_requested = state

    def take_stop_request(self) -> RunState | None:
        """Return the requested state, if any, and forget the request."""
        requested, self.stop_requested = self.stop_requested, None
        return requested

    def stop(self, state: RunState) -> bool:
        """Enter `state` and emit STOP, if the machine runs; return whether it ran (do_vm_stop).

        A stopped machine keeps its state: a user's `stop` does not turn
        io-error into paused.
        """
        if not self.running:
            return False
        self.set(state)
        self._emit(Stop())
        return True

    def start(self) -> bool:
        """Run, and emit RESUME; return whether held requests have to be retried (vm_prepare_start).

        Raises QmpError after a shutdown.
        """
        if self.state is RunState.SHUTDOWN:
            raise QmpError("Resetting the Virtual Machine is required")
        if self.running:
            if self.take_stop_request() is None:
                return False
            # A stop was requested and the main loop has not carried it out yet.  As in QEMU, STOP
            # and RESUME are emitted back to back and the machine goes on running.  QEMU leaves
            # the held requests waiting on this path; here they are retried.
            self._emit(Stop())
            self._emit(Resume())
            return True
        self.take_stop_request()
        self.set(RunState.RUNNING)
        self._emit(Resume())
        return True

    def set(self, state: RunState) -> None:
        """Change the state without an event; an impossible change raises AssertionError."""
        if state is self.state:
            return
        assert state in RUN_STATE_TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state
        self._changed()
