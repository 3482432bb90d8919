# SPDX-License-Identifier: MIT
"""A plugin for pytest that tells how long tests took, and how much of it their machines.

A machine's part is its start, until it serves, and its end, until its process is gone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faultline import Machine

spent_s = 0.0
looked_s = 0.0
spent_of: pytest.StashKey[float] = pytest.StashKey()


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        global spent_s
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent_s += time.perf_counter() - began

    return wrapper


@pytest.fixture(scope="session", autouse=True)
def _timed_machines() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "start", timed(Machine.start))
        patch.setattr(Machine, "close", timed(Machine.close))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Put the time of the test's machines so far on the report, which xdist brings to the summary.

    A test with the mark every_io has phases without a report.
    """
    global looked_s
    report = yield
    item.stash[spent_of] = item.stash.get(spent_of, 0.0) + spent_s - looked_s
    looked_s = spent_s
    report.user_properties.append(("machines_s", item.stash[spent_of]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total: dict[str, float] = {}
    machines: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            spent = dict(getattr(report, "user_properties", ())).get("machines_s")
            if spent is not None:
                total[report.nodeid] = total.get(report.nodeid, 0.0) + report.duration
                machines[report.nodeid] = max(machines.get(report.nodeid, 0.0), spent)
    if not total:
        return
    terminalreporter.section("milliseconds: test, of which machines")
    for test, took in sorted(total.items(), key=lambda pair: -pair[1]):
        part = machines[test]
        terminalreporter.line(f"{took * 1000:7.0f} {part * 1000:6.0f}  {test.split('::')[-1]}")
    tests_s, machines_s = sum(total.values()), sum(machines.values())
    terminalreporter.line(f"{tests_s * 1000:7.0f} {machines_s * 1000:6.0f}  all {len(total)}")
