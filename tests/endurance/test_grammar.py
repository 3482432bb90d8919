# SPDX-License-Identifier: MIT
"""A few thousand messages by the grammar of the machine; `scripts/endure grammar` sends more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from grammar import Grammar, Tally, life
from sim import Sim as Simulation
from sim import execute, new_machine, perform

SEEDS = ["1", "2"]
MESSAGES = 1500


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_asked_is_answered(seed: str, tmp_path: Path) -> None:
    tally = Tally()
    life(tmp_path, seed, MESSAGES, tally)
    print(tally)
    assert tally.sent >= MESSAGES
    assert tally.succeeded > 100 and tally.refused > 500 and tally.broken > 20
    assert len(tally.by_command) > 20


def test_the_grammar_has_every_command() -> None:
    """Nothing is left out, and most of what is made fits."""
    machine = new_machine(Simulation(0))
    schema = perform(execute(machine, "query-qmp-schema"))
    listed = {entry["name"] for entry in perform(execute(machine, "query-commands"))}
    grammar = Grammar(schema, random.Random(0))
    assert set(grammar.commands) == listed
    made = {grammar.command()["execute"] for _ in range(5000)}
    assert made == listed - {"quit", "stop", "system_reset"}
