# SPDX-License-Identifier: MIT
"""The runs of one test, a round for each request that fails, as one test in pytest's report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import pytest
from _pytest.runner import runtestprotocol

from faultline.every_io import EveryIo, Rounds


def run_rounds(
    item: pytest.Item, nextitem: pytest.Item | None, key: pytest.StashKey[Rounds]
) -> None:
    """Run a test until no request of it fails, or a round does not pass, and report it once.

    Each round has fixtures of its own, but for those of a class, a module or the
    session.  `key` is where fixtures find the rounds.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        reports = _all_rounds(item, nextitem, key)
    finally:
        if key in item.stash:
            del item.stash[key]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _all_rounds(
    item: pytest.Item, nextitem: pytest.Item | None, key: pytest.StashKey[Rounds]
) -> list[pytest.TestReport]:
    """Run all rounds, and return the reports of the last one."""
    rounds, wrong = _rounds(item)
    if rounds is None:
        return [_failed(item, "setup", wrong), *_torn_down(item, nextitem)]
    item.stash[key] = rounds
    before = 0.0
    while True:
        # The test's parent stands for the next test, so that what both share stays set up.
        between = cast(pytest.Item, item.parent)
        reports = runtestprotocol(item, log=False, nextitem=between)
        if any(report.outcome != "passed" for report in reports):
            told = rounds.failing()
            break
        over, wrong = _over(rounds)
        if over:
            told = f"{rounds.number} rounds, all but the last with a request failing"
            break
        before += sum(report.duration for report in reports)
        _renew(item)
    if wrong:
        reports[-2] = _failed(item, "call", wrong)
    else:
        for report in reports:
            _tell(report, told)
    reports[-2].duration += before
    return [*reports, *_torn_down(item, nextitem)]


def _rounds(item: pytest.Item) -> tuple[Rounds | None, str]:
    """Return the rounds that the test's marks ask for, or what is wrong with the marks."""
    try:
        marks = item.iter_markers("every_io")
        return Rounds([EveryIo.of(*mark.args, **mark.kwargs) for mark in marks]), ""
    except TypeError as exc:
        return None, str(exc).replace("EveryIo.of()", "every_io")


def _over(rounds: Rounds) -> tuple[bool, str]:
    """End a round; return whether it was the last, and why the rounds cannot go on, if so."""
    try:
        return rounds.over(), ""
    except ValueError as exc:
        return True, str(exc)


def _renew(item: pytest.Item) -> None:
    """Drop what a round has left in the test's item: its output, and the instance of its class."""
    item._report_sections.clear()
    if isinstance(item.parent, pytest.Class):
        for name in ("_obj", "_instance"):
            vars(item).pop(name, None)


def _tell(report: pytest.TestReport, text: str) -> None:
    """Say in a report, and where its failure is summed up, which request has failed."""
    if not text:
        return
    report.sections.append(("faultline every_io", text))
    crash = getattr(report.longrepr, "reprcrash", None)
    if report.failed and crash is not None:
        crash.message = f"{text}: {crash.message}"


def _failed(item: pytest.Item, when: Any, text: str) -> pytest.TestReport:
    """Return the report of a test that cannot go on, with one line that says why."""

    def fail() -> None:
        pytest.fail(text, pytrace=False)

    return _report(item, pytest.CallInfo.from_call(fail, when))


def _torn_down(item: pytest.Item, nextitem: pytest.Item | None) -> Sequence[pytest.TestReport]:
    """Tear down what the next test does not share with this one; returns what went wrong."""
    state = item.session._setupstate
    capture = item.config.pluginmanager.get_plugin("capturemanager")
    with contextlib.nullcontext() if capture is None else capture.item_capture("teardown", item):
        done = pytest.CallInfo.from_call(lambda: state.teardown_exact(nextitem), "teardown")
    report = _report(item, done)
    return [report] if report.failed else []


def _report(item: pytest.Item, done: pytest.CallInfo[Any]) -> pytest.TestReport:
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=done)
    return report
