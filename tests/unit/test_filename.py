# SPDX-License-Identifier: MIT
"""File names as they are typed, what they mean, and what is shown of them."""

from __future__ import annotations

import json

import pytest

from blockcore.nodes.definitions.filename import Flat, parse_filename
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import (
    BlockdevOptions,
    BlockdevOptionsBlkdebug,
    BlockdevOptionsFile,
    BlockdevOptionsNull,
    BlockdevOptionsQcow2,
    BlockdevOptionsRaw,
)
from blockcore.nodes.definitions.shown_filename import filename, full_filename
from blockcore.nodes.definitions.structs import InjectError
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType, QmpError

DISK: Flat = {"driver": "file", "filename": "disk.raw"}
EXPORT: Flat = {"driver": "nbd", "server.type": "unix", "server.path": "/s", "export": "e"}
HOST: Flat = {"driver": "nbd", "server.type": "inet", "server.host": "h", "server.port": "1"}

PARSED: dict[str, Flat] = {
    "disk.raw": DISK,
    "file:disk.raw": DISK,
    "./a:b": {"driver": "file", "filename": "./a:b"},
    "dir/a:b": {"driver": "file", "filename": "dir/a:b"},
    "file:a:b": {"driver": "file", "filename": "./a:b"},
    "weird{x": {"driver": "file", "filename": "weird{x"},
    "null-co": {"driver": "file", "filename": "null-co"},
    "null-co://": {"driver": "null-co"},
    "blkdebug::disk.raw": {
        "driver": "blkdebug",
        "image.driver": "file",
        "image.filename": "disk.raw",
    },
    "blkdebug:c.conf:blkdebug:d:null-co://": {
        "driver": "blkdebug",
        "config": "c.conf",
        "image.driver": "blkdebug",
        "image.config": "d",
        "image.image.driver": "null-co",
    },
    'blkdebug::json:{"driver":"null-co","size":5}': {
        "driver": "blkdebug",
        "image.driver": "null-co",
        "image.size": 5,
    },
    'json: {"driver":"raw","file":{"driver":"null-co","read-zeroes":true}, "x":null} ': {
        "driver": "raw",
        "file.driver": "null-co",
        "file.read-zeroes": True,
    },
    "nbd:unix:/s:exportname=e": EXPORT,
    "nbd+unix:///e?socket=/s": EXPORT,
    "nbd:unix:/s": {key: EXPORT[key] for key in ("driver", "server.type", "server.path")},
    "nbd+unix://?socket=/s": {key: EXPORT[key] for key in ("driver", "server.type", "server.path")},
    "nbd:h:1": HOST,
    "nbd:h:1:exportname=a:b": HOST | {"export": "a:b"},
    "nbd:[::1]:1": HOST | {"server.host": "::1"},
    "nbd://h:1": HOST,
    "nbd+tcp://h:1/": HOST,
    "nbd://h/a%20b/c": HOST | {"server.port": "10809", "export": "a b/c"},
    "nbd://[::1]:1/x": HOST | {"server.host": "::1", "export": "x"},
}


@pytest.mark.parametrize(("name", "options"), PARSED.items(), ids=PARSED)
def test_parsed(name: str, options: dict[str, str | int | bool]) -> None:
    assert parse_filename(name) == options


JSON = "Could not parse the JSON options: "
NEEDS_BOTH = "blkdebug requires both config file and image path"
NULL_ONLY = "The only allowed filename for this driver is 'null-co://'"

REFUSED = {
    "a:b.raw": "Unknown protocol 'a'",
    "foo:": "Unknown protocol 'foo'",
    "a b:c": "Unknown protocol 'a b'",
    ":x": "Unknown protocol ''",
    "http://x": "Unknown protocol 'http'",
    "nbds://h:1/": "Unknown protocol 'nbds'",
    "raw:x": "Unknown protocol 'raw'",
    "blkdebug::foo:x": "Unknown protocol 'foo'",
    "blkdebug:c.conf:a:b.raw": "Unknown protocol 'a'",
    "blkdebug:": NEEDS_BOTH,
    "blkdebug:c.conf": NEEDS_BOTH,
    "null-co:": NULL_ONLY,
    "null-co://x": NULL_ONLY,
    "json:": JSON + "Expecting a JSON value",
    "json:{": JSON + "JSON parse error, premature EOI",
    "json:{bogus}": JSON + "JSON parse error, invalid keyword 'bogus'",
    'json:{"driver":"null-co"} x': JSON + "Expecting at most one JSON value",
    "json:[]": "Invalid JSON object given",
    "json:1": "Invalid JSON object given",
    "nbd:": "NBD server address missing",
    "nbd:h:1:exportname=": "NBD server address missing",
    "nbd:h": "error parsing address 'h'",
    "nbd:h:": "error parsing address 'h:'",
    "nbd://": "No valid URL specified",
    "nbd:///x": "No valid URL specified",
    "nbd://h:99999/x": "No valid URL specified",
    "nbd://h:1/x?socket=y": "No valid URL specified",
    "nbd+unix:///x": "No valid URL specified",
    "nbd+unix:///x?foo=y": "No valid URL specified",
    "nbd+unix://h/x?socket=/s": "No valid URL specified",
    "nbd+unix:///x?socket=/s&a=b": "No valid URL specified",
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_refused(name: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_filename(name)
    assert caught.value.desc == message


def unknown(name: str) -> BlockdevOptions:
    raise AssertionError(name)


SHOWN = {
    "disk.raw": "disk.raw",
    "file:./disk.raw": "./disk.raw",
    "file:a:b": "./a:b",
    "blkdebug::disk.raw": "blkdebug::disk.raw",
    "blkdebug:c.conf:file:disk.raw": "blkdebug:c.conf:disk.raw",
    "blkdebug:c.conf:blkdebug::disk.raw": "blkdebug:c.conf:blkdebug::disk.raw",
    "blkdebug:c.conf:null-co://": "blkdebug:c.conf:null-co://",
    'json:{"driver":"null-co","latency-ns":5}': "null-co://",
    'json:{"driver":"null-co","size":1048576}': 'json:{"driver": "null-co", "size": 1048576}',
    'json:{"driver":"null-co","read-zeroes":true}': (
        'json:{"driver": "null-co", "read-zeroes": true}'
    ),
    'json:{"file.driver":"null-co"}': "null-co://",
    'json:{"driver":"file","filename":"a:b.raw"}': "a:b.raw",
    'json:{"driver":"raw","discard":"unmap","node-name":"x","cache":{"direct":true},'
    '"file":{"driver":"file","filename":"d","locking":"off","aio":"threads"}}': "d",
    'json:{"driver":"raw","offset":512,"size":1024,"file":{"driver":"file","filename":"d"}}': (
        'json:{"driver": "raw", "offset": 512, "size": 1024,'
        ' "file": {"driver": "file", "filename": "d"}}'
    ),
    'json:{"driver":"raw","file":{"driver":"raw","file":{"driver":"null-co"}}}': (
        'json:{"driver": "raw", "file": {"driver": "raw", "file": {"driver": "null-co"}}}'
    ),
    'json:{"driver":"blkdebug","image":{"driver":"raw","file":{"driver":"file","filename":"d"}}}': (
        "blkdebug::d"
    ),
    'json:{"driver":"raw","file":{"driver":"blkdebug","config":"c","image":{"driver":"file",'
    '"filename":"d"},"inject-error":[{"event":"none","errno":7,"iotype":"discard"}],'
    '"set-state":[{"event":"none","new_state":7}]}}': (
        'json:{"driver": "raw", "file": {"driver": "blkdebug", "config": "c",'
        ' "inject-error.0.event": "none", "inject-error.0.iotype": "discard",'
        ' "inject-error.0.errno": 7, "set-state.0.event": "none", "set-state.0.new_state": 7,'
        ' "image": {"driver": "file", "filename": "d"}}}'
    ),
    "nbd:unix:/s:exportname=e": "nbd+unix:///e?socket=/s",
    "nbd:unix:/s": "nbd+unix://?socket=/s",
    "nbd:h:1": "nbd://h:1",
    "nbd://h:1/a%20b/c": "nbd://h:1/a b/c",
    "blkdebug::nbd+unix:///e?socket=/s": "blkdebug::nbd+unix:///e?socket=/s",
    'json:{"driver":"nbd","server":{"type":"unix","path":"/s"},"export":"e","reconnect-delay":1}': (
        "nbd+unix:///e?socket=/s"
    ),
}


@pytest.mark.parametrize(("name", "shown"), SHOWN.items(), ids=SHOWN)
def test_shown(name: str, shown: str) -> None:
    assert filename(open_options({}, name), unknown) == shown


# QEMU shows the path of a file that a definition named as it is, prefix-like or not.
@pytest.mark.parametrize("shown", sorted(set(SHOWN.values()) - {"a:b.raw"}))
def test_what_is_shown_means_the_same(shown: str) -> None:
    assert filename(open_options({}, shown), unknown) == shown


def test_children_given_by_name_are_asked_for() -> None:
    nodes: dict[str, BlockdevOptions] = {
        "disk": BlockdevOptionsFile(driver="file", filename="disk.raw"),
        "debug": BlockdevOptionsBlkdebug(driver="blkdebug", image="disk", config="c"),
        "small": BlockdevOptionsNull(driver="null-co", size=512),
    }
    raw = BlockdevOptionsRaw(driver="raw", file="debug")
    assert filename(raw, nodes.__getitem__) == "blkdebug:c:disk.raw"
    raw = BlockdevOptionsRaw(driver="raw", file="small")
    assert filename(raw, nodes.__getitem__) == (
        'json:{"driver": "raw", "file": {"driver": "null-co", "size": 512}}'
    )


@pytest.mark.parametrize("images", [10, 54, 55, 60, 100])
def test_what_qemu_has_no_room_for(images: int) -> None:
    """Each image has 77 characters or more, as its file and the place of the one below."""
    nodes: dict[str, BlockdevOptions] = {}
    for number in range(images):
        file = BlockdevOptionsFile(driver="file", filename=f"i{number:02}")
        below = f"n{number - 1}" if number else None
        nodes[f"n{number}"] = BlockdevOptionsQcow2(driver="qcow2", file=file, backing=below)
    full = full_filename(nodes[f"n{images - 1}"], nodes.__getitem__)
    assert len(json.loads(full.removeprefix("json:"))) == 3
    shown = filename(nodes[f"n{images - 1}"], nodes.__getitem__)
    assert shown == (full if len(full) < 4096 else full[:4092] + "...")


@pytest.mark.parametrize("path", ["x", "x" * 4000])
def test_a_filter_s_name_that_qemu_has_no_room_for(path: str) -> None:
    nodes: dict[str, BlockdevOptions] = {"n0": BlockdevOptionsFile(driver="file", filename=path)}
    for number in range(1, 12):
        image = f"n{number - 1}"
        nodes[f"n{number}"] = BlockdevOptionsBlkdebug(driver="blkdebug", image=image)
    shown = filename(nodes["n11"], nodes.__getitem__)
    assert shown.startswith("blkdebug::" * 11 if len(path) == 1 else 'json:{"driver": "blkdebug"')
    assert len(shown) <= 4095


def test_default_members_of_rules_are_not_shown() -> None:
    rule = InjectError(
        event=BlkdebugEvent.READ_AIO, iotype=BlkdebugIOType.READ, sector=8, once=True
    )
    node = BlockdevOptionsBlkdebug(
        driver="blkdebug", image=BlockdevOptionsNull(driver="null-co"), inject_error=[rule]
    )
    assert filename(node, unknown) == (
        'json:{"driver": "blkdebug", "inject-error.0.event": "read_aio",'
        ' "inject-error.0.iotype": "read", "inject-error.0.sector": 8,'
        ' "inject-error.0.once": true, "image": {"driver": "null-co"}}'
    )
