# SPDX-License-Identifier: MIT
"""Node definitions, as `blockdev-add`, `-blockdev` and `-drive` give them."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import (
    BlockdevOptionsBacking,
    BlockdevOptionsBlkdebug,
    BlockdevOptionsFile,
    BlockdevOptionsNbd,
    BlockdevOptionsNull,
    BlockdevOptionsProbed,
    BlockdevOptionsQcow2,
    BlockdevOptionsRaw,
    check_node_name,
    parse_blockdev_options,
)
from blockcore.nodes.definitions.structs import (
    BlockdevAioOptions,
    BlockdevCacheOptions,
    InetSocketAddress,
    InjectError,
    OnOffAuto,
    SetState,
    SocketAddressType,
    UnixSocketAddress,
)
from blockcore.qapi.keyval import parse_keyval, parse_opts
from blockcore.qapi.names import (
    BlkdebugEvent,
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    QmpError,
)
from blockcore.qapi.schema import Null, to_wire

DISK = BlockdevOptionsFile(driver="file", filename="disk.raw")
NULL = BlockdevOptionsNull(driver="null-co")
UNIX = UnixSocketAddress(type=SocketAddressType.UNIX, path="/s")


def test_every_member_of_the_common_ones() -> None:
    options = parse_blockdev_options(
        parse_keyval(
            "driver=file,node-name=n,discard=unmap,cache.direct=on,cache.no-flush=off,read-only=on,"
            "auto-read-only=off,force-share=on,detect-zeroes=unmap,filename=f,locking=auto,"
            "aio=native"
        ),
        keyval=True,
    )
    assert options == BlockdevOptionsFile(
        driver="file",
        node_name="n",
        discard=BlockdevDiscardOptions.UNMAP,
        cache=BlockdevCacheOptions(direct=True, no_flush=False),
        read_only=True,
        auto_read_only=False,
        force_share=True,
        detect_zeroes=BlockdevDetectZeroesOptions.UNMAP,
        filename="f",
        locking=OnOffAuto.AUTO,
        aio=BlockdevAioOptions.NATIVE,
    )


JSON: dict[str, Any] = {
    "qcow2": (
        {"driver": "qcow2", "file": "n", "backing": {"driver": "null-co"}, "cache-size": 4096},
        BlockdevOptionsQcow2(driver="qcow2", file="n", backing=NULL, cache_size=4096),
    ),
    "no backing file": (
        {"driver": "qcow2", "file": "n", "backing": None},
        BlockdevOptionsQcow2(driver="qcow2", file="n", backing=Null.NULL),
    ),
    "reference": (
        {"driver": "raw", "file": "n", "offset": 512},
        BlockdevOptionsRaw(driver="raw", file="n", offset=512),
    ),
    "inline": (
        {"driver": "raw", "file": {"driver": "file", "filename": "disk.raw"}},
        BlockdevOptionsRaw(driver="raw", file=DISK),
    ),
    "nbd": (
        {"driver": "nbd", "server": {"type": "unix", "path": "/s"}, "export": "e"},
        BlockdevOptionsNbd(driver="nbd", server=UNIX, export="e"),
    ),
    "inet": (
        {"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "1"}},
        BlockdevOptionsNbd(
            driver="nbd",
            server=InetSocketAddress(type=SocketAddressType.INET, host="h", port="1"),
        ),
    ),
    "rules": (
        {
            "driver": "blkdebug",
            "image": "n",
            "inject-error": [
                {"event": "none", "errno": "ENOSPC"},
                {"event": "read_aio", "errno": 7},
            ],
            "set-state": [{"event": "none", "new_state": 2}],
        },
        BlockdevOptionsBlkdebug(
            driver="blkdebug",
            image="n",
            inject_error=[
                InjectError(event=BlkdebugEvent.NONE, errno=errno.ENOSPC),
                InjectError(event=BlkdebugEvent.READ_AIO, errno=7),
            ],
            set_state=[SetState(event=BlkdebugEvent.NONE, new_state=2)],
        ),
    ),
}


@pytest.mark.parametrize(("value", "options"), JSON.values(), ids=JSON)
def test_json(value: dict[str, Any], options: object) -> None:
    parsed = parse_blockdev_options(value)
    assert parsed == options
    assert parse_blockdev_options(to_wire(parsed)) == options


OBJECT = "Invalid parameter type for '{}', expected: object"
DEBUG = "driver=blkdebug,image=n,"

REFUSED_KEYVAL = {
    "": "Parameter 'driver' is missing",
    "a=b": "Parameter 'driver' is missing",
    "driver=bogus": "Parameter 'driver' does not accept value 'bogus'",
    "driver=raw": "Parameter 'file' is missing",
    "driver=raw,file.filename=d": "Parameter 'file.driver' is missing",
    "driver=raw,file.driver=file": "Parameter 'file.filename' is missing",
    "driver=raw,file.driver=bogus": "Parameter 'driver' does not accept value 'bogus'",
    "driver=raw,file.driver=null-co,file.x=1": "Parameter 'file.x' is unexpected",
    "driver=raw,file=n,offset=1k": "Parameter 'offset' expects integer",
    "driver=null-co,size=1.5": "Parameter 'size' expects integer",
    "driver=null-co,latency-ns=1a": "Parameter 'latency-ns' expects integer",
    "driver=null-co,read-only=maybe": "Parameter 'read-only' expects 'on' or 'off'",
    "driver=null-co,cache=x": OBJECT.format("cache"),
    "driver=null-co,cache.direct=x": "Parameter 'cache.direct' expects 'on' or 'off'",
    "driver=null-co,cache.writeback=on": "Parameter 'cache.writeback' is unexpected",
    "driver=null-co,discard=on": "Parameter 'discard' does not accept value 'on'",
    "driver=file,filename=f,locking=x": "Parameter 'locking' does not accept value 'x'",
    "driver=file,filename=f,locking.0=on": "Parameters 'locking.*' are unexpected",
    "driver=file,filename=f,rerror=stop": "Parameter 'rerror' is unexpected",
    "driver=file,filename=f,pr-manager=x": "Parameter 'pr-manager' is unexpected",
    "driver=nbd": "Parameter 'server' is missing",
    "driver=nbd,server=x": OBJECT.format("server"),
    "driver=nbd,server.path=x": "Parameter 'server.type' is missing",
    "driver=nbd,server.type=x": "Parameter 'type' does not accept value 'x'",
    "driver=nbd,server.type=unix": "Parameter 'server.path' is missing",
    "driver=nbd,server.type=inet,server.host=h": "Parameter 'server.port' is missing",
    "driver=nbd,server.type=unix,server.path=/s,tls-creds=t": "Parameter 'tls-creds' is unexpected",
    DEBUG + "inject-error=x": "Invalid parameter type for 'inject-error', expected: array",
    DEBUG + "inject-error.0=x": OBJECT.format("inject-error.0"),
    DEBUG + "inject-error.0.errno=5": "Parameter 'inject-error.0.event' is missing",
    DEBUG + "inject-error.0.event=x": "Parameter 'event' does not accept value 'x'",
    DEBUG + "inject-error.0.event=none,inject-error.0.errno=x": (
        "Parameter 'inject-error.0.errno' expects integer"
    ),
    DEBUG + "inject-error.0.event=none,inject-error.0.foo=x": (
        "Parameter 'inject-error.0.foo' is unexpected"
    ),
    DEBUG + "set-state.0.event=none,set-state.0.new-state=2": (
        "Parameter 'set-state.0.new_state' is missing"
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED_KEYVAL.items(), ids=REFUSED_KEYVAL)
def test_keyval_refused(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_blockdev_options(parse_keyval(text), keyval=True)
    assert caught.value.desc == message


REFUSED_JSON: dict[str, Any] = {
    "driver no string": ({"driver": 1}, "Invalid parameter type for 'driver', expected: string"),
    "size as text": (
        {"driver": "null-co", "size": "1k"},
        "Invalid parameter type for 'size', expected: integer",
    ),
    "no reference": (
        {"driver": "raw", "file": None},
        "Invalid parameter type for 'file', expected: BlockdevRef",
    ),
    "no errno": (
        {"driver": "blkdebug", "image": "n", "inject-error": [{"event": "none", "errno": "x"}]},
        "Invalid parameter type for 'inject-error[0].errno', expected: integer",
    ),
}


@pytest.mark.parametrize(("value", "message"), REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_json_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_blockdev_options(value)
    assert caught.value.desc == message


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "n" * 31])
def test_node_names(name: str) -> None:
    check_node_name(name)


NO_NAMES = {
    "": "Invalid node-name: ''",
    "1a": "Invalid node-name: '1a'",
    "d d": "Invalid node-name: 'd d'",
    "n" * 32: "Node name too long",
}


@pytest.mark.parametrize(("name", "message"), NO_NAMES.items(), ids=NO_NAMES)
def test_no_node_names(name: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        check_node_name(name)
    assert caught.value.desc == message


FLAT: dict[str, Any] = {
    "driver=file,filename=disk.raw": DISK,
    "driver=null-co,size=1M,read-zeroes=yes": BlockdevOptionsNull(
        driver="null-co", size=1 << 20, read_zeroes=True
    ),
    "driver=raw,file.driver=file,file.filename=disk.raw": BlockdevOptionsRaw(
        driver="raw", file=DISK
    ),
    "file.filename=disk.raw": BlockdevOptionsProbed(driver="", file=DISK),
    "file.filename=disk.raw,read-only=on,backing=n": BlockdevOptionsProbed(
        driver="", file=DISK, read_only=True, format_options=(("backing", "n"),)
    ),
    "driver=qcow2,file=n": BlockdevOptionsQcow2(driver="qcow2", file="n"),
    "driver=qcow2,file=n,backing=": BlockdevOptionsQcow2(
        driver="qcow2", file="n", backing=Null.NULL
    ),
    "driver=qcow2,file=n,backing=b,lazy-refcounts=on,l2-cache-size=1M": BlockdevOptionsQcow2(
        driver="qcow2", file="n", backing="b", lazy_refcounts=True, l2_cache_size=1 << 20
    ),
    "driver=qcow2,file=n,backing.driver=null-co,pass-discard-other=on": BlockdevOptionsQcow2(
        driver="qcow2",
        file="n",
        backing=BlockdevOptionsBacking(driver="", flat=(("driver", "null-co"),)),
        pass_discard_other=True,
    ),
    "driver=raw,file=n,backing=": BlockdevOptionsRaw(driver="raw", file="n"),
    "driver=null-co,backing=": NULL,
    "driver=raw,file=n": BlockdevOptionsRaw(driver="raw", file="n"),
    "driver=raw,file.driver=blkdebug,file.image=n": BlockdevOptionsRaw(
        driver="raw", file=BlockdevOptionsBlkdebug(driver="blkdebug", image="n")
    ),
    "driver=blkdebug,image.filename=disk.raw": BlockdevOptionsBlkdebug(
        driver="blkdebug", image=DISK
    ),
    "driver=blkdebug,x-image=disk.raw": BlockdevOptionsBlkdebug(driver="blkdebug", image=DISK),
    "driver=blkdebug,image.driver=null-co,max-discard=1k,inject-error.0.event=none,"
    "inject-error.0.errno=ENOSPC,set-state.0.event=none": BlockdevOptionsBlkdebug(
        driver="blkdebug",
        image=NULL,
        max_discard=1024,
        inject_error=[InjectError(event=BlkdebugEvent.NONE, errno=errno.ENOSPC)],
        set_state=[SetState(event=BlkdebugEvent.NONE, new_state=0)],
    ),
    "driver=nbd,path=/s,export=e": BlockdevOptionsNbd(driver="nbd", server=UNIX, export="e"),
    "driver=nbd,server.type=unix,server.path=/s": BlockdevOptionsNbd(driver="nbd", server=UNIX),
    "driver=nbd,host=h": BlockdevOptionsNbd(
        driver="nbd",
        server=InetSocketAddress(type=SocketAddressType.INET, host="h", port="10809"),
    ),
    "driver=null-co,discard=on,cache.direct=on,detect-zeroes=on": BlockdevOptionsNull(
        driver="null-co",
        discard=BlockdevDiscardOptions.UNMAP,
        cache=BlockdevCacheOptions(direct=True),
        detect_zeroes=BlockdevDetectZeroesOptions.ON,
    ),
}


@pytest.mark.parametrize(("text", "options"), FLAT.items(), ids=FLAT)
def test_flat(text: str, options: object) -> None:
    assert open_options(parse_opts(text)) == options


def test_a_name_goes_to_the_protocol_below_the_format() -> None:
    raw = BlockdevOptionsRaw(
        driver="raw", file=BlockdevOptionsBlkdebug(driver="blkdebug", image=DISK)
    )
    assert open_options({"driver": "raw"}, "blkdebug::disk.raw") == raw
    assert open_options({}, "blkdebug::disk.raw") == BlockdevOptionsProbed(driver="", file=raw.file)
    assert open_options({"driver": "blkdebug"}, "disk.raw") == raw.file
    assert open_options({"file.locking": "off"}, "disk.raw") == BlockdevOptionsProbed(
        driver="",
        file=BlockdevOptionsFile(driver="file", filename="disk.raw", locking=OnOffAuto.OFF),
    )


def test_json_names_say_which_driver() -> None:
    assert open_options({"read-only": True}, 'json:{"driver":"null-co"}') == BlockdevOptionsNull(
        driver="null-co", read_only=True
    )


MUST = "Must specify either driver or file"
REFUSED_FLAT = {
    "": MUST,
    "foo=1": MUST,
    "file.x=1": MUST,
    "driver=raw,file.x=1": MUST,
    "driver=bogus": "Unknown driver 'bogus'",
    "driver=raw": 'A block device must be specified for "file"',
    "driver=raw,file.driver=bogus": "Unknown driver 'bogus'",
    "driver=raw,file=n,file.driver=file": (
        "Cannot reference an existing block device with additional options or a new filename"
    ),
    "driver=raw,file.driver=null-co,foo=1": "Block format 'raw' does not support the option 'foo'",
    "driver=raw,file.filename=d,file.foo=1": (
        "Block protocol 'file' doesn't support the option 'foo'"
    ),
    "driver=raw,file.filename=d,locking=on": (
        "Block format 'raw' does not support the option 'locking'"
    ),
    "driver=raw,file.filename=d,file.locking=bogus": "invalid parameter value: bogus",
    "driver=raw,file.filename=d,offset=x": (
        "Parameter 'offset' expects a non-negative number below 2^64"
    ),
    "driver=raw,file.driver=null-co,file.node-name=1x": "Invalid node-name: '1x'",
    "driver=file": "The 'file' block driver requires a file name",
    "driver=file,filename=d,foo=1": "Block protocol 'file' doesn't support the option 'foo'",
    "driver=null-co,discard=x": "Invalid discard option",
    "driver=null-co,detect-zeroes=x": "invalid parameter value: x",
    "driver=null-co,force-share=on": "force-share=on can only be used with read-only images",
    "driver=null-co,latency-ns=x": "Parameter 'latency-ns' expects a number",
    "driver=blkdebug,config=c": 'A block device must be specified for "image"',
    "driver=nbd": "NBD server address missing",
    "driver=nbd,port=5": "NBD server address missing",
    "driver=nbd,host=h,path=/s": "path and host may not be used at the same time",
    "driver=nbd,server.type=unix": "Parameter 'path' is missing",
    "driver=nbd,server.type=x": "Parameter 'type' does not accept value 'x'",
    "driver=nbd,server.path=/s": "Parameter 'type' is missing",
    "driver=nbd,path=/s,reconnect-delay=x": "Parameter 'reconnect-delay' expects a number",
    "driver=nbd,path=/s,tls-creds=t": "Block protocol 'nbd' doesn't support the option 'tls-creds'",
    DEBUG + "inject-error.0.event=x": "invalid parameter value: x",
    DEBUG + "inject-error.1.event=none": "Unused option '1.event' for [inject-error]",
    DEBUG + "inject-error.0.errno=5": "Missing event name for rule",
    DEBUG + "inject-error.0.event=none,inject-error.0.errno=x": (
        "Parameter 'errno' expects a number"
    ),
    DEBUG + "set-state.0.event=none,set-state.0.x=1": (
        "[set-state] section doesn't support the option 'x'"
    ),
    DEBUG + "inject-error=none": (
        "Block protocol 'blkdebug' doesn't support the option 'inject-error'"
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED_FLAT.items(), ids=REFUSED_FLAT)
def test_flat_refused(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        open_options(parse_opts(text))
    assert caught.value.desc == message


def test_name_and_filename_are_one_too_many() -> None:
    with pytest.raises(QmpError) as caught:
        open_options({"driver": "raw", "file.filename": "d"}, "d")
    assert caught.value.desc == "Can't specify 'file' and 'filename' options at the same time"


@pytest.mark.parametrize("name", ["", "file:", "blkdebug::"])
def test_empty_names(name: str) -> None:
    with pytest.raises(QmpError) as caught:
        open_options({}, name)
    assert caught.value.desc == "The 'file' block driver requires a file name"
