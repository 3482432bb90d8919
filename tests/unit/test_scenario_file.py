# SPDX-License-Identifier: MIT
"""Scenario files: what is read of them, and how mistakes are told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from faultline.events import Event, Pattern
from faultline.scenario import shipped, steps
from faultline.scenario.matching import Like, difference
from faultline.scenario.reading import read
from faultline.scenario.steps import Scenario, Step
from faultline.scenario.values import ScenarioError


def step(text: str) -> Step:
    (found,) = read(f"steps:\n- {text}\n", "a.yaml").steps
    return found


def pattern(step: Step) -> Pattern:
    assert isinstance(step, steps.Wait)
    (found,) = step.patterns
    return found


def test_a_file_with_everything() -> None:
    scenario = read(
        """
        about: all
          of it
        set: {size: 16M, times: 2}
        files: {target: 1M}
        drives:
          - {id: vda, size: "${size}"}
          - id=vdb,size=1M
        blockdevs:
          - {driver: file, node-name: t, filename: "${target}", x-physical-size: 4k}
        seed: 5
        faults: [{node-name: vda, errno: EIO, offset: 64k}]
        timeout: 2s
        never: [{event: RESUME, more-than: 3}, STOP]
        allow: STOP
        ends: any
        linger: 200ms
        before: [stop]
        steps:
          - repeat: ${times}
            steps: [{wait: STOP}]
        at-end:
          - expect: {command: query-status, returns: {running: true}}
        """,
        "dir/a.yaml",
        {"size": "32M"},
        "/private",
    )
    assert (scenario.name, scenario.file, scenario.about) == ("a", "dir/a.yaml", "all of it")
    assert scenario.variables == {"size": "32M", "times": "2"}
    assert scenario.files == {"target": 1 << 20}
    assert scenario.machine == {
        "drives": [{"id": "vda", "size": "32M"}, "id=vdb,size=1M"],
        "blockdevs": [
            {
                "driver": "file",
                "node-name": "t",
                "filename": "/private/target",
                "x-physical-size": 4096,
            }
        ],
        "seed": 5,
    }
    assert (scenario.lines["drives[1]"], scenario.lines["faults[0]"]) == (8, 12)
    assert scenario.faults == ({"node-name": "vda", "errno": "EIO", "offset": 65536},)
    assert [(never.pattern.name, never.more_than) for never in scenario.never] == [
        ("RESUME", 3),
        ("STOP", 0),
    ]
    assert scenario.allow == (Pattern("STOP"),)
    assert (scenario.ends, scenario.linger_s) == (None, 0.2)
    (repeat,) = scenario.steps
    assert isinstance(repeat, steps.Repeat) and repeat.times == 2
    assert isinstance(repeat.steps[0], steps.Wait) and repeat.steps[0].within_s == 2
    assert [type(one) for one in (*scenario.before, *scenario.at_end)] == [
        steps.Command,
        steps.Expect,
    ]


def test_what_is_not_said() -> None:
    scenario = read("steps: []", "a.yaml")
    assert scenario == Scenario(name="a", file="a.yaml", steps=())


COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "cont": ("cont", {}),
    "cont:": ("cont", {}),
    "qmp: cont": ("cont", {}),
    "qmp: {execute: query_status}": ("query-status", {}),
    "qmp: {execute: block_resize, arguments: {device: vda, size: 1.5G}}": (
        "block_resize",
        {"device": "vda", "size": 3 << 29},
    ),
    "block-resize: {device: 1, size: 8}": ("block_resize", {"device": "1", "size": 8}),
    "x-volume-extend: {node-name: vda, add: 4M}": (
        "x-volume-extend",
        {"node-name": "vda", "add": 4 << 20},
    ),
    "blockdev-add: {driver: raw, node-name: r, read-only: on, size: 1M, file: f}": (
        "blockdev-add",
        {"driver": "raw", "node-name": "r", "read-only": True, "size": 1 << 20, "file": "f"},
    ),
    "fault: {node-name: vda, iotype: [read, write], errno: 5, rate: 0.5}": (
        "x-fault-add",
        {"node-name": "vda", "iotype": ["read", "write"], "errno": 5, "rate": 0.5},
    ),
    "release: f": ("x-fault-release", {"id": "f"}),
    "remove: 7": ("x-fault-remove", {"id": "7"}),
    "x-drive-set-policy: {device: vda, rerror: report}": (
        "x-drive-set-policy",
        {"device": "vda", "rerror": "report"},
    ),
}


@pytest.mark.parametrize("text", COMMANDS)
def test_commands(text: str) -> None:
    found = step(text)
    assert isinstance(found, steps.Command)
    assert (found.command, dict(found.arguments)) == COMMANDS[text]


def test_waits() -> None:
    found = step("wait: {event: BLOCK_IO_ERROR, device: vda, nospace: no}")
    error = {"device": "vda", "nospace": False, "reason": "x"}
    assert pattern(found).fits(Event("BLOCK_IO_ERROR", error))
    assert not pattern(found).fits(Event("BLOCK_IO_ERROR", {**error, "nospace": True}))
    assert str(pattern(found)) == "BLOCK_IO_ERROR device=vda nospace=false"
    assert found.text == "wait: {event: BLOCK_IO_ERROR, device: vda, nospace: false}"
    several = step("{wait-any: [STOP, RESUME], within: 1m, after: 250ms, note: it moves}")
    assert isinstance(several, steps.Wait) and several.any
    assert (several.within_s, several.after_s) == (60.0, 0.25)
    assert several.text.startswith("it moves (wait-any: [STOP, RESUME]")


def test_a_pause() -> None:
    found = step("after: 1.5s")
    assert isinstance(found, steps.Pause) and found.after_s == 1.5


def test_variables_are_read_as_what_they_are_replaced_by() -> None:
    text = "set: {n: 1, d: '5'}\nsteps:\n- run: echo $${HOME} ${d}\n- done: echo\n  status: ${n}"
    run, done = read(text, "a.yaml", {"n": "3"}).steps
    assert isinstance(run, steps.Run) and run.shell == "echo ${HOME} 5"
    assert isinstance(done, steps.Done) and done.status == 3


RIGHT = """set: {size: 16M}
steps:
- wait: {event: BLOCK_IO_ERROR, device: vda, action: stop}
  within: 500ms
- fault: {id: f, node-name: vda, errno: EIO, offset: 4M}
- job: {id: j, until: failed, error: full}
- expect: {command: query-status, returns: {running: {one-of: [false]}}}
- run: sleep 1
  name: guest
- done: guest
"""

WRONG = [
    ("steps", "step", "line 2: step: there is no such member, did you mean 'steps'?"),
    ("wait", "wiat", "line 3: steps[0].wiat: there is no step 'wiat', did you mean 'wait'?"),
    ("event: ", "events: ", "line 3: steps[0].wait: it has no 'event'"),
    ("IO_ERROR", "IO_EROR", "there is no event 'BLOCK_IO_EROR', did you mean 'BLOCK_IO_ERROR'?"),
    ("BLOCK_IO_ERROR", "block-io-error", "did you mean 'BLOCK_IO_ERROR'?"),
    ("device", "devcie", "has no member 'devcie', did you mean 'device'?"),
    ("action: stop", "action: stopp", "'stopp' is no such value, did you mean 'stop'?"),
    ("within", "wihtin", "wait has no 'wihtin' beside it, did you mean 'within'?"),
    ("500ms", "5 hours", "line 4: steps[0].within: '5 hours' is no time, such as 200ms"),
    ("fault", "cnot: x\n- fault", "there is no step 'cnot', did you mean 'cont'?"),
    ("- fault", "- stop\n  cont\n- fault", "there is no step 'stop cont'"),
    ("- fault", "- {stop: , cont: }\n- fault", "it is two steps, stop and cont"),
    ("- fault", "- stop: {force: true}\n- fault", "stop has no argument 'force'"),
    ("node-name", "node", "x-fault-add has no argument 'node', did you mean 'node-name'?"),
    ("node-name: vda, ", "", "line 5: steps[1].fault: x-fault-add needs 'node-name'"),
    ("EIO", "ENOSPACE", "there is no errno 'ENOSPACE', did you mean 'ENOSPC'?"),
    ("4M", "4X", "steps[1].fault.offset: '4X' is not a size"),
    ("4M", "[4M]", "steps[1].fault.offset: it is a number, such as 512 or 64k"),
    ("failed", "fialed", "no job is awaited until 'fialed', did you mean 'failed'?"),
    ("failed", "ready", "only a job awaited until 'failed' has an error"),
    ("id: j, ", "", "job needs 'id'"),
    ("query-status", "query-statsu", "there is no command 'query-statsu', did you mean 'query-s"),
    ("returns", "return", "expect has no member 'return', did you mean 'returns'?"),
    ("[false]", "false", "returns.running.one-of: it is a list of values"),
    ("name: guest", "names: guest", "run has no 'names' beside it, did you mean 'name'?"),
    ("done: guest", "done: guets", "no step before runs 'guets', did you mean 'guest'?"),
    ("done: guest\n", "done: guest\n  status: x\n", "status: 'x' is no number of 0 or more"),
    ("vda, action", "${sise}, action", "line 3: "),
    ("device: vda, action", "device: '${sise}', action", "variable 'sise', did you mean 'size'?"),
    ("set: {size: 16M}", "set: {size: 16M, size: 1}", "line 1: set.size: it is given twice"),
    ("set:", "ends: pasued\nset:", "there is no run state 'pasued', did you mean 'paused'?"),
    ("set:", "files: {a/b: 1M}\nset:", "files.a/b: this can be no name of a file"),
    ("set:", "blockdevs: [{driver: raw, nodename: x}]\nset:", "there is no member 'nodename'"),
    ("set:", "never: [{event: STOP, more-than: -1}]\nset:", "'-1' is no number of 0 or more"),
    ("set:", "about: !!python/name:os.system\nset:", "have no meaning here"),
    ("set:", "about: &a [*a]\nset:", "it contains itself"),
    ("set:", "about: {a: 1\nset:", "line 2: expected ',' or '}'"),
    ("set:", "allow: |\n  STOP\n  RESUME\nset:", "line 1: allow: there is no event 'STOP RESUME"),
    ("set:", "\tset:", "line 1: found character '\\t' that cannot start any token"),
]


@pytest.mark.parametrize(("old", "new", "text"), WRONG, ids=[f"{b}" for _, b, _ in WRONG])
def test_mistakes_are_told_with_their_place(old: str, new: str, text: str) -> None:
    assert read(RIGHT, "a.yaml").steps
    with pytest.raises(ScenarioError) as error:
        read(RIGHT.replace(old, new, 1), "a.yaml")
    message = str(error.value)
    assert text in message
    assert message.startswith("a.yaml: line ") and "\n" not in message


WRONG_ANSWERS = {
    "query-status, returns: {runing: no}": ".runing: the answer has no member 'runing', did you me",
    "query-status, returns: {status: flying}": ".status: it is never 'flying': it is io-error, ",
    "query-status, returns: {status: {not: pasued}}": "'pasued', did you mean 'paused'?",
    "query-status, returns: {status: {one-of: [paused, x]}}": "one-of[1]: it is never 'x'",
    "query-status, returns: {running: {is: no}}": ".running: the answer has no mapping there",
    "query-block, returns: {device: vda}": "returns: the answer has no mapping there",
    "query-block, returns: [{io-status: full}]": "[0].io-status: it is never 'full'",
    "query-block, returns: [{inserted: [1]}]": "[0].inserted: the answer has no list there",
    "query-block, returns: [{inserted: vda}]": "[0].inserted: the answer has a mapping there",
    "query-block, returns: vda": "returns: the answer has a list there",
    "query-block, returns: [{inserted: {image: {fomat: raw}}}]": ".fomat: the answer has no member",
}
"""Queries, and what of their answers can never be."""


@pytest.mark.parametrize("query", WRONG_ANSWERS)
def test_answers_that_never_come(query: str) -> None:
    with pytest.raises(ScenarioError) as error:
        step(f"expect: {{command: {query}}}")
    assert WRONG_ANSWERS[query] in str(error.value)
    command, _, returns = query.partition(", ")
    with pytest.raises(ScenarioError) as same:
        step(f"{{qmp: {command}, {returns}}}")
    assert WRONG_ANSWERS[query] in str(same.value)


@pytest.mark.parametrize(
    "query",
    [
        "query-block, returns: [{inserted: {image: {format: raw}}, io-status: null}]",
        "query-block, returns: [{tray_open: false}]",
        "query-block, returns: []",
        "query-status, returns: {status: {one-of: [paused, running]}, running: {not: true}}",
        "query-jobs, returns: [{current-progress: {at-least: 1M}, status: running}]",
        "query-commands, returns: [{name: quit}]",
    ],
)
def test_answers_that_may_come(query: str) -> None:
    """Also from a QEMU, which has members that there are not here."""
    assert isinstance(step(f"expect: {{command: {query}}}"), steps.Expect)


@pytest.mark.parametrize("text", ["", "[]", "5", "steps: 5", "a: 1", "steps: [[]]"])
def test_what_is_no_scenario(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"^a.yaml: line 1: "):
        read(text, "a.yaml")


def test_a_short_file_that_is_a_large_one() -> None:
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for at in range(5):
        text += f"a{at + 1}: &a{at + 1} [{', '.join([f'*a{at}'] * 10)}]\n"
    with pytest.raises(ScenarioError, match="the file has more than 10000 values"):
        read(text, "a.yaml")


def test_a_file_that_is_too_deep() -> None:
    with pytest.raises(ScenarioError, match="it is too deep"):
        read("[" * 60 + "]" * 60, "a.yaml")


def test_a_variable_that_there_is_not() -> None:
    with pytest.raises(ScenarioError, match=r"no variable 'sise', did you mean 'size'\?"):
        read(RIGHT, "a.yaml", {"sise": "1"})


DIFFERENCES: list[tuple[Any, Any, str | None]] = [
    ({}, {"a": 1}, None),
    ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b is 2, not 1"),
    ({"a": 1}, {}, "a is not there"),
    ({"a": None}, {}, None),
    ({"a": None}, {"a": 1}, "a is 1, not null"),
    ({"a": True}, {"a": 1}, "a is 1, not true"),
    ({"a": "8M"}, {"a": 8 << 20}, None),
    ({"a": "x"}, {"a": 8}, "a is 8, not x"),
    ({"a": 1}, [], "it is [], not {a: 1}"),
    ([], [], None),
    ([], [1], "it is [1], not []"),
    ([2], [1, 2], None),
    ([3], [1, 2], "there is no 3"),
    ([{"a": 1}], [{"a": 2}], "a is 2, not 1"),
    ({"l": [3]}, {"l": [1, 2]}, "there is no 3 in l"),
    ([1], {}, "it is {}, not [1]"),
    ({"at-least": "1k"}, 1024, None),
    ({"at-least": "1k"}, 1023, "it is 1023, not at-least 1k"),
    ({"at-most": 3}, 3, None),
    ({"at-most": 3}, 4, "it is 4, not at-most 3"),
    ({"at-most": 3}, True, "it is true, not at-most 3"),
    ({"not": 3}, 3, "it is 3, not not 3"),
    ({"not": 3}, 4, None),
    ({"one-of": ["a", "b"]}, "b", None),
    ({"one-of": ["a", "b"]}, "c", "it is c, not one-of [a, b]"),
]


@pytest.mark.parametrize(("wanted", "got", "text"), DIFFERENCES, ids=map(str, DIFFERENCES))
def test_differences(wanted: Any, got: Any, text: str | None) -> None:
    assert difference(wanted, got) == text
    assert Like(wanted)(got) == (text is None)


@pytest.mark.parametrize("name", shipped.names())
def test_those_that_are_shipped_are_right(name: str) -> None:
    path = shipped.find(name)
    scenario = read(path.read_text(), path.name)
    assert scenario.about and "patience" in scenario.variables


def test_the_library_does_not_import_yaml() -> None:
    code = (
        "import faultline, faultline.aio, faultline.sync.machine, sys; print('yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
