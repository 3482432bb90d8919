# SPDX-License-Identifier: MIT
"""The pytest plugin, in runs of pytest on modules as users write them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from runs import Place, place

HEAD = """
import os, subprocess, pytest
from faultline import Drive, Machine, MachineEnded

def write(machine, *offsets, drive="vda"):
    words = [word for at in offsets for word in ("-c", f"write {at} 4k")]
    uri = machine.drives[drive].uri
    done = subprocess.run(["qemu-io", "-f", "raw", *words, uri], capture_output=True, text=True)
    return "failed" not in done.stdout + done.stderr
"""


@pytest.fixture(name="here")
def _here() -> Iterator[Place]:
    with place() as made:
        yield made
        made.await_the_end_of_all()
        assert not made.left()


def sections(printed: str) -> list[str]:
    """The headings of the plugin's sections in a report."""
    return re.findall(r"^-+ (faultline.*?) -+$", printed, re.MULTILINE)


FIXTURES = """
def test_default(faultline_machine):
    assert list(faultline_machine.drives) == ["vda"]
    assert faultline_machine.query_block()[0]["inserted"]["image"]["virtual-size"] == 1 << 30

@pytest.mark.faultline(Drive(size="1M", id="a"), Drive(size="2M"), rerror="report", name="one")
def test_mark(faultline_machine):
    assert list(faultline_machine.drives) == ["a", "vdb"]
    assert faultline_machine.query_name() == {"name": "one"}
    with faultline_machine.fault("a", iotype="read", errno="EIO"):
        subprocess.run(["qemu-img", "convert", faultline_machine.uri, "copy.img"])
    assert not faultline_machine.wait_event("BLOCK_IO_ERROR", action="report")["nospace"]

class TestMany:
    started = []

    def test_start(self, faultline_factory):
        first, second = faultline_factory(size="2M"), faultline_factory()
        assert first.query_block()[0]["inserted"]["image"]["virtual-size"] == 2 << 20
        self.started += [first, second]

    def test_end(self):
        first, second = self.started
        assert first.status == second.status == 0
        shutdowns = [m.log[-1]["timestamp"] for m in (second, first)]
        assert shutdowns == sorted(shutdowns)

def test_kill(faultline_machine):
    faultline_machine.kill()
    directory = os.path.dirname(faultline_machine.control)
    assert "vda.img" in os.listdir(directory)
    faultline_machine.close()
    assert not os.path.exists(directory)

def test_quit(faultline_machine):
    faultline_machine.quit()
"""


def test_fixtures(here: Place) -> None:
    printed = here.run(HEAD + FIXTURES, "-q", "--strict-markers")
    assert "6 passed" in printed, printed


REPORTS = """
def test_call(faultline_machine):
    faultline_machine.stop()
    assert faultline_machine.wait_event("STOP", timeout=60) == 0

@pytest.fixture
def wrong(faultline_factory):
    faultline_factory(name="one")
    faultline_factory()
    raise LookupError("in a fixture")

def test_setup(wrong): ...

def test_crash(faultline_machine):
    os.kill(faultline_machine.pid, 11)

def test_crash_that_is_told(faultline_machine):
    os.kill(faultline_machine.pid, 9)
    faultline_machine.cont()

def test_no_start(faultline_factory):
    faultline_factory("no.img")

def test_passes(faultline_machine):
    faultline_machine.stop()
"""


def test_reports_tell_what_machines_did(here: Place) -> None:
    printed = here.run(HEAD + REPORTS, "-q", "--faultline-seed=7")
    assert "3 failed, 2 passed, 2 errors" in printed.splitlines()[-1], printed
    assert sections(printed) == [
        *("faultline log: one", "faultline log: machine 2", "faultline"),
        *("faultline log: machine 1", "faultline"),
        *("faultline events: machine 1", "faultline log: machine 1", "faultline"),
        *("faultline log: machine 1", "faultline"),
    ]
    assert re.search(r"^ +\d+\.\d+ STOP$", printed, re.MULTILINE)
    assert re.search(r"^ +\d+\.\d+ info +STOP$", printed, re.MULTILINE)
    assert "machine 1: the machine has ended with status -11; its log ends with:" in printed
    assert "Fatal Python error: Segmentation fault" in printed
    assert "the machine has ended with status -9" in printed
    assert "for the same random numbers: --faultline-seed=7" in printed
    assert "site-packages/faultline" not in printed and "faultline/sync" not in printed
    assert "StartFailed: drive=file=no.img,id=vda: Could not open 'no.img'" in printed


EVERY_IO = """
SEEN = []

@pytest.fixture(scope="module")
def shared():
    yield SEEN
    print("torn", "down")
    raise LookupError("in a module's fixture")

class TestIt:
    @pytest.mark.faultline(Drive(size="1M"), werror="report")
    @pytest.mark.every_io("write", errno="ENOSPC")
    def test_passes(self, faultline_machine, tmp_path, shared):
        assert not vars(self)
        self.used = True
        (tmp_path / "fresh").touch(exist_ok=False)
        shared.append([write(faultline_machine, at) for at in (0, "4k")])

def test_passed_before(shared):
    assert SEEN == [[False, True], [True, False], [True, True]]

@pytest.mark.every_io(action="torn", sectors=1, errno=0)
@pytest.mark.faultline(Drive(size="1M"), werror="report")
def test_is_torn(faultline_machine):
    assert write(faultline_machine, 0) and write(faultline_machine, "4k")
    (rule,) = faultline_machine.x_query_faults()
    assert not (rule["hits"] and rule["after"])

@pytest.mark.every_io("write")
@pytest.mark.faultline(Drive(size="1M"), werror="report")
def test_fails(faultline_machine, shared):
    print("writing")
    assert write(faultline_machine, 0) or True
    assert write(faultline_machine, "4k")
"""


def test_every_io(here: Place) -> None:
    printed = here.run(HEAD + EVERY_IO, "-q", "-rfE")
    assert "2 failed, 2 passed, 1 error" in printed.splitlines()[-1], printed
    assert "FAILED test_it.py::test_is_torn - with the 2nd request torn: " in printed
    assert "FAILED test_it.py::test_fails - with the 2nd write failing: " in printed
    assert "ERROR test_it.py::test_fails - LookupError: in a module's fixture" in printed
    assert printed.count("torn down\n") == 1
    assert printed.count("writing\n") == 2  # in that round, for the failure and for the error
    assert sections(printed)[-1] == "faultline every_io"


EVERY_IO_IN_VAIN = """
@pytest.mark.every_io("read")
def test_nothing(faultline_machine): ...

@pytest.mark.every_io("write", node="vdx")
def test_no_node(faultline_machine): ...

@pytest.mark.every_io("write")
def test_no_machine(): ...

@pytest.mark.every_io("wriet")
def test_no_type(faultline_machine): ...

@pytest.mark.every_io("write", count=1)
def test_no_member(faultline_machine): ...

@pytest.mark.every_io()
def test_no_argument(faultline_machine): ...

@pytest.mark.every_io("write")
def test_skips(faultline_machine):
    pytest.skip("for a reason")
"""


def test_every_io_in_vain(here: Place) -> None:
    printed = here.run(HEAD + EVERY_IO_IN_VAIN, "-q", "-rfEs")
    assert "3 failed, 1 skipped, 3 errors" in printed.splitlines()[-1], printed
    told = [line for line in printed.splitlines() if re.match("FAILED|ERROR |SKIPPED", line)]
    assert told == [
        "FAILED test_it.py::test_nothing - Failed: no read was made: "
        "every_io needs a test that makes one",
        "FAILED test_it.py::test_no_node - Failed: no write was made: "
        "no machine has a drive or node vdx",
        "FAILED test_it.py::test_no_machine - Failed: no write was made: "
        "the test has no machine from faultline_machine or faultline_factory",
        "ERROR test_it.py::test_no_type - faultline.errors.CommandError: x-fault-add: "
        "Parameter 'iotype' does not accept value 'wriet'",
        "ERROR test_it.py::test_no_member - Failed: every_io takes no count: "
        "it sets the rules' counts itself",
        "ERROR test_it.py::test_no_argument - Failed: every_io needs a kind of request, such as "
        "'write', or an action",
        f"SKIPPED [1] test_it.py:{len((HEAD + EVERY_IO_IN_VAIN).splitlines())}: for a reason",
    ]


ENDS = """
@pytest.mark.faultline(Drive(size="1M"), werror="report")
@pytest.mark.every_io("write")
@pytest.mark.parametrize("end", ["close", "quit", "kill", "crash"])
def test_ends(faultline_machine, end):
    write(faultline_machine, 0)
    if end == "crash":
        os.kill(faultline_machine.pid, 9)
        with pytest.raises(MachineEnded):
            faultline_machine.close()
    else:
        getattr(faultline_machine, end)()
"""


def test_every_io_with_machines_that_end(here: Place) -> None:
    printed = here.run(HEAD + ENDS, "-q", "-rfEs")
    assert "1 failed, 3 passed" in printed.splitlines()[-1], printed
    assert (
        "Failed: machine 1 ended before it could be asked for the requests that it has seen "
        "(with the 1st write failing): end it with close(), quit() or kill()" in printed
    )


IDLE = """
import sys

def test_it():
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("faultline", "blockcore")]
    assert loaded == ["faultline", "faultline.pytest_plugin"]
"""


def test_it_loads_nothing_for_tests_without_machines(here: Place) -> None:
    printed = here.run(IDLE, "-q", "-p", "no:xdist")
    assert "1 passed" in printed, printed


SEEDS = """
@pytest.mark.parametrize("number", range(2))
def test_it(faultline_factory, number):
    with open(f"seed{number}-{os.environ.get('PYTEST_XDIST_WORKER_COUNT')}", "w") as file:
        file.write(f"{faultline_factory().seed} {faultline_factory().seed}")
"""


def test_random_numbers_are_those_of_a_run_before(here: Place) -> None:
    here.run(HEAD + SEEDS, "-q", "--faultline-seed=7")
    here.run(HEAD + SEEDS, "-q", "-n", "2", "--faultline-seed=7")
    alone = [(here.tests / f"seed{number}-None").read_text() for number in range(2)]
    assert alone == [(here.tests / f"seed{number}-2").read_text() for number in range(2)]
    assert len({seed for text in alone for seed in text.split()}) == 4
    here.run(HEAD + SEEDS, "-q", "-n", "2", "-k", "0")
    assert (here.tests / "seed0-2").read_text() != alone[0]
