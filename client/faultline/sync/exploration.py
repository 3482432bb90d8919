# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/exploration.py.
"""The walk over the states that a crash might leave, each checked by a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import faultline
from faultline.errors import CommandError, FaultlineError, MachineEnded, TimedOut
from faultline.exploring import (
    Checker,
    CrashReport,
    CrashResult,
    CrashState,
    examine,
    uri_of_export,
    wanted,
)
from faultline.names import did_you_mean
from faultline.served import ServedDrive
from faultline.sync.channel import Channel
from faultline.sync.session import Session
from faultline.sync.waiting import first_done

STATES = 1000
"""The states of one moment that are looked at, if not said otherwise."""

HANGING = {"iotype": "flush", "action": "hang", "origin": "guest"}
"""The rule that stops a workload at each of its flushes."""

ANSWER_S = 30.0
"""How much later than its deadline the answer of x-fault-wait may come, in seconds."""

AT_ONCE = 4
"""The states that are checked at one time, if not said otherwise."""


@dataclass(frozen=True)
class Walk:
    """What is to be walked: the states of a drive, and how, as `Machine.explore` has it.

    Raises FaultlineError without the drive's NBD URI, and ValueError if `only` is no name
    of a state.
    """

    device: str
    uri: str | None
    check: Checker
    at_once: int
    limit: int
    torn: bool | None
    only: str | None
    timeout: float

    def __post_init__(self) -> None:
        if self.uri is None:
            raise FaultlineError(f"the NBD URI of {self.device} is not known: add uri=")
        wanted(self.only)


class Exploration:
    """One walk; `session` is a connection of its own, on which nobody else waits."""

    def __init__(self, session: Session, walk: Walk) -> None:
        self._session = session
        self._walk = walk
        self._moments = 0
        self._exports = 0
        self._sampled: list[int] = []
        self._results: dict[str, CrashResult | None] = {}
        self._executor: Executor | None = None

    def run(
        self,
        workload: Callable[[], object] | None,
        executor: Executor | None,
        control: str,
    ) -> CrashReport:
        """Check all states, by an executor or by threads, and return what has come of it.

        `control` is the path of the control socket, to which the workload's thread
        connects when it has ended.
        """
        own = None if executor is not None else ThreadPoolExecutor(
            self._walk.at_once, "faultline-check"
        )
        self._executor = executor or own
        try:
            if workload is None:
                self._moment()
            else:
                self._beside(workload, control)
        finally:
            if own is not None:
                own.shutdown(wait=False, cancel_futures=True)
        results = [result for result in self._results.values() if result is not None]
        return CrashReport(results, self._moments, self._sampled)

    def _moment(self) -> None:
        """Check the states that a crash at this moment might leave."""
        walk = self._walk
        self._moments += 1
        only = wanted(walk.only)
        if only is not None:
            if only[0] == self._moments:
                self._check([only[1]])
            return
        asked = {"device": walk.device, "limit": walk.limit}
        if walk.torn is not None:
            asked["torn"] = walk.torn
        states = [one["state"] for one in self._run("x-crash-enumerate", asked)]
        if len(states) >= walk.limit:
            self._sampled.append(self._moments)
        self._check(states)

    def _check(self, states: Iterable[str]) -> None:
        """Let workers check states, at most so many at one time, each on an export of its own."""
        walk, left = self._walk, deque(states)
        pending: dict[Future[CrashResult], _Clone] = {}
        try:
            while left or pending:
                while left and len(pending) < walk.at_once:
                    clone = self._clone(left.popleft())
                    self._results[clone.crash.name] = None
                    pending[self._submit(clone.crash)] = clone
                done = first_done(pending, walk.timeout)
                if not done:
                    names = ", ".join(clone.crash.name for clone in pending.values())
                    raise TimedOut(f"not checked within {walk.timeout:g} s: {names}")
                for future in done:
                    self._results[pending[future].crash.name] = future.result()
                    self._drop(pending.pop(future))
        finally:
            for future, clone in pending.items():
                future.cancel()
                with suppress(CommandError, MachineEnded):
                    self._drop(clone)

    def _submit(self, crash: CrashState) -> Future[CrashResult]:
        """Hand a state to a worker; what an executor refuses is told by its future."""
        assert self._executor is not None
        try:
            return self._executor.submit(examine, self._walk.check, crash)
        except Exception as exc:
            refused: Future[CrashResult] = Future()
            refused.set_exception(exc)
            return refused

    def _clone(self, state: str) -> _Clone:
        self._exports += 1
        export = f"crash-{self._walk.device}-{self._exports}"
        asked = {"device": self._walk.device, "export": export, "state": state}
        self._run("x-crash-clone", asked)
        uri = uri_of_export(str(self._walk.uri), export)
        return _Clone(CrashState(self._moments, state, uri), export)

    def _drop(self, clone: _Clone) -> None:
        self._run("x-crash-drop", {"export": clone.export})

    def _run(self, command: str, arguments: dict[str, Any]) -> Any:
        return self._session.execute(command, arguments)

    def _beside(self, workload: Callable[[], object], control: str) -> None:
        """Run a workload on a thread, and check states before each of its flushes and at its end.

        Raises what the workload raises.
        """
        rule = self._run("x-fault-add", HANGING | {"node-name": self._walk.device})["id"]
        thread = ThreadPoolExecutor(1, "faultline-workload")
        try:
            future = thread.submit(worked, workload, control, rule)
            self._flushes(rule)
            if not first_done([future], self._walk.timeout):
                raise TimedOut(f"the workload has not ended within {self._walk.timeout:g} s")
            future.result()
        finally:
            with suppress(CommandError, MachineEnded):
                self._run("x-fault-remove", {"id": rule})
            thread.shutdown(wait=False)
        self._moment()

    def _flushes(self, rule: str) -> None:
        """Check the states before each flush, until the rule that keeps them hanging is gone."""
        hits, timeout_ms = 0, round(self._walk.timeout * 1000)
        while True:
            asked = {"id": rule, "hits": hits + 1, "timeout-ms": timeout_ms}
            try:
                reply = self._session.execute(
                    "x-fault-wait", asked, timeout=self._walk.timeout + ANSWER_S
                )
            except CommandError:
                return
            if reply["timed-out"]:
                raise TimedOut(
                    f"the workload has neither flushed nor ended within {self._walk.timeout:g} s"
                )
            if reply["hits"] <= hits:
                return
            hits = reply["hits"]
            self._moment()
            with suppress(CommandError):
                self._run("x-fault-release", {"id": rule})


def worked(workload: Callable[[], object], control: str, rule: str) -> None:
    """Do the work on this thread, and then remove the rule, which tells that it has ended."""
    try:
        workload()
    finally:
        with suppress(FaultlineError), faultline.Machine.connect(control) as machine:
            machine.x_fault_remove(id=rule)


@dataclass(frozen=True)
class _Clone:
    """A state that has an export."""

    crash: CrashState
    export: str


def unknown(device: str, drives: Iterable[str]) -> str:
    """Return what is said of a drive that a machine has not.

    >>> unknown("sytem", ["data", "system"])
    "there is no drive or node 'sytem' (the drives are data, system), did you mean 'system'?"
    """
    names = sorted(drives)
    has = f"the drives are {', '.join(names)}" if names else "it has no drive"
    return f"there is no drive or node '{device}' ({has}){did_you_mean(device, names)}"


class Explorable(Session):
    """A machine whose drives may lose what they have not flushed."""

    @property
    def drives(self) -> Mapping[str, ServedDrive]:
        """The drives, by id, whose URIs are known."""
        raise NotImplementedError

    @property
    def control(self) -> str:
        """The path of the control socket."""
        raise NotImplementedError

    def _uri_of(self, device: str) -> str | None:
        """Return the NBD URI of a drive, None if it is not known; raise if there is no drive."""
        if device in self.drives:
            return self.drives[device].uri
        try:
            self.execute("x-crash-enumerate", {"device": device, "limit": 1})
        except CommandError as exc:
            if not exc.text.startswith("Cannot find device"):
                raise
            drives = [one["device"] for one in self.execute("x-query-drives")]
            raise FaultlineError(unknown(device, self.drives or drives)) from None
        return None

    def explore(
        self,
        device: str,
        check: Checker,
        *,
        workload: Callable[[], object] | None = None,
        executor: Executor | None = None,
        at_once: int = AT_ONCE,
        limit: int = STATES,
        torn: bool | None = None,
        only: str | None = None,
        uri: str | None = None,
        timeout: float | None = None,
    ) -> CrashReport:
        """Check every state in which a crash might leave the medium of a drive.

        The drive has cache.x-volatile=on.  Each state is an export of its own, on which
        `check` works in a worker of `executor`, `at_once` of them at one time: threads
        if not given, or processes, or a cluster's hosts, which import this library and
        reach the machine.  `check` gets a `CrashState`, and raises or returns a text if
        something is wrong.

        With a `workload`, which is called on a thread of its own, states are checked
        before each of its flushes, which waits so long, and at its end; without, at this
        moment.  `limit` is how many states of a moment are checked, a sample if there are
        more; without `torn` also those with a write in part.  `only` is the name of
        a result: that state alone.  `uri` is the drive's NBD URI, for a machine that was
        connected to.  `timeout` is for each check and for each step of the workload.

        >>> disk = Drive(size="1M", id="vda", options={"cache.x-volatile": True})
        >>> with Machine(disk) as m:
        ...     report = m.explore("vda", Check("nbdinfo", "--size", "{uri}"))
        ...     print(report)
        1 state of 1 moment, nothing wrong
        """
        if uri is None:
            uri = self._uri_of(device)
        limited = self.timeout if timeout is None else timeout
        walk = Walk(device, uri, check, at_once, limit, torn, only, limited)
        other = Session(self.timeout)
        other._channel = Channel.open(self.control, self.timeout)
        try:
            return Exploration(other, walk).run(workload, executor, self.control)
        finally:
            other._hang_up()
