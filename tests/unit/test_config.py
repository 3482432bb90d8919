# SPDX-License-Identifier: MIT
"""KEY=VALUE pairs: what they configure, and QEMU's words for what they cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcore.config.config import Config, ConfigParser, parse_config
from blockcore.config.device_config import DeviceConfig
from blockcore.config.drive_config import DriveConfig
from blockcore.nodes.definitions.options import (
    BlockdevOptionsBlkdebug,
    BlockdevOptionsFile,
    BlockdevOptionsNull,
    BlockdevOptionsProbed,
    BlockdevOptionsRaw,
)
from blockcore.nodes.definitions.structs import BlockdevCacheOptions
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    DeviceOnError,
    QmpError,
)
from blockcore.qapi.qemu import LATEST
from blockcore.rules.throttle import Limit, ThrottleConfig
from tree import RECORDINGS

NULL = "if=none,id=d,driver=null-co"
FILE = "if=none,id=d,file=d.raw,format=raw"


def drive(text: str) -> DriveConfig:
    (only,) = parse_config([("drive", text)]).drives
    return only


def device(text: str) -> DeviceConfig:
    (only,) = parse_config([("drive", NULL), ("device", text)]).devices
    return only


def test_nothing() -> None:
    assert parse_config([]) == Config()


def test_machine() -> None:
    pairs = [
        ("control", "a b.sock"),
        ("prelaunch", "on"),
        ("job-error-check", "modern"),
        ("seed", "0x10"),
        ("name", "vm"),
    ]
    assert parse_config(pairs) == Config(
        control="a b.sock", prelaunch=True, job_error_check_modern=True, seed=16, name="vm"
    )


def test_drive_without_more() -> None:
    assert drive("file=d.raw") == DriveConfig(
        id="virtio0",
        interface="virtio",
        rerror=DeviceOnError.REPORT,
        werror=DeviceOnError.ENOSPC,
        read_only=False,
        writeback=True,
        detect_zeroes=BlockdevDetectZeroesOptions.OFF,
        throttle=None,
        throttle_group="virtio0",
        account_invalid=True,
        account_failed=True,
        options=BlockdevOptionsProbed(
            driver="",
            read_only=False,
            auto_read_only=True,
            file=BlockdevOptionsFile(driver="file", filename="d.raw"),
        ),
        copy_on_read=False,
    )


def test_drive_with_everything() -> None:
    config = drive(
        "if=ide,id=d,media=disk,format=raw,file=blkdebug:c:a,,b,file.node-name=p,node-name=n,"
        "rerror=stop,werror=ignore,readonly=on,cache=directsync,copy-on-read=on,snapshot=off,"
        "discard=unmap,detect-zeroes=unmap,aio=native,iops_rd=7,bps=5,group=g,"
        "throttling.bps-total-max=6,throttling.bps-total-max-length=2,iops_size=512,"
        "stats-account-invalid=off,stats-account-failed=off"
    )
    assert config == DriveConfig(
        id="d",
        interface="ide",
        rerror=DeviceOnError.STOP,
        werror=DeviceOnError.IGNORE,
        read_only=True,
        writeback=False,
        detect_zeroes=BlockdevDetectZeroesOptions.UNMAP,
        throttle=ThrottleConfig(bps_total=Limit(5, 6, 2), iops_read=Limit(7), iops_size=512),
        throttle_group="g",
        account_invalid=False,
        account_failed=False,
        options=BlockdevOptionsRaw(
            driver="raw",
            node_name="n",
            discard=BlockdevDiscardOptions.UNMAP,
            cache=BlockdevCacheOptions(direct=True, no_flush=False),
            read_only=True,
            auto_read_only=True,
            detect_zeroes=BlockdevDetectZeroesOptions.UNMAP,
            file=BlockdevOptionsBlkdebug(
                driver="blkdebug",
                node_name="p",
                config="c",
                image=BlockdevOptionsFile(driver="file", filename="a,b"),
            ),
        ),
        copy_on_read=False,
    )


CACHES = {
    "": (True, None, None),
    ",cache=none": (True, True, False),
    ",cache=off": (True, True, False),
    ",cache=writeback": (True, False, False),
    ",cache=unsafe": (True, False, True),
    ",cache=directsync": (False, True, False),
    ",cache=writethrough": (False, False, False),
    ",cache=none,cache.direct=off": (True, False, False),
    ",cache=writethrough,cache.writeback=on": (True, False, False),
    ",cache.writeback=off": (False, None, None),
}


@pytest.mark.parametrize(("text", "modes"), CACHES.items(), ids=CACHES)
def test_cache_modes(text: str, modes: tuple[bool, bool | None, bool | None]) -> None:
    config = drive(NULL + text)
    cache = config.options.cache or BlockdevCacheOptions()
    assert (config.writeback, cache.direct, cache.no_flush) == modes


def test_protocols_need_no_format() -> None:
    assert drive(NULL + ",size=1M").options == BlockdevOptionsNull(
        driver="null-co", read_only=False, auto_read_only=True, size=1 << 20
    )
    json_name = drive('file=json:{"driver":"null-co",,"read-only":true}').options
    assert (json_name.driver, json_name.read_only) == ("null-co", False)


def test_automatic_ids() -> None:
    interfaces = ["virtio", "none", "ide", "ide", "ide", "scsi", "virtio"] + 7 * ["scsi"]
    pairs = [("drive", f"if={interface},driver=null-co") for interface in interfaces]
    assert [config.id for config in parse_config(pairs).drives] == [
        *("virtio0", "none0", "ide0-hd0", "ide0-hd1", "ide1-hd0", "scsi0-hd0", "virtio1"),
        *("scsi0-hd1", "scsi0-hd2", "scsi0-hd3", "scsi0-hd4", "scsi0-hd5", "scsi0-hd6"),
        "scsi1-hd0",
    ]


@pytest.mark.parametrize(
    "text", ["null-co,node-name=n,size=512", '{"driver":"null-co","node-name":"n","size":512}']
)
def test_blockdev(text: str) -> None:
    assert parse_config([("blockdev", text)]).blockdevs == (
        BlockdevOptionsNull(driver="null-co", node_name="n", size=512),
    )


def test_device() -> None:
    text = (
        "virtio-blk-pci,drive=d,id=vd0,rerror=enospc,werror=auto,logical_block_size=4k,"
        "physical_block_size=4096,write-cache=off"
    )
    expected = DeviceConfig(
        driver="virtio-blk-pci",
        drive="d",
        id="vd0",
        rerror=DeviceOnError.ENOSPC,
        werror=DeviceOnError.AUTO,
        logical_block_size=4096,
        physical_block_size=4096,
        write_cache=False,
    )
    assert device(text) == expected
    as_json = {
        key: value for key, _, value in (part.partition("=") for part in text.split(",")[1:])
    }
    assert device(json.dumps({"driver": "virtio-blk-pci", **as_json})) == expected


@pytest.mark.parametrize("driver", ["virtio-blk", "virtio-blk-pci", "ide-hd", "scsi-hd"])
def test_devices(driver: str) -> None:
    assert device(f"{driver},drive=d") == DeviceConfig(driver=driver, drive="d")


def test_a_device_may_name_a_node() -> None:
    pairs = [
        ("device", "virtio-blk,drive=inner"),
        ("device", "virtio-blk,drive=top"),
        ("blockdev", "raw,node-name=top,file.driver=blkdebug,file.image.driver=null-co"),
        ("drive", f"{NULL},node-name=outer"),
        ("blockdev", "raw,node-name=r,file.driver=null-co,file.node-name=inner"),
    ]
    assert [config.drive for config in parse_config(pairs).devices] == ["inner", "top"]


FILE_F = "file.driver=file,file.filename=x,file.node-name=f"

NESTED = {
    "raw": f"driver=raw,node-name=top,{FILE_F}",
    "qcow2": f"driver=qcow2,node-name=top,{FILE_F}",
    "backing": "driver=qcow2,node-name=top,file.driver=null-co,backing.driver=qcow2,"
    + ",".join(f"backing.{option}" for option in FILE_F.split(",")),
    "below blkdebug": "driver=qcow2,node-name=top,file.driver=blkdebug,"
    + ",".join(f"file.{option.replace('file.', 'image.', 1)}" for option in FILE_F.split(",")),
}
"""Definitions with a node `f` somewhere inside."""


@pytest.mark.parametrize("definition", NESTED.values(), ids=NESTED)
def test_a_device_may_name_a_node_inside_of_another(definition: str) -> None:
    found = parse_config([("blockdev", definition), ("device", "virtio-blk,drive=f")])
    assert [one.drive for one in found.devices] == ["f"]
    with pytest.raises(QmpError) as caught:
        parse_config([("blockdev", definition), ("device", "virtio-blk,drive=g")])
    assert caught.value.desc == "Property 'virtio-blk-device.drive' can't find value 'g'"


@pytest.mark.parametrize("definition", NESTED.values(), ids=NESTED)
def test_names_are_checked_inside_as_well(definition: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_config([("blockdev", definition.replace("node-name=f", "node-name=2f"))])
    assert caught.value.desc == "Invalid node-name: '2f'"


def test_a_device_may_name_a_node_that_a_drive_has_inside() -> None:
    drive = f"if=none,id=d,format=qcow2,{FILE_F},backing.node-name=b"
    for name in ("f", "b"):
        parse_config([("drive", drive), ("device", f"virtio-blk,drive={name}")])



RANGE = "bps/iops/max values must be within [0, 1000000000000000]"

REFUSED_DRIVES = {
    FILE + ",read-only=bogus": "Parameter 'read-only' expects 'on' or 'off'",
    FILE + ",readonly=on,read-only=off": (
        "'read-only' and its alias 'readonly' can't be used at the same time"
    ),
    FILE + ",cache=bogus": "invalid cache option",
    FILE + ",cache.direct=maybe": "Parameter 'cache.direct' expects 'on' or 'off'",
    FILE + ",cache.writeback=maybe": "Parameter 'cache.writeback' expects 'on' or 'off'",
    FILE + ",cache.no-flush=maybe": "Parameter 'cache.no-flush' expects 'on' or 'off'",
    FILE + ",discard=bogus": "Invalid discard option",
    FILE + ",detect-zeroes=bogus": "invalid parameter value: bogus",
    FILE + ",throttling.bps-total=x": "Parameter 'throttling.bps-total' expects a number",
    FILE + ",bps=x": "Parameter 'throttling.bps-total' expects a number",
    FILE + ",bps=-1": RANGE,
    FILE + ",bps=10,throttling.bps-total=20": (
        "'throttling.bps-total' and its alias 'bps' can't be used at the same time"
    ),
    FILE + ",throttling.bps=10": "Block format 'raw' does not support the option 'throttling.bps'",
    FILE + ",bps_max=10": "bps_max/iops_max require corresponding bps/iops values",
    FILE + ",throttling.bps-total-max-length=0": "the burst length cannot be 0",
    FILE + ",throttling.iops-size=5": "iops size requires an iops value to be set",
    FILE + ",iops=99999999999999999999": (
        "Value '99999999999999999999' is too large for parameter 'throttling.iops-total'"
    ),
    FILE + ",copy-on-read=maybe": "Parameter 'copy-on-read' expects 'on' or 'off'",
    FILE + ",snapshot=maybe": "Parameter 'snapshot' expects 'on' or 'off'",
    FILE + ",snapshot=on": "snapshot=on is not supported",
    FILE + ",media=bogus": "'bogus' invalid media",
    FILE + ",media=cdrom": "media=cdrom is not supported",
    FILE + ",driver=raw": "Cannot specify both 'driver' and 'format'",
    FILE + ",foo=bar": "Block format 'raw' does not support the option 'foo'",
    FILE + ",serial=x": "Block format 'raw' does not support the option 'serial'",
    FILE + ",file.foo=bar": "Block protocol 'file' doesn't support the option 'foo'",
    FILE + ",aio=bogus": "invalid aio option",
    FILE + ",index=x": "Parameter 'index' expects a number",
    FILE + ",index=0": "Parameter 'index' is not supported: drives have no place on a bus",
    "if=none,file=d.raw,format=bogus": "Unknown driver 'bogus'",
    "if=none,driver=raw": 'A block device must be specified for "file"',
    "if=none,file=foo:bar": "Unknown protocol 'foo'",
    "if=none,file=blkdebug:x": "blkdebug requires both config file and image path",
    "if=none,foo=1": "Must specify either driver or file",
    "if=none": "Device needs media, but drive is empty",
    "if=none,file=": "Device needs media, but drive is empty",
    "if=bogus,media=bogus": "'bogus' invalid media",
    "if=bogus,driver=null-co": "unsupported bus type 'bogus'",
    "if=floppy,driver=null-co,rerror=stop": "rerror is not supported by this bus type",
    "if=sd,driver=null-co,rerror=stop,werror=stop": "werror is not supported by this bus type",
    "if=pflash,driver=null-co": "if=pflash is not supported",
    "if=none,id=1d,driver=null-co": "Parameter 'id' expects an identifier",
    "if=none,id=,driver=null-co": "Parameter 'id' expects an identifier",
    NULL + ",node-name=1a": "Invalid node-name: '1a'",
    NULL + ",rerror=enospc": "'enospc' invalid read error action",
    NULL + ",rerror": "'on' invalid read error action",
    NULL + ",werror=bogus": "'bogus' invalid write error action",
    NULL + ",werror=auto": "'auto' invalid write error action",
    NULL + ",rerror=x,werror=y": "'y' invalid write error action",
    NULL + ",rerror=x,cache=y": "invalid cache option",
    NULL + ",rerror=x,media=y": "'y' invalid media",
    NULL + ",rerror=x,bps=1,bps_rd=1": (
        "bps/iops/max total values and read/write values cannot be used at the same time"
    ),
    NULL + ",rerror=x,foo=1": "'x' invalid read error action",
    NULL + ",werror=x,format=raw": "Cannot specify both 'driver' and 'format'",
    NULL + ",discard=x,aio=y": "invalid aio option",
}


@pytest.mark.parametrize(("text", "message"), REFUSED_DRIVES.items(), ids=REFUSED_DRIVES)
def test_drives_refused(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        drive(text)
    assert caught.value.desc == message


REFUSED_DEVICES = {
    "": "Parameter 'driver' is missing",
    "drive=d": "Parameter 'driver' is missing",
    "bogus,drive=d": "'bogus' is not a valid device model name",
    "virtio-blk-pci": "drive property not set",
    "virtio-blk-pci,drive=": "drive property not set",
    "virtio-blk-pci,drive=x": "Property 'virtio-blk-device.drive' can't find value 'x'",
    "virtio-blk,drive=x": "Property 'virtio-blk-device.drive' can't find value 'x'",
    "ide-hd,drive=x": "Property 'ide-hd.drive' can't find value 'x'",
    "virtio-blk-pci,drive=d,id=1a": "Parameter 'id' expects an identifier",
    "virtio-blk-pci,drive=d,foo=1": "Property 'virtio-blk-pci.foo' not found",
    "virtio-blk-pci,drive=d,rerror=bogus": "Parameter 'rerror' does not accept value 'bogus'",
    "virtio-blk-pci,drive=d,werror=": "Parameter 'werror' does not accept value ''",
    "virtio-blk-pci,drive=d,write-cache=yes": "Parameter 'write-cache' does not accept value 'yes'",
    "virtio-blk-pci,drive=d,logical_block_size=x": "Parameter 'logical_block_size' expects size",
    "virtio-blk-pci,drive=d,logical_block_size=513": (
        "parameter logical_block_size must be a power of 2 between 512 and 2097152"
    ),
    "virtio-blk-pci,drive=d,logical_block_size=256": (
        "parameter logical_block_size must be a power of 2 between 512 and 2097152"
    ),
    "virtio-blk-pci,drive=d,logical_block_size=4k": (
        "logical_block_size > physical_block_size not supported"
    ),
    '{"driver":': "JSON parse error, premature EOI",
    '{"driver":"virtio-blk","drive":null}': "Invalid parameter type for 'drive', expected: string",
}


@pytest.mark.parametrize(("text", "message"), REFUSED_DEVICES.items(), ids=REFUSED_DEVICES)
def test_devices_refused(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        device(text)
    assert caught.value.desc == message


ONCE = {
    **{"control": "c", "prelaunch": "on", "seed": "1", "name": "n", "qemu": "7.2"},
    **{"job-error-check": "strict", "allow-backing": "none", "record": "r", "record-data": "on"},
}

REFUSED_PAIRS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "unknown key": ([("foo", "1")], "Invalid parameter 'foo'"),
    "prelaunch": ([("prelaunch", "x")], "Parameter 'prelaunch' expects 'on' or 'off'"),
    "record": ([("record", "")], "Parameter 'record' expects the name of a file"),
    "record-data": ([("record-data", "x")], "Parameter 'record-data' expects 'on' or 'off'"),
    "seed": ([("seed", "x")], "Parameter 'seed' expects a number"),
    "control": (
        [("control", "tcp:localhost:4444,server=on")],
        "'tcp:localhost:4444,server=on' is an address, and this is the path of a Unix socket"
        "; for TCP relay it: socat TCP-LISTEN:4444,bind=localhost,fork,reuseaddr"
        " UNIX-CONNECT:SOCKET (for a file of that name, ./tcp:localhost:4444,server=on)",
    ),
    "allow-backing": (
        [("allow-backing", "/a:")],
        "Parameter 'allow-backing' expects DIR[:DIR...] or 'none'",
    ),
    **{
        f"{key} twice": ([(key, value)] * 2, f"Parameter '{key}' is given twice")
        for key, value in ONCE.items()
    },
    "seed-negative": ([("seed", " -1")], "Parameter 'seed' expects a non-negative number"),
    "job-error-check": (
        [("job-error-check", "x")],
        "Parameter 'job-error-check' does not accept value 'x' (it may be strict or modern)",
    ),
    "same drive": ([("drive", NULL)] * 2, "Duplicate ID 'd' for drive"),
    "same device": (
        [("drive", NULL)] + [("device", "virtio-blk,drive=d,id=a")] * 2,
        "Duplicate ID 'a' for device",
    ),
    "two devices": (
        [("drive", NULL)] + [("device", "virtio-blk,drive=d")] * 2,
        "Drive 'd' is already in use by another device",
    ),
    "connected by itself": (
        [("drive", "id=d,driver=null-co"), ("device", "virtio-blk,drive=d")],
        (
            "Drive 'd' is already in use because it has been automatically connected to another"
            " device (did you need 'if=none' in the drive options?)"
        ),
    ),
    "read-only hard disk": (
        [("drive", NULL + ",readonly=on"), ("device", "ide-hd,drive=d")],
        "Block node is read-only",
    ),
    "blockdev without a name": (
        [("blockdev", "driver=null-co")],
        "'node-name' must be specified for the root node",
    ),
    "blockdev keyval": (
        [("blockdev", "driver=file,filename")],
        "Expected '=' after parameter 'filename'",
    ),
    "blockdev driver": (
        [("blockdev", "a")],
        "Parameter 'driver' does not accept value 'a'",
    ),
    "blockdev JSON": (
        [("blockdev", '{"driver":"null-co"')],
        "JSON parse error, premature EOI",
    ),
    "blockdev two JSONs": (
        [("blockdev", '{"driver":"null-co"} x')],
        "Expecting at most one JSON value",
    ),
    "blockdev with a bad name": (
        [("blockdev", "raw,node-name=n,file.driver=null-co,file.node-name=1a")],
        "Invalid node-name: '1a'",
    ),
    "too deep": (
        [("drive", "file=" + 2000 * "blkdebug::" + "d.raw")],
        "More than 64 blkdebug devices in one file name",
    ),
    "keys too deep": (
        [("blockdev", "driver=raw,file." + 2000 * "file." + "driver=null-co")],
        "Parameter 'file' nests too deeply",
    ),
    "JSON too deep": (
        [("blockdev", 100 * '{"driver":"raw","file":' + "{}" + 100 * "}")],
        "JSON nesting depth limit exceeded",
    ),
    "JSON name too deep": (
        [("drive", "file=json:" + 100 * '{"driver":"raw",,"file":' + "{}" + 100 * "}")],
        "JSON nesting depth limit exceeded",
    ),
    "blockdev with a policy": (
        [("blockdev", "driver=file,filename=d,node-name=n,rerror=stop")],
        "Parameter 'rerror' is unexpected",
    ),
}


@pytest.mark.parametrize(("pairs", "message"), REFUSED_PAIRS.values(), ids=REFUSED_PAIRS)
def test_pairs_refused(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_config(pairs)
    assert caught.value.desc == message


def test_a_wrong_pair_is_named() -> None:
    parser = ConfigParser()
    for pair in (("drive", NULL), ("name", "vm"), ("seed", "x"), ("prelaunch", "on")):
        parser.add(*pair)
    with pytest.raises(QmpError):
        parser.finish()
    assert parser.pair == "seed=x"


REFUSED_BY_7_2 = {
    "virtio-blk-pci,drive=d,logical_block_size=513": (
        "Property .logical_block_size doesn't take value '513', it's not a power of 2"
    ),
    "virtio-blk-pci,drive=d,logical_block_size=256": (
        "Property .logical_block_size doesn't take value 256 (minimum: 512, maximum: 2097152)"
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED_BY_7_2.items(), ids=REFUSED_BY_7_2)
def test_the_release_may_come_last(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_config([("drive", f"if=none,{NULL}"), ("device", text), ("qemu", "7.2")])
    assert caught.value.desc == message


def test_releases() -> None:
    assert parse_config([]).qemu is LATEST is parse_config([("qemu", "10.0")]).qemu
    assert parse_config([("qemu", "7.2")]).qemu.version == (7, 2, 22)
    with pytest.raises(QmpError) as caught:
        parse_config([("qemu", "8.2")])
    assert caught.value.desc == (
        "Parameter 'qemu' does not accept value '8.2' (it may be 7.2 or 10.0)"
    )


WORDS = st.sampled_from(
    "driver raw file image blkdebug null-co nbd server.type inject-error.0.event id if none drive"
    ' virtio-blk-pci json: {} [ " : // , = . 0 node-name cache bps on 1k \udc80 \u0665'.split()
)


@given(
    st.sampled_from(["drive", "blockdev", "device", "seed"]),
    st.lists(WORDS | st.text(max_size=3), max_size=12).map("".join),
)
def test_whatever_is_typed_is_configured_or_refused(key: str, value: str) -> None:
    try:
        parse_config([(key, value)])
    except QmpError as error:
        assert error.desc


RECORDED = json.loads((RECORDINGS["7.2"] / "cli-errors.json").read_text())


@pytest.mark.parametrize("case", RECORDED, ids=[" ".join(case["args"]) for case in RECORDED])
def test_recorded(case: dict[str, Any]) -> None:
    """All of the recorded command lines apply."""
    options, values = case["args"][::2], case["args"][1::2]
    pairs = [
        (option.removeprefix("-"), value) for option, value in zip(options, values, strict=True)
    ]
    if case["rc"] == 0:
        parse_config(pairs)
        return
    with pytest.raises(QmpError) as caught:
        parse_config(pairs)
    prefix = f"qemu-system-x86_64: {options[-1]} {values[-1]}: "
    assert case["stderr"] == prefix + caught.value.desc
