# SPDX-License-Identifier: MIT
"""KEY=VALUE words become the arguments that a schema says."""

from __future__ import annotations

from typing import Any

import click
import pytest

from blockcore.cli.own_commands import own_schema
from blockcore.cli.schema import Schema
from blockcore.cli.words import WrongArguments, arguments, tree, untyped

OWN = own_schema()


def entity(name: str, kind: str, **members: Any) -> dict[str, Any]:
    return {"name": name, "meta-type": kind, **members}


def member(name: str, type_: str, optional: bool = True) -> dict[str, Any]:
    return {"name": name, "type": type_, **({"default": None} if optional else {})}


OTHER = Schema(
    [
        entity("go", "command", **{"arg-type": "0", "ret-type": "1"}),
        entity(
            "0",
            "object",
            members=[
                *(member("any", "any"), member("list", "[str]"), member("sizes", "[int]")),
                *(member("on", "bool"), member("file", "2"), member("nodes", "[3]")),
                *(member("kind", "4"), member("tags", "[4]"), member("x", "number")),
            ],
        ),
        entity("1", "object", members=[]),
        entity("2", "alternate", members=[{"type": name} for name in ("3", "str", "null")]),
        entity(
            "3",
            "object",
            members=[member("type", "4", False), member("name", "str")],
            tag="type",
            variants=[{"case": "b", "type": "5"}],
        ),
        # As servers before QEMU 6.2 have it.
        entity("4", "enum", values=["a", "b"]),
        entity("5", "object", members=[member("size", "int", False)]),
        entity("any", "builtin", **{"json-type": "value"}),
        *(
            entity(name, "builtin", **{"json-type": json})
            for name, json in (
                *(("str", "string"), ("int", "int"), ("bool", "boolean")),
                *(("number", "number"), ("null", "null")),
            )
        ),
        *(entity(f"[{of}]", "array", **{"element-type": of}) for of in ("str", "int", "3", "4")),
    ]
)
"""A schema with what this project's commands do not have."""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("query-status", {}),
        ("block-dirty-bitmap-add node=n name=0", {"node": "n", "name": "0"}),
        ("job-pause id=123", {"id": "123"}),
        ("x-fault-remove id=true", {"id": "true"}),
        ('x-fault-remove id="1"', {"id": '"1"'}),
        ("x-fault-remove id=", {"id": ""}),
        ("x-fault-remove id=a=b", {"id": "a=b"}),
        ("block_resize device=v size=10M", {"device": "v", "size": 10 << 20}),
        ("block_resize device=v size=1.5k", {"device": "v", "size": 1536}),
        ("block_resize device=v size=0x10", {"device": "v", "size": 16}),
        ("block_resize device=v size=010", {"device": "v", "size": 10}),
        ("block_resize device=v size=-1k", {"device": "v", "size": -1024}),
        ("x-fault-add node-name=n once=on rate=.5", {"node-name": "n", "once": True, "rate": 0.5}),
        ("x-fault-add node-name=n once=no", {"node-name": "n", "once": False}),
        ("x-fault-add node-name=n errno=ENOSPC", {"node-name": "n", "errno": "ENOSPC"}),
        ("x-fault-add node-name=n errno=28", {"node-name": "n", "errno": 28}),
        (
            "blockdev-add driver=raw node-name=7 file.driver=null-co file.size=1G read-only=on",
            {
                "driver": "raw",
                "node-name": "7",
                "file": {"driver": "null-co", "size": 1 << 30},
                "read-only": True,
            },
        ),
        ("blockdev-add driver=raw file=5", {"driver": "raw", "file": "5"}),
        (
            'blockdev-add driver=raw file={"driver":"null-co","size":5}',
            {"driver": "raw", "file": {"driver": "null-co", "size": 5}},
        ),
        (
            "blockdev-add driver=qcow2 file=f backing=null",
            {"driver": "qcow2", "file": "f", "backing": None},
        ),
        (
            "blockdev-add driver=nbd server.type=inet server.host=::1 server.port=10809",
            {
                "driver": "nbd",
                "server": {"type": "inet", "host": "::1", "port": "10809"},
            },
        ),
        (
            "block-dirty-bitmap-merge node=n target=t bitmaps=a bitmaps=b",
            {"node": "n", "target": "t", "bitmaps": ["a", "b"]},
        ),
        (
            "transaction actions.0.type=block-dirty-bitmap-add"
            " actions.0.data.node=n actions.0.data.name=1 actions.1.type=abort"
            " actions.1.data={}",
            {
                "actions": [
                    {"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": "1"}},
                    {"type": "abort", "data": {}},
                ]
            },
        ),
    ],
)
def test_this_machines_commands(line: str, expected: dict[str, Any]) -> None:
    command, *words = line.split()
    found = arguments(OWN, command, tree(words, command))
    assert found == expected
    assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["any=1"], {"any": 1}),
        (["any=x"], {"any": "x"}),
        (["any=NaN"], {"any": "NaN"}),
        (["any=" + "[" * 100_000], {"any": "[" * 100_000}),
        (["any.a.b=true", "any.c=1M"], {"any": {"a": {"b": True}, "c": "1M"}}),
        (["list=1"], {"list": ["1"]}),
        (["list=1", "list=x"], {"list": ["1", "x"]}),
        (['list=["1", "x"]'], {"list": ["1", "x"]}),
        (["list="], {"list": [""]}),
        (["sizes=1k", "sizes=2"], {"sizes": [1024, 2]}),
        (["sizes.1=2", "sizes.0=1k"], {"sizes": [1024, 2]}),
        (["on=yes"], {"on": True}),
        (["on=OFF"], {"on": False}),
        (["file=null"], {"file": None}),
        (["file=f"], {"file": "f"}),
        (["file.type=b", "file.size=1k"], {"file": {"type": "b", "size": 1024}}),
        (["nodes.0.type=a", "nodes.0.name=3"], {"nodes": [{"type": "a", "name": "3"}]}),
        (['nodes={"type":"a"}'], {"nodes": [{"type": "a"}]}),
        (["tags=a", "tags=b", "kind=a"], {"tags": ["a", "b"], "kind": "a"}),
        (["x=1e3"], {"x": 1000.0}),
    ],
)
def test_any_servers_commands(words: list[str], expected: dict[str, Any]) -> None:
    assert arguments(OTHER, "go", tree(words, "go")) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("go a", "'a' is not KEY=VALUE"),
        ("go =1", "'=1' is not KEY=VALUE"),
        ("go a..b=1", "'a..b=1' is not KEY=VALUE"),
        ("go file.type=a file=2", "'file' contradicts an argument before it"),
        ("go file=1 file.type=a", "'file.type' contradicts an argument before it"),
        ("go on=on on=off", "'on' is given twice"),
        ("go kin=a", "Parameter 'kin' is unexpected, did you mean 'kind'? It is "),
        ("go name=1", "Parameter 'name' is unexpected, did you mean 'file.name'?"),
        ("go file.typ=a", "Parameter 'file.typ' is unexpected, did you mean 'type'?"),
        ("go file.type=a file.size=1", "Parameter 'file.size' is unexpected: it is type or name"),
        ("go file.type=b", "Parameter 'file.size' is missing"),
        ("go file.name=b", "Parameter 'file.type' is missing"),
        ("go file.type=c", "Parameter 'file.type' does not accept value 'c': it is a or b"),
        ("go kind=A", "Parameter 'kind' does not accept value 'A', did you mean 'a'?"),
        ("go kind=a,b", "Parameter 'kind' does not accept value 'a,b': it takes one of them"),
        ("go on=1", "Parameter 'on' expects on or off, not '1'"),
        ("go x=5%", "Parameter 'x' expects a number, such as 0.5, not '5%' (5% is 0.05)"),
        ("go sizes=1e6", "Parameter 'sizes.0' expects a number, such as 1048576, 0x100000 or 1M"),
        ("go sizes.1=1", "Parameter 'sizes' is a list: its elements are sizes.0, sizes.1"),
        ("go list.a=1", "Parameter 'list' is a list"),
        ("go kind.a=1", "Parameter 'kind.a' is unexpected: 'kind' has no members"),
        ("go nodes=a", "Parameter 'nodes.0' expects an object: nodes.0.type=, nodes.0.name="),
        ("go list=[1", "Parameter 'list' expects a list in JSON, or list.0="),
        # What was typed comes before what is missing.
        ("x-fault-add node_name=v", "'node_name' is unexpected, did you mean 'node-name'?"),
        ("x-fault-add device=v", "'device' is unexpected, did you mean 'node-name'?"),
        ("x-drive-set-policy id=v", "'id' is unexpected, did you mean 'device'?"),
        ("x-fault-add errno=5", "Parameter 'node-name' is missing"),
        ("cont a=1", "Parameter 'a' is unexpected: it takes no arguments"),
        ("blockdev-add driver=luks", "does not accept value 'luks': it is blkdebug, file, nbd"),
        ("blockdev-add driver=raw filename=f", "did you mean 'file.filename'?"),
        ("blockdev-add node-name=n", "Parameter 'driver' is missing"),
    ],
)
def test_words_that_make_no_sense(line: str, message: str) -> None:
    command, *words = line.split()
    with pytest.raises(click.UsageError) as caught:
        arguments(OTHER if command == "go" else OWN, command, tree(words, command))
    assert message in str(caught.value)
    assert isinstance(caught.value, WrongArguments)
    assert caught.value.see == f"faultline qmp {command} --help"


def test_without_a_schema_json_is_json() -> None:
    words = ["a=1", "b.c=x", 'd="1"', "e=[]"]
    assert untyped(tree(words, "go")) == {"a": 1, "b": {"c": "x"}, "d": "1", "e": []}
    with pytest.raises(click.UsageError, match="'b.c' is given twice"):
        untyped(tree(["b.c=1", "b.c=2"], "go"))
