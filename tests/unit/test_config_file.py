# SPDX-License-Identifier: MIT
"""The file of `serve --config`, and fault rules as keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from blockcore.cli.config_file import KEYS, LISTS, NBDKIT, completed
from blockcore.cli.serve import serve
from blockcore.config.config import parse_config
from blockcore.config.fault_hints import fault_hint
from blockcore.faults.fail import Fail
from blockcore.qapi.names import FaultIOType, QmpError, UInt64
from tree import TREE

CONTEXT = click.Context(serve)

NOTHING = {option.name: None for option in serve.params if option.name != "config"} | {
    "keys": ()
}


def read(
    tmp_path: Path, content: Any, *behind: str, **typed: Any
) -> tuple[dict[str, Any], list[str]]:
    """What a file adds to what is typed: only what is given then, and what is for nbdkit."""
    file = tmp_path / "m.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    values, rest = completed(str(file), CONTEXT, {**NOTHING, **typed}, behind)
    return {name: value for name, value in values.items() if value is not None}, [*rest]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({}, ()),
        ({"drives": ["id=a,file=x"]}, ("drive=id=a,file=x",)),
        ({"drives": [{"id": "a", "file": "x,y"}]}, ("drive=id=a,file=x,,y",)),
        (
            {"drives": [{"file": {"driver": "nbd", "on": True}, "l": [1, 2.5]}]},
            ("drive=file.driver=nbd,file.on=on,l.0=1,l.1=2.5",),
        ),
        (
            {"devices": [{"driver": "virtio-blk"}], "blockdevs": [{"driver": "raw", "n": 1}]},
            ("device=driver=virtio-blk", 'blockdev={"driver": "raw", "n": 1}'),
        ),
        ({"faults": [{"node-name": "a", "once": False}]}, ("fault=node-name=a,once=off",)),
        ({"faults": "rules.faults"}, ("faults=rules.faults",)),
        (
            {"seed": 5, "prelaunch": True, "allow-backing": ["a", "b"], "name": "ü"},
            ("seed=5", "prelaunch=on", "allow-backing=a:b", "name=ü"),
        ),
        ({"allow-backing": "none"}, ("allow-backing=none",)),
    ],
)
def test_keys(content: dict[str, Any], keys: tuple[str, ...], tmp_path: Path) -> None:
    assert read(tmp_path, content)[0]["keys"] == keys


def test_places(tmp_path: Path) -> None:
    """The first keys of each name are the file's."""
    content = {"drives": ["a", "b"], "seed": 1, "name": "n"}
    values, _ = read(tmp_path, content, keys=("drive=c", "seed=2"))
    assert values["keys"] == ("drive=a", "drive=b", "name=n", "drive=c", "seed=2")
    file = f"{tmp_path}/m.json"
    assert json.loads(values["places"]) == {
        "drive": [f"{file}: drives[0]", f"{file}: drives[1]"],
        "name": [f"{file}: name"],
    }


OPTIONS = {"nbd": "n", "socket-mode": "660", "threads": 4, "quiet": True, "run": "x", "timeout": 1}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (
            {},
            {"nbd_socket": "n", "socket_mode": "660", "threads": 4, "quiet": True}
            | {"run": "x", "timeout": 1.0},
        ),
        ({"port": 0}, {"port": 0, "threads": 4, "quiet": True, "run": "x", "timeout": 1.0}),
        (
            {"threads": 2, "log_level": "info", "daemonize": True, "nbd_socket": "m"},
            {"nbd_socket": "m", "socket_mode": "660", "threads": 2}
            | {"log_level": "info", "daemonize": True},
        ),
    ],
)
def test_the_command_line_has_precedence(
    typed: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    values, _ = read(tmp_path, OPTIONS, **typed)
    assert {name: values[name] for name in values if name not in ("keys", "places")} == expected


def test_the_control_socket_is_a_key_and_an_option(tmp_path: Path) -> None:
    content = {"control": "q"}
    assert read(tmp_path, content)[0]["keys"] == ("control=q",)
    assert read(tmp_path, content, keys=("control=p",))[0]["keys"] == ("control=p",)
    assert read(tmp_path, content, control="p")[0]["keys"] == ()


def test_what_is_for_nbdkit(tmp_path: Path) -> None:
    content = {"nbdkit": ["--filter=delay", "wdelay=1"]}
    assert read(tmp_path, content)[1] == ["--filter=delay", "wdelay=1"]
    assert read(tmp_path, content, "-r")[1] == ["-r"]


REFUSED = {
    "{": "line 1, column 2: ",
    "[]": "the file is no JSON object",
    "[" * 100_000: "recursion",
    '{"drivs": []}': "drivs: there is no such member, did you mean 'drives'?",
    '{"nope": 1}': "nope: there is no such member",
    '{"standby": true}': "standby: there is no such member",
    '{"config": "x"}': "config: there is no such member",
    '{"seed": 1, "seed": 2}': "the member 'seed' is given twice",
    '{"drives": [{"id": "a", "id": "b"}]}': "the member 'id' is given twice",
    '{"drives": {}}': "drives: it is a list, with an object for each",
    '{"drives": ["a", 1]}': "drives[1]: it is an object, or a string as behind drive=",
    '{"drives": [{"a": null}]}': "drives[0].a: it is a text, a number, or true or false",
    '{"drives": [{"a": {"b": null}}]}': "drives[0].a.b: it is a text",
    '{"drives": [{"a=b": 1}]}': "drives[0].a=b: this can be no member",
    '{"seed": NaN}': "NaN is no JSON",
    '{"name": "\\u0000"}': "name: there is a NUL in it",
    '{"quiet": 1}': "quiet: it is true or false",
    '{"threads": true}': "threads: it is a number",
    '{"threads": 1.5}': "threads: it is a whole number",
    '{"threads": 0}': "threads: 0 is not in the range",
    '{"port": "1"}': "port: it is a number",
    '{"nbd": 1}': "nbd: it is a text",
    '{"log-level": "all"}': "log-level: 'all' is not one of",
    '{"allow-backing": [1]}': "allow-backing: it is a list of texts",
    '{"nbdkit": "-r"}': "nbdkit: it is a list of texts",
}


@pytest.mark.parametrize("content", REFUSED, ids=lambda text: text[:40])
def test_what_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException) as caught:
        read(tmp_path, content)
    assert caught.value.message.startswith(f"{tmp_path}/m.json: ")
    assert REFUSED[content] in caught.value.message


def test_a_file_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="nope: No such file or directory"):
        completed(f"{tmp_path}/nope", CONTEXT, NOTHING, ())


def test_the_document_has_all_members() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (TREE / "docs/config.md").read_text(), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    options = {
        name.removeprefix("--")
        for option in serve.params
        if isinstance(option, click.Option)
        for name in option.opts
    }
    assert told == {*LISTS, *KEYS, NBDKIT, *options} - {"config", "standby", "help"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vda", Fail(node_name="vda")),
        (
            "node-name=vda,iotype=write,errno=ENOSPC,offset=32M,once=on",
            Fail(
                node_name="vda",
                iotype=FaultIOType.WRITE,
                errno=28,
                offset=UInt64(32 << 20),
                once=True,
            ),
        ),
        ("vda,errno=5,rate=0.5,after=2", Fail(node_name="vda", errno=5, rate=0.5, after=UInt64(2))),
        ('{"node-name": "vda", "errno": 5}', Fail(node_name="vda", errno=5)),
    ],
)
def test_a_rule(text: str, expected: Fail) -> None:
    assert parse_config([("fault", text)]).faults == (expected,)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "Parameter 'node-name' is missing", "as in fault=node-name=vda"),
        ("vda,iotype=wirte", "'iotype' does not accept value 'wirte'", "did you mean 'write'?"),
        (
            "vda,iotype.0=read,iotype.1=wirte",
            "'iotype.1' does not accept value 'wirte'",
            "did you mean 'write'?",
        ),
        (
            '{"node-name": "vda", "iotype": ["frob", "read"]}',
            "'iotype[0]' does not accept value 'frob'",
            "it is read, write",
        ),
        ("vda,actn=x", "Parameter 'actn' is unexpected", "did you mean 'action'?"),
        ("node-name=vda,type=read", "Parameter 'type' is unexpected", "did you mean 'iotype'?"),
        ("vda,errno=EFOO", "'errno' does not accept value 'EFOO'", ""),
        ("vda,errno=99999", "'errno' expects the number or name of an errno", ""),
        ("vda,offset=-1", "Parameter 'offset' expects a size value", "such as 1048576 or 1M"),
        ("vda,rate=2", "Parameter 'rate' expects a number between 0 and 1", ""),
        ("vda,once", "Expected '=' after parameter 'once'", "as in fault=node-name=vda"),
        ('{"node-name": "vda", "offset": -1}', "'offset' expects a non-negative number", ""),
        ('{"node-name": "vda", "offset": "1"}', "'offset' expects uint64", "such as 1048576"),
    ],
)
def test_a_rule_that_makes_no_sense(text: str, message: str, hint: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_config([("fault", text)])
    assert message in caught.value.desc
    assert hint in fault_hint(caught.value.desc)
