# SPDX-License-Identifier: MIT
"""What is imported when it is first used: that it is all there, and when it is imported."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcore.bql.effects import Call
from blockcore.bql.later import Later, later, without
from blockcore.commands import by_name
from blockcore.commands.by_name import PARTS, find_command
from blockcore.commands.table import table
from blockcore.nodes.drivers.blkdebug import BlkdebugNode
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.nbd import NbdNode
from blockcore.nodes.drivers.null import NullNode
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.drivers.volatile_cache import VolatileCacheNode
from blockcore.nodes.graph import make
from blockcore.nodes.graph.make import DRIVERS, driver_named
from blockcore.nodes.making import Driver
from blockcore.qapi.names import QmpError


@pytest.fixture(name="late")
def _late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that nobody has imported."""
    (tmp_path / "imported_late.py").write_text("import no_such_module as there\n")
    (tmp_path / "no_such_module.py").write_text("thing = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "imported_late"
    for name in ("imported_late", "no_such_module"):
        sys.modules.pop(name, None)


def test_the_module_is_imported_by_the_first_call(late: str) -> None:
    place = later(f"{late}:there")
    assert late not in sys.modules
    assert [place.is_loaded, place().thing, place.is_loaded] == [False, 1, True]
    assert place() is place()


def test_what_shall_not_be_there(late: str) -> None:
    with without("no_such_module"), pytest.raises(ImportError):
        later(f"{late}:there")()
    assert later(f"{late}:there")().thing == 1
    before = sys.modules["no_such_module"]
    with without("no_such_module"):
        pass
    assert sys.modules["no_such_module"] is before


def test_every_command_is_found_where_it_is() -> None:
    named = [name for names in PARTS.values() for name in names]
    assert {*named, "qmp_capabilities"} == set(table.commands)
    assert len(named) == len(set(named))
    for name in named:
        command = find_command(name)
        assert command is table.commands[name], name
    assert find_command("no-such-command") is None


def test_drivers_have_the_names_that_they_are_found_by() -> None:
    formats: tuple[Driver, ...] = (Qcow2Node, RawNode)
    others: tuple[Driver, ...] = (FileNode, NbdNode, NullNode, BlkdebugNode, VolatileCacheNode)
    assert {driver.driver: driver for driver in (*formats, *others)} == {
        name: driver() for name, driver in DRIVERS.items()
    }


FAILURES = [ImportError("gone"), OSError(errno.EMFILE, "Too many open files")]


class Broken(Later):
    """Something that cannot be imported."""

    def __init__(self, error: Exception) -> None:
        super().__init__("no", "matter")
        self.error = error

    def __call__(self) -> object:
        raise self.error


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_a_command_that_cannot_be_imported(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(by_name._PART_OF, "query-block", Broken(error))
    with pytest.raises(QmpError, match="^The command query-block cannot be loaded: "):
        find_command("query-block")


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_a_driver_that_cannot_be_imported(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(make.DRIVERS, "qcow2", Broken(error))
    coro = driver_named("qcow2")
    call = coro.send(None)
    assert isinstance(call, Call), "it is imported outside the big lock"
    with pytest.raises(QmpError, match="^The driver 'qcow2' cannot be loaded: "):
        coro.throw(error)
