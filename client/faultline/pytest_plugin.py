# SPDX-License-Identifier: MIT
"""The pytest plugin: machines as fixtures, a mark that fails each request in turn, and reports.

    def test_backup(faultline_machine, tmp_path): ...

    @pytest.mark.faultline(Drive("disk.qcow2"), rerror="report")
    def test_bad_sector(faultline_machine): ...

    def test_copy(faultline_factory):
        source, target = faultline_factory(), faultline_factory(size="64M")

    @pytest.mark.every_io("write", errno="ENOSPC")
    def test_survives_a_full_disk(faultline_machine): ...

pytest loads it whatever the tests are about, so it imports the library when a
test uses it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from faultline.drives import Drive, Path
    from faultline.every_io import Rounds
    from faultline.pytest_machines import Machines
    from faultline.sync.machine import Machine

__all__ = ["Factory", "faultline_factory", "faultline_machine"]

MACHINES: pytest.StashKey[Machines] = pytest.StashKey()
ROUNDS: pytest.StashKey[Rounds] = pytest.StashKey()

MARKS = (
    "faultline(*drives, **options): what faultline_machine is made of: the arguments of Machine, "
    "and rerror, werror, size, format, read_only, discard of each drive",
    "every_io(iotype, errno=None, node=None, limit=1000, **members): run the test once for "
    "each request of a kind, which fails, or is hit as a member `action` says",
)


class Factory(Protocol):
    """The type of `faultline_factory`: starts a machine, which ends with the test."""

    def __call__(self, *drives: Drive | Path, **options: Any) -> Machine: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for runs that are to be repeated."""
    parser.getgroup("faultline", "machines whose drives fail").addoption(
        "--faultline-seed",
        type=int,
        metavar="N",
        help="seed of the machines' random numbers, which a failing test's report names",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and choose a seed that all workers of pytest-xdist are told."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if config.option.faultline_seed is None:
        config.option.faultline_seed = int.from_bytes(os.urandom(4), "big")


def pytest_unconfigure() -> None:
    """End the machines that wait in store."""
    module = sys.modules.get("faultline.spares")
    if module is not None:
        module.spares.end()


@pytest.fixture
def faultline_factory(request: pytest.FixtureRequest) -> Iterator[Factory]:
    """Start machines, with the arguments of `Machine`; they end with the test, last first."""
    from faultline.pytest_machines import Machines

    item = request.node
    seed = request.config.option.faultline_seed
    machines = item.stash[MACHINES] = Machines(item.nodeid, seed, item.stash.get(ROUNDS, None))
    yield machines.start
    machines.end()


@pytest.fixture
def faultline_machine(request: pytest.FixtureRequest, faultline_factory: Factory) -> Machine:
    """Start a machine with the default drive, or what the mark `faultline` says."""
    mark = request.node.get_closest_marker("faultline")
    return faultline_factory() if mark is None else faultline_factory(*mark.args, **mark.kwargs)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Add the events and logs of a failing test's machines to its report.

    Tracebacks end where the test calls the library; --full-trace shows the rest.
    """
    if call.excinfo is not None:
        for name, module in list(sys.modules.items()):
            if name.startswith("faultline.") and name != "faultline.pytest_rounds":
                setattr(module, "__tracebackhide__", True)  # noqa: B010
    outcome = yield
    machines = item.stash.get(MACHINES, None)
    if machines is None:
        return
    report: pytest.TestReport = outcome.get_result()
    if report.failed:
        report.sections.extend(machines.sections())
    if call.when == "teardown":
        del item.stash[MACHINES]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test with the mark `every_io` once for each request that fails."""
    if item.get_closest_marker("every_io") is None:
        return None
    from faultline.pytest_rounds import run_rounds

    run_rounds(item, nextitem, ROUNDS)
    return True
