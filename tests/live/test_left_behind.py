# SPDX-License-Identifier: MIT
"""However a test, or pytest itself, ends: no process, socket or file of a machine is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import faultline.sync.start
from faultline import Machine
from faultline.process import Process
from runs import RUN_S, Place, place

HEAD = """
import os, signal, subprocess, sys, threading
import pytest
from faultline import Machine, MachineEnded

clients = []

def tell(text):
    # Opening waits for who reads.  A test that pytest runs again has nobody to tell.
    with os.fdopen(os.open("told", os.O_WRONLY), "w") as told:
        os.unlink("told")
        told.write(text)
"""

DEATHS = {
    "os._exit": "os._exit(3)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exec": "os.execvp('true', ['true'])",
    "interrupt": "raise KeyboardInterrupt",
    "pytest.exit": "pytest.exit('enough')",
}
"""What ends a run in the middle of a test."""

MISDEEDS = """
def test_sys_exit(faultline_machine):
    sys.exit()

def test_not_closed():
    Machine().start()

def test_closed_twice(faultline_machine):
    faultline_machine.close()

def test_quit(faultline_machine):
    faultline_machine.quit()

def test_fork_that_closes(faultline_machine):
    if os.fork() == 0:
        faultline_machine.close()
        os._exit(0)
    assert os.wait()[1] == 0
    faultline_machine.stop()
    faultline_machine.wait_event("STOP", timeout=60)

def test_fork_that_goes_on(faultline_machine):
    lasts, ends = os.pipe()
    if os.fork() == 0:
        os.close(ends)
        os.read(lasts, 1)
        os._exit(0)
    os.close(lasts)
    faultline_machine.close()
    assert faultline_machine.status == 0
    os.close(ends)
    os.wait()

def test_fork_with_machines_of_its_own(faultline_machine):
    if os.fork() == 0:
        with Machine() as m:
            m.stop()
        Machine().start()
        os._exit(0)
    assert os.wait()[1] == 0
    faultline_machine.stop()

def test_thread(faultline_machine):
    def wait():
        with pytest.raises(MachineEnded):
            faultline_machine.wait_event("STOP")

    threading.Thread(target=wait).start()

@pytest.mark.faultline(rerror="stop")
def test_client(faultline_machine):
    faultline_machine.x_fault_add(node_name="vda", iotype="read")
    read = ["qemu-io", "-f", "raw", "-c", "read 0 512", faultline_machine.uri]
    clients.append(subprocess.Popen(read))
    faultline_machine.wait_event("STOP", timeout=60)

def test_client_has_ended():
    clients.pop().wait(60)

@pytest.fixture
def wrong(faultline_machine):
    raise LookupError

def test_fixture(wrong): ...
"""


@pytest.fixture(name="here")
def _here() -> Iterator[Place]:
    with place() as made:
        yield made


def nothing_is_left(here: Place) -> None:
    here.await_the_end_of_all()
    assert not here.left()


@pytest.mark.parametrize("end", DEATHS)
def test_however_a_test_dies(end: str, here: Place) -> None:
    print(here.run(f"{HEAD}\ndef test_it(faultline_machine):\n    {DEATHS[end]}\n", "-q"))
    nothing_is_left(here)


def test_whatever_a_test_does(here: Place) -> None:
    printed = here.run(HEAD + MISDEEDS, "-q", "-rfE", "-W", "ignore")
    assert "1 failed, 9 passed, 1 error" in printed.splitlines()[-1], printed
    assert "FAILED test_it.py::test_sys_exit - SystemExit" in printed
    assert "ERROR test_it.py::test_fixture - LookupError" in printed
    nothing_is_left(here)


STARTING = """
import faultline.process
popen = subprocess.Popen

def start_and_die(command, **options):
    started = popen(command, **options)
    if ("--standby" in command) == STANDBY:
        os.kill(os.getpid(), signal.SIGKILL)
    return started

faultline.process.subprocess.Popen = start_and_die

def test_it(faultline_machine): ...
"""


@pytest.mark.parametrize("standby", [False, True], ids=["machine", "spare"])
def test_killed_before_a_machine_has_looked_at_its_parent(standby: bool, here: Place) -> None:
    run = here.start(f"{HEAD}\nSTANDBY = {standby}\n{STARTING}", "-q")
    print(run.communicate(timeout=RUN_S)[0])
    assert run.returncode == -signal.SIGKILL
    nothing_is_left(here)


def test_a_machine_that_somebody_else_has_started_does_not_start(here: Place) -> None:
    """It is a child of whoever gets orphans, by the time at which it looks at its parent."""
    done = subprocess.run(
        [sys.executable, "-m", "faultline", "serve", "--exit-with-parent"],
        env=here.environ() | {"FAULTLINE_STARTED_BY": str(os.getppid())},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "faultline: the parent process has ended already\n"
    nothing_is_left(here)


def test_an_interrupted_start(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the latest moment: the machine has everything that there is to be left."""
    ready = faultline.sync.start._ready

    def interrupted(process: Process, timeout: float) -> Any:
        ready(process, timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(faultline.sync.start, "_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Machine(environ=here.environ()).start()
    assert not here.left()


WAITS = """
def test_it(faultline_machine, faultline_factory):
    faultline_factory()
    tell(f"{os.getpid()}")
    faultline_machine.wait_event("STOP")

def test_other(faultline_factory):
    for _ in range(3):
        faultline_factory().close()
"""


SIGNALS = [
    (signal.SIGINT, "pytest", ()),
    (signal.SIGTERM, "pytest", ()),
    (signal.SIGKILL, "pytest", ()),
    (signal.SIGINT, "pytest", ("-n", "2")),
    (signal.SIGKILL, "pytest", ("-n", "2")),
    (signal.SIGKILL, "worker", ("-n", "2", "--dist", "loadscope")),
]


@pytest.mark.parametrize(("number", "who", "arguments"), SIGNALS, ids=str)
def test_signals(number: signal.Signals, who: str, arguments: tuple[str], here: Place) -> None:
    os.mkfifo(here.tests / "told")
    run = here.start(HEAD + WAITS, "-q", *arguments)
    with open(here.tests / "told") as told:
        worker = int(told.read())
    os.kill(run.pid if who == "pytest" else worker, number)
    print(run.communicate(timeout=RUN_S)[0])
    nothing_is_left(here)


def test_a_process_group_is_killed(here: Place) -> None:
    """As runners of tests do, which give nobody the time to end in order."""
    os.mkfifo(here.tests / "told")
    run = here.start(HEAD + WAITS, "-q", "-n", "2")
    with open(here.tests / "told") as told:
        told.read()
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=RUN_S)
    nothing_is_left(here)
