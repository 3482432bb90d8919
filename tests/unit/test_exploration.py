# SPDX-License-Identifier: MIT
"""The walk over crash states: which states are checked, by whom, and what is told of them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from faultline import CommandError, FaultlineError, TimedOut
from faultline.exploring import Check, CrashReport, CrashResult, CrashState, examine, wanted
from faultline.sync.exploration import Exploration, Walk
from faultline.sync.session import Session

URI = "nbd+unix:///vda?socket=m.nbd"


class Served(Session):
    """A machine whose drive has these states at its moments, and which knows its exports."""

    def __init__(self, *moments: list[str]) -> None:
        super().__init__(10)
        self.moments = list(moments)
        self.exports: dict[str, str] = {}
        self.most = 0
        self.shown: list[str] = []

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        given = arguments or {}
        if command == "x-crash-enumerate":
            return [{"state": state} for state in self.moments.pop(0)[: given["limit"]]]
        if command == "x-crash-clone":
            assert given["device"] == "vda" and given["export"] not in self.exports
            self.exports[given["export"]] = given["state"]
            self.shown.append(given["state"])
            self.most = max(self.most, len(self.exports))
            return {}
        assert command == "x-crash-drop"
        del self.exports[given["export"]]
        return {}


def explored(
    machine: Served,
    check: Callable[[CrashState], object],
    executor: Any = None,
    **given: Any,
) -> CrashReport:
    options = {"at_once": 2, "limit": 100, "torn": None, "only": None, "timeout": 10.0}
    walk = Walk("vda", URI, check, **(options | given))
    try:
        return Exploration(machine, walk).run(None, executor, "nowhere")
    finally:
        assert machine.exports == {}


def odd(crash: CrashState) -> None:
    """Raise for states that end with an odd digit."""
    assert crash.uri.startswith("nbd+unix:///crash-vda-") and crash.uri.endswith("?socket=m.nbd")
    if int(crash.state[-1]) % 2:
        raise ValueError(f"{crash.state} is odd")


def executors() -> list[Any]:
    spawned = get_context("spawn")
    return [None, ThreadPoolExecutor(1), ProcessPoolExecutor(2, mp_context=spawned)]


@pytest.mark.parametrize("number", [0, 1, 2], ids=["own threads", "a thread", "processes"])
def test_each_state_is_checked_once(number: int) -> None:
    machine = Served([f"1-4:{n}" for n in range(1, 5)])
    executor = executors()[number]
    report = explored(machine, odd, executor)
    if executor is not None:
        executor.shutdown()
    assert [str(result) for result in report.results] == [
        "1/1-4:1: ValueError: 1-4:1 is odd",
        "1/1-4:2: ok",
        "1/1-4:3: ValueError: 1-4:3 is odd",
        "1/1-4:4: ok",
    ]
    assert machine.most == 2 and not report.ok and not report.sampled
    assert str(report).splitlines() == [
        "4 states of 1 moment, 2 of them wrong:",
        "  1/1-4:1: ValueError: 1-4:1 is odd",
        "  1/1-4:3: ValueError: 1-4:3 is odd",
    ]


def test_one_state_alone() -> None:
    machine = Served()
    report = explored(machine, odd, only="1/1-4:3")
    assert [result.name for result in report.failures] == ["1/1-4:3"]
    assert machine.shown == ["1-4:3"]
    assert not explored(Served(), odd, only="2/1-4:3").results


def test_a_sample_is_told() -> None:
    report = explored(Served(["1-1:0", "1-1:2", "1-1:4"]), odd, limit=2)
    assert (report.ok, report.sampled) == (True, [1])
    assert str(report) == "2 states of 1 moment (a sample at 1 moment), nothing wrong"


def test_no_state_is_no_success() -> None:
    assert not CrashReport([], 1).ok


def test_what_a_worker_cannot_do_is_no_finding() -> None:
    """A checker that cannot be pickled is the user's mistake, not the image's."""
    states = ["1-1:0", "1-1:2"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises((pickle.PicklingError, AttributeError)):
            explored(Served(states), lambda crash: None, pool)
    with pytest.raises(RuntimeError, match="shutdown"):
        explored(Served(states), odd, pool)


def test_a_check_that_takes_too_long() -> None:
    machine, over = Served(["1-1:0", "1-1:2"]), threading.Event()
    with pytest.raises(TimedOut, match=r"^not checked within 0.05 s: 1/1-1:0, 1/1-1:2$"):
        explored(machine, lambda crash: over.wait(), timeout=0.05)
    over.set()


def test_an_export_that_cannot_be_had() -> None:
    class Full(Served):
        def execute(self, command: str, *more: Any, **options: Any) -> Any:
            if command == "x-crash-clone" and self.exports:
                raise CommandError(command, {"class": "GenericError", "desc": "no room"})
            return super().execute(command, *more, **options)

    with pytest.raises(CommandError, match="no room"):
        explored(Full(["1-1:0", "1-1:2"]), odd)


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (lambda crash: None, None),
        (lambda crash: True, None),
        (lambda crash: "no superblock", "no superblock"),
        (lambda crash: {"a": 1}["x"], "KeyError: 'x'"),
        (Check("sh", "-c", "exit 0"), None),
        (Check("sh", "-c", "exit 3", ok=(0, 3)), None),
        (Check("sh", "-c", "echo {uri}; exit 4"), f"sh has ended with status 4: {URI}"),
        (Check("no-such-command"), "FileNotFoundError: "),
        (Check("sleep", "9", timeout=0.01), "TimeoutExpired: "),
        (Check("cat", "{file}"), "OSError: nbd+unix:///vda?socket=m.nbd cannot be copied: "),
    ],
)  # fmt: skip
def test_what_a_checker_says(check: Any, wrong: str | None) -> None:
    found = examine(check, CrashState(1, "1-1:none", URI)).wrong
    assert found == wrong if wrong is None else str(found).startswith(wrong)


def test_checks_can_be_pickled() -> None:
    check = Check("e2fsck", "-fn", "{file}", ok=(0, 1))
    assert pickle.loads(pickle.dumps(check)) == check
    crash = CrashState(1, "1-1:none", URI)
    assert pickle.loads(pickle.dumps(crash)) == crash


@pytest.mark.parametrize("only", ["", "1", "x/none", "1/", "/none", "-1/none"])
def test_names_that_are_none(only: str) -> None:
    with pytest.raises(ValueError, match="is no MOMENT/STATE"):
        wanted(only)


def test_a_drive_whose_uri_is_not_known() -> None:
    with pytest.raises(FaultlineError, match="the NBD URI of vdb is not known: add uri="):
        Walk("vdb", None, odd, 1, 1, None, None, 1.0)


def test_a_copy_is_the_checkers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nbdcopy fills it; what a command does to it is lost."""
    tool = tmp_path / "nbdcopy"
    tool.write_text('#!/bin/sh\necho "$1" >"$2"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = Check("sh", "-c", 'echo more >>"$0"; cat "$0"; echo "$0" | grep -v tmp', "{file}")
    wrong = examine(check, CrashState(1, "1-1:none", URI)).wrong
    assert str(wrong).splitlines() == [f"sh has ended with status 1: {URI}", "more"]


def test_what_pytest_shows_of_a_report_begins_with_what_is_wrong() -> None:
    """However many states there are, and however much a checker says."""
    fine = [CrashResult(f"1/1-{n}:none", None) for n in range(200)]
    wrong = [CrashResult(f"2/1-{n}:all", "no\njournal " * 40) for n in range(100)]
    shown = repr(CrashReport([*fine, *wrong, *fine], 2))
    assert shown.startswith("<CrashReport 100 of 500 states wrong: 2/1-0:all: no journal no")
    assert shown.endswith(" more>") and "\n" not in shown
    assert len(shown) < 240
    assert repr(CrashReport(fine[:2], 1)) == "<CrashReport 2 states of 1 moment, nothing wrong>"
    nothing = CrashReport([], 3)
    assert not nothing.ok and str(nothing) == "no state was looked at in 3 moments"
