# SPDX-License-Identifier: MIT
"""Scenarios for `record_golden.py`: chains of images, and what may be done to their nodes."""

from __future__ import annotations

import json
from typing import Any

from recorder import Recorder, Scenario

DEVICE = "-device virtio-blk-pci,drive=drive0,id=vd0,addr=4,disable-modern=on,disable-legacy=off"

CHAIN = (
    "-blockdev driver=raw,node-name=base,read-only=on,file.driver=file,file.filename=base.raw,"
    "file.node-name=base-file"
    " -blockdev driver=qcow2,node-name=mid,read-only=on,file.driver=file,file.filename=mid.qcow2,"
    "file.node-name=mid-file,backing=base"
    " -drive if=none,id=drive0,node-name=top,driver=qcow2,file.driver=file,"
    "file.filename=top.qcow2,file.node-name=top-file,backing=mid"
    " -blockdev driver=raw,node-name=other,file.driver=file,file.filename=other.raw,"
    f"file.node-name=other-file {DEVICE}"
)

IMAGES = (
    "qemu-img create -f raw base.raw 2M",
    "qemu-io -f raw -c 'write -P 0x11 0 2M' base.raw",
    "qemu-img create -f qcow2 -b base.raw -F raw mid.qcow2",
    "qemu-img create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2",
    "qemu-img create -f raw other.raw 2M",
    "qemu-img create -f raw ro.raw 2M",
    "qemu-img create -f qcow2 free.qcow2 2M",
    "qemu-img create -f qcow2 spare.qcow2 2M",
)


def look(r: Recorder) -> None:
    """All that can be seen of drives and nodes."""
    r.qmp("query-block")
    r.qmp("query-blockstats")
    r.qmp("query-blockstats", {"query-nodes": True})
    r.qmp("query-named-block-nodes", {"flat": True})
    r.qmp("query-named-block-nodes")


def snapshot(r: Recorder, **arguments: Any) -> None:
    r.qmp("blockdev-snapshot-sync", {k.replace("_", "-"): v for k, v in arguments.items()})


def refused_snapshots(r: Recorder) -> None:
    """blockdev-snapshot-sync and blockdev-snapshot: whatever is refused, in every mode"""
    drive = {"device": "drive0"}
    snapshot(r, node_name="mid", snapshot_file="s", snapshot_node_name="s")
    snapshot(r, **drive, snapshot_file="s", snapshot_node_name="9")
    snapshot(r, **drive, snapshot_file="s", snapshot_node_name="top")
    snapshot(r, **drive, snapshot_file="s", snapshot_node_name="drive0")
    snapshot(r, **drive, snapshot_file="s", format="raw")
    snapshot(r, **drive, snapshot_file="s", format="file")
    snapshot(r, **drive, snapshot_file="s", format="nope")
    snapshot(r, **drive, snapshot_file="missing", mode="existing")
    snapshot(r, **drive, snapshot_file="other.raw", mode="existing")
    snapshot(r, **drive, snapshot_file="ro.raw", mode="existing", format="raw")
    snapshot(r, **drive, snapshot_file="nope:x")
    snapshot(r, **drive, snapshot_file="")
    snapshot(r, **drive, snapshot_file="missing/s")
    snapshot(r, **drive, node_name="other", snapshot_file="s")
    snapshot(r, device="top", snapshot_file="s")
    snapshot(r, snapshot_file="s")
    r.qmp("blockdev-snapshot", {"node": "drive0", "overlay": "other"})
    r.qmp("blockdev-snapshot", {"node": "top", "overlay": "nope"})
    r.qmp("blockdev-snapshot", {"node": "nope", "overlay": "other"})
    r.qmp("blockdev-snapshot", {"node": "mid", "overlay": "other"})
    r.qmp("blockdev-add", blockdev("over", "free.qcow2", backing="other"))
    r.qmp("blockdev-snapshot", {"node": "top", "overlay": "over"})
    filter_node = {"driver": "blkdebug", "node-name": "filter", "image": "other"}
    r.qmp("blockdev-add", filter_node)
    r.qmp("blockdev-snapshot", {"node": "top", "overlay": "filter"})
    look(r)


def snapshot_targets(r: Recorder) -> None:
    """blockdev-snapshot-sync: file names of all kinds, to be made and to be found"""
    drive = {"device": "drive0"}
    for name in ("./top.qcow2", "top.qcow2", "base.raw", ".", "file:missing/s", "null-co://"):
        snapshot(r, **drive, snapshot_file=name)
    for name in ("blkdebug::s", "json:{", "nbd:", "nbd://", "nbd:unix:missing", "nbd:missing"):
        snapshot(r, **drive, snapshot_file=name)
        snapshot(r, **drive, snapshot_file=name, mode="existing")
    for image_format in ("file", "nbd", "blkdebug", "null-co"):
        snapshot(r, **drive, snapshot_file="s", format=image_format)
    snapshot(r, **drive, snapshot_file="null-co://", format="raw")
    snapshot(r, **drive, snapshot_file="null-co://", format="null-co", mode="existing")
    spare = {"driver": "file", "filename": "spare.qcow2"}
    for backing in ("other", None):
        options = {"driver": "qcow2", "file": spare, "backing": backing}
        name = f"json:{json.dumps(options)}"
        snapshot(r, **drive, snapshot_file=name, mode="existing")
    look(r)
    snapshot(r, **drive, snapshot_file="blkdebug::free.qcow2", mode="existing")
    snapshot(r, **drive, snapshot_file="file:a:b", snapshot_node_name="ab")
    look(r)


def blockdev(name: str, filename: str, **more: Any) -> dict[str, Any]:
    """A qcow2 node of that name, and its file."""
    file = {"driver": "file", "filename": filename, "node-name": f"{name}-file"}
    return {"driver": "qcow2", "node-name": name, "file": file, **more}


def snapshots(r: Recorder) -> None:
    """snapshots of every kind, one after the other, and what can be seen of them"""
    look(r)
    snapshot(r, device="drive0", snapshot_file="s1", snapshot_node_name="s1")
    look(r)
    r.qmp("blockdev-add", blockdev("s2", "free.qcow2", backing=None))
    r.qmp("blockdev-snapshot", {"node": "drive0", "overlay": "s2"})
    r.qmp("blockdev-snapshot", {"node": "other", "overlay": "s2"})
    r.qmp("blockdev-del", {"node-name": "s2"})
    r.qmp("blockdev-del", {"node-name": "s1"})
    look(r)
    snapshot(r, node_name="s2", snapshot_file="s3", snapshot_node_name="s3")
    snapshot(r, node_name="other", snapshot_file="s4", snapshot_node_name="s4")
    snapshot(
        r, device="drive0", snapshot_file="spare.qcow2", snapshot_node_name="s5", mode="existing"
    )
    look(r)
    for image in ("s5", "s3", "mid", "base", "other", "nope"):
        rename = {"device": "drive0", "image-node-name": image, "backing-file": "renamed"}
        r.qmp("change-backing-file", rename)
    for device in ("s5", "s3", "other", "nope"):
        rename = {"device": device, "image-node-name": "s3", "backing-file": "again"}
        r.qmp("change-backing-file", rename)
    rename = {"device": "drive0", "image-node-name": "s3", "backing-file": "x" * 1100}
    r.qmp("change-backing-file", rename)
    look(r)


def transactions(r: Recorder) -> None:
    """transactions with snapshots: together, undone, and one on top of another"""

    def action(**data: Any) -> dict[str, Any]:
        named = {key.replace("_", "-"): value for key, value in data.items()}
        return {"type": "blockdev-snapshot-sync", "data": named}

    first = action(device="drive0", snapshot_file="t1", snapshot_node_name="t1")
    second = action(node_name="other", snapshot_file="t2", snapshot_node_name="t2")
    wrong = action(node_name="base", snapshot_file="t3", snapshot_node_name="t3")
    again = action(device="drive0", snapshot_file="t4", snapshot_node_name="t4")
    abort = {"type": "abort", "data": {}}
    r.qmp("transaction", {"actions": [first, second, wrong]})
    look(r)
    r.qmp("transaction", {"actions": [first, abort]})
    r.qmp("transaction", {"actions": [first], "properties": {"completion-mode": "grouped"}})
    look(r)
    r.qmp("transaction", {"actions": [first, second]})
    look(r)
    r.qmp("transaction", {"actions": [again]})
    look(r)


def conflicts(r: Recorder) -> None:
    """users of nodes that cannot live with each other; operations that something forbids"""
    for node in ("mid", "base", "top-file", "mid-file", "other-file", "other", "top", "base-file"):
        r.qmp("block_resize", {"node-name": node, "size": 4 << 20})
    r.qmp("block_resize", {"device": "drive0", "size": 5 << 20})
    r.qmp("block_resize", {"device": "drive0", "size": 100})
    r.qmp("block_resize", {"device": "drive0", "size": 1 << 62})
    for node in ("top", "mid", "base", "top-file", "mid-file", "other-file", "nope"):
        r.qmp("blockdev-del", {"node-name": node})
    r.qmp("blockdev-add", blockdev("free", "free.qcow2", backing=None))
    definitions: dict[str, dict[str, Any]] = {
        "n1": {"driver": "raw", "file": "top-file"},
        "n2": {"driver": "raw", "file": "top-file", "read-only": True},
        "n3": {"driver": "raw", "file": "top"},
        "n4": {"driver": "raw", "file": "top", "size": 512},
        "n5": {"driver": "raw", "file": "mid"},
        "n6": {"driver": "qcow2", "file": "free-file"},
        "n7": {"driver": "qcow2", "file": "free-file", "read-only": True},
        "n8": {"driver": "qcow2", "file": "nope"},
        "n9": {"driver": "raw", "file": "other", "offset": 512},
        "n10": blockdev("n10", "spare.qcow2", backing="nope"),
        "n11": blockdev("n11", "spare.qcow2", backing="top"),
        "n12": {"driver": "qcow2", "file": "other"},
        "n13": {"driver": "blkdebug", "image": "free-file"},
    }
    for name, definition in definitions.items():
        r.qmp("blockdev-add", {"node-name": name, **definition})
    r.qmp("blockdev-del", {"node-name": "other"})
    r.qmp("blockdev-del", {"node-name": "free"})
    look(r)


def reopened_nodes(r: Recorder) -> None:
    """blockdev-reopen: what can be changed, and what cannot"""

    def reopen(*options: dict[str, Any]) -> None:
        r.qmp("blockdev-reopen", {"options": list(options)})

    r.qmp("blockdev-add", {"driver": "file", "node-name": "ro-file", "filename": "ro.raw"})
    r.qmp("blockdev-add", {"driver": "raw", "node-name": "ro", "file": "ro-file"})
    r.qmp("blockdev-add", blockdev("free", "free.qcow2", backing=None))
    free = {"driver": "qcow2", "node-name": "free", "file": "free-file"}
    raw = {"driver": "raw", "node-name": "ro", "file": "ro-file"}
    file = {"driver": "file", "node-name": "ro-file", "filename": "ro.raw"}
    top = {"driver": "qcow2", "node-name": "top", "file": "top-file"}
    reopen({"driver": "raw", "file": "ro-file"})
    reopen({**raw, "node-name": "nope"})
    reopen({**raw, "driver": "qcow2"})
    reopen({**raw, "read-only": True})
    reopen({**raw, "offset": 512, "size": 1024})
    r.qmp("query-named-block-nodes", {"flat": True})
    reopen({**raw, "offset": 4 << 20})
    reopen({**raw, "file": "nope"})
    reopen({**raw, "file": "ro"})
    reopen({**raw, "file": {"driver": "file", "filename": "ro.raw"}})
    reopen({**raw, "detect-zeroes": "unmap"})
    reopen({**raw, "detect-zeroes": "unmap", "discard": "unmap"})
    reopen({**raw, "cache": {"no-flush": True}}, {**file, "read-only": True})
    r.qmp("query-named-block-nodes", {"flat": True})
    reopen({**raw, "file": "other-file"})
    reopen({**raw, "file": "other"})
    r.qmp("query-named-block-nodes", {"flat": True})
    reopen(raw)
    reopen({**file, "filename": "other.raw"})
    reopen({**file, "locking": "off"})
    reopen({**file, "driver": "raw"})
    reopen(free)
    reopen({**free, "backing": None})
    reopen({**free, "backing": "other"})
    r.qmp("query-named-block-nodes", {"flat": True})
    reopen({**free, "backing": "free"})
    reopen({**free, "backing": None, "lazy-refcounts": False, "l2-cache-size": 1 << 20})
    reopen({**free, "backing": "top"})
    reopen({**top, "backing": "mid", "read-only": True})
    reopen({**top, "backing": "base"})
    reopen({**top, "backing": None, "discard": "unmap"})
    reopen({**top, "backing": "free"})
    reopen({**top, "backing": "mid"})
    look(r)


def kinds_of_image(r: Recorder) -> None:
    """what is shown of qcow2 images of several kinds"""
    look(r)


def backing_options(r: Recorder) -> None:
    """options that change a part of what the headers of images say"""
    look(r)


def devices(count: int) -> str:
    """A virtio-blk for each of so many drives."""
    return "".join(
        f" -device virtio-blk-pci,drive=drive{n},id=vd{n},addr={4 + n},"
        "disable-modern=on,disable-legacy=off"
        for n in range(count)
    )


OPTIONS = " ".join(
    f"-drive if=none,id=drive{n},driver=qcow2,{options}"
    for n, options in enumerate(
        (
            "file.driver=file,file.filename=sub/above,backing.node-name=named,"
            "backing.backing.file.node-name=base",
            "file.driver=file,file.filename=plain,backing.driver=file,backing.node-name=file",
            "file.driver=file,file.filename=plain2,backing.driver=raw,backing.node-name=raw",
            "file.driver=file,file.filename=named,backing.file.filename=sub/base.raw,"
            "backing.cache.direct=on",
            "'file=json:{\"driver\":\"qcow2\",,\"file.filename\":\"old\"},backing='",
        )
    )
) + devices(5)

KINDS_SETUP = (
    "qemu-img create -f raw base.raw 1M",
    "qemu-img create -f qcow2 -o compat=0.10,cluster_size=4k old 1M",
    "qemu-img create -f qcow2 -o lazy_refcounts=on lazy 1M",
    "qemu-img create -f qcow2 -b base.raw -F raw named",
    "qemu-img create -f qcow2 -b base.raw -F raw plain",
    "qemu-img create -f qcow2 -b base.raw -F raw plain2",
    "mkdir -p sub",
    "qemu-img create -f qcow2 -b named -F qcow2 above",
    "mv above sub/above",
    "cp named sub/named",
    "cp base.raw sub/base.raw",
)

KINDS = (
    "-drive if=none,id=drive0,driver=qcow2,file.driver=file,file.filename=old"
    " -drive if=none,id=drive1,file=lazy,format=qcow2"
    " -drive if=none,id=drive2,file=sub/above,format=qcow2"
    " -drive if=none,id=drive3,driver=raw,file.driver=qcow2,file.file.driver=file,"
    "file.file.filename=plain,read-only=on"
    + devices(4)
)

SCENARIOS = {
    f"chain-{run.__name__.replace('_', '-')}": Scenario(run=run, options=CHAIN, setup=IMAGES)
    for run in (refused_snapshots, snapshot_targets, snapshots, transactions)
    + (conflicts, reopened_nodes)
} | {
    "chain-kinds-of-image": Scenario(run=kinds_of_image, options=KINDS, setup=KINDS_SETUP),
    "chain-backing-options": Scenario(run=backing_options, options=OPTIONS, setup=KINDS_SETUP),
}
