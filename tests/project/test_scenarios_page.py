# SPDX-License-Identifier: MIT
"""docs/scenarios.md: what it says of files and steps is what is read, and its files are right."""

from __future__ import annotations

import re

import pytest

from blockcore.cli import config_file
from faultline.scenario import shipped
from faultline.scenario.matching import TESTS
from faultline.scenario.reading import FIELDS, MACHINE, read
from faultline.scenario.steps import JOB_STATES
from faultline.scenario.values import ScenarioError
from faultline.scenario.verbs import COMMON, VERBS
from tree import TREE

PAGE = (TREE / "docs" / "scenarios.md").read_text()

BLOCKS = re.findall(r"^```yaml ?([^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    text = PAGE.split(f"\n{heading}\n")[1].split("\n#")[0]
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)[1:]
    return [re.split(r" \| ?", line) for line in lines]


def words(cell: str) -> set[str]:
    return set(re.findall("`([^`]+)`", cell))


def test_every_member_of_a_file_is_described() -> None:
    described = [word for row in rows("## The file") for word in words(row[0])]
    assert sorted(described) == sorted(FIELDS)


def test_the_machine_is_that_of_a_file_of_serve() -> None:
    others = {"faults", "threads"}
    assert {*MACHINE} | others == {*config_file.LISTS, *config_file.KEYS} - {"control"} | others


def test_every_step_is_described_with_what_stands_beside_it() -> None:
    described = {row[0].strip("`"): words(row[3]) for row in rows("## Steps")}
    assert described == {name: set(verb.modifiers) for name, verb in VERBS.items()}
    paragraph = PAGE.split("## Steps\n\n")[1].split("\n\n")[0]
    assert words(paragraph) == set(COMMON)


MEMBERS = {
    "expect": {"command", "arguments", "returns"},
    "job": {"id", "until", "error"},
    "hits": {"id", "hits"},
    "qmp": {"execute", "arguments"},
}


@pytest.mark.parametrize("verb", MEMBERS)
def test_members_of_steps_are_described(verb: str) -> None:
    (row,) = (row for row in rows("## Steps") if row[0] == f"`{verb}`")
    assert words(row[1]) == MEMBERS[verb]
    with pytest.raises(ScenarioError, match="has no member 'nonsense'") as error:
        read(f"steps: [{{{verb}: {{nonsense: 1}}}}]", "a.yaml")
    assert set(re.findall(r"[a-z]+", str(error.value).split("it is ")[1])) - {"or"} == MEMBERS[verb]


def test_states_of_jobs_and_comparisons_are_described() -> None:
    (row,) = (row for row in rows("## Steps") if row[0] == "`job`")
    assert words(row[2]) - {"error"} == set(JOB_STATES)
    assert {row[0].strip("`") for row in rows("### Comparing")} == set(TESTS)


def test_every_scenario_that_is_shipped_is_described() -> None:
    described = [row[0].strip("`") for row in rows("## Scenarios that are shipped")]
    assert sorted(described) == shipped.names()


def test_its_files_are_right() -> None:
    assert [name for name, _ in BLOCKS] == ["full.yaml", "", ""]
    for _, text in BLOCKS:
        whole = text if "steps:" in text else f"steps:\n- {text.replace(chr(10), chr(10) + '  ')}"
        read(whole, "page.yaml")


def test_its_mistake_is_told_so() -> None:
    text = BLOCKS[0][1].replace("device: vda, action", "devcie: vda, action")
    with pytest.raises(ScenarioError) as error:
        read(text, "full.yaml")
    assert f"\n{error.value}\n" in PAGE
