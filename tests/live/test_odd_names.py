# SPDX-License-Identifier: MIT
"""Names with a NUL, of any length and depth, wherever something is opened: QEMU 7.2's words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from faultline import CommandError
from live import Live, Qmp

NUL = "x\0y"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("names")
    (directory / "d.img").write_bytes(bytes(65536))
    with Live(directory, "drive=id=vda,file=d.img,format=raw") as live:
        yield live
        assert "bug of ours" not in live.log.read_text()


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client


def nbd(**server: str) -> dict[str, Any]:
    export = {"export": server.pop("export")} if "export" in server else {}
    return {"driver": "nbd", "server": server, **export}


def nested(levels: int) -> dict[str, Any]:
    options: dict[str, Any] = {"driver": "null-co"}
    for _ in range(levels):
        options = {"driver": "raw", "file": options}
    return options


def json_name(levels: int) -> str:
    return "json:" + json.dumps(nested(levels))


TOO_DEEP = "JSON nesting depth limit exceeded"

OPENED: dict[str, tuple[dict[str, Any], str]] = {
    "file": (
        {"driver": "file", "filename": NUL},
        f"Could not open '{NUL}': No such file or directory",
    ),
    "blkdebug's configuration": (
        {"driver": "blkdebug", "image": {"driver": "null-co"}, "config": NUL},
        "Could not read blkdebug config file: No such file or directory",
    ),
    "socket": (
        nbd(type="unix", path=NUL),
        f"Failed to connect to '{NUL}': No such file or directory",
    ),
    "long socket": (
        nbd(type="unix", path="x" * 300),
        f"UNIX socket path '{'x' * 300}' is too long",
    ),
    "host": (
        nbd(type="inet", host=NUL, port="1"),
        f"address resolution failed for {NUL}:1: Name or service not known",
    ),
    "long host": (
        nbd(type="inet", host="x" * 300, port="1"),
        f"address resolution failed for {'x' * 300}:1: Name or service not known",
    ),
    "port": (
        nbd(type="inet", host="localhost", port="no"),
        "address resolution failed for localhost:no: Servname not supported for ai_socktype",
    ),
    "long export": (
        nbd(type="unix", path="xy", export="x" * 5000),
        "export name too long to send to server",
    ),
    "export": (nbd(type="unix", path="xy", export=NUL), "Requested export not available"),
    "child": (
        {"driver": "qcow2", "file": NUL},
        f"Cannot find device='{NUL}' nor node-name='{NUL}'",
    ),
    "long file": (
        {"driver": "file", "filename": "x" * 100_000},
        f"Could not open '{'x' * 100_000}': File name too long",
    ),
    "depth": (nested(100), TOO_DEEP),
    "more depth": (nested(900), TOO_DEEP),
}


@pytest.mark.parametrize(("options", "message"), OPENED.values(), ids=OPENED)
def test_blockdev_add(options: dict[str, Any], message: str, qmp: Qmp) -> None:
    refuses(qmp, "blockdev-add", {**options, "node-name": "odd"}, message)


def refuses(qmp: Qmp, command: str, arguments: dict[str, Any], message: str) -> None:
    before = len(qmp("query-named-block-nodes"))
    with pytest.raises(CommandError) as refusal:
        qmp.execute(command, arguments)
    assert (refusal.value.error_class, refusal.value.text) == ("GenericError", message)
    assert len(qmp("query-named-block-nodes")) == before, "nothing is left open"


def test_node_name(qmp: Qmp) -> None:
    options = {"driver": "null-co", "node-name": NUL}
    refuses(qmp, "blockdev-add", options, f"Invalid node-name: '{NUL}'")


TARGETS: dict[str, tuple[str, str]] = {
    "NUL": (NUL, f"Could not open '{NUL}': No such file or directory"),
    "blkdebug": (
        "blkdebug::" * 200 + "x",
        "More than 64 blkdebug devices in one file name",
    ),
    "JSON": (json_name(300), TOO_DEEP),
    "JSON lists": ('json:{"a":' + "[" * 1000 + "]" * 1000 + "}", TOO_DEEP),
    "JSON objects": (
        'json:{"a":' * 1 + '{"a":' * 1020 + "1" + "}" * 1021,
        TOO_DEEP,
    ),
    "JSON brackets": (
        "json:" + "[" * 1025,
        "Could not parse the JSON options: JSON nesting depth limit exceeded",
    ),
    "long JSON": (
        'json:{"a":"' + "x" * 100_000 + '"}',
        "Could not parse the JSON options: File name too long",
    ),
    "NUL in JSON": (
        json.dumps({"driver": "file", "filename": NUL}).join(["json:", ""]),
        f"Could not open '{NUL}': No such file or directory",
    ),
}


@pytest.mark.parametrize("command", ["drive-mirror", "drive-backup"])
@pytest.mark.parametrize(("target", "message"), TARGETS.values(), ids=TARGETS)
def test_existing_targets(target: str, message: str, command: str, qmp: Qmp) -> None:
    arguments = {"device": "vda", "target": target, "sync": "full", "mode": "existing"}
    refuses(qmp, command, arguments, message)


def test_a_new_file_is_called_as_qemu_calls_it(machine: Live, qmp: Qmp) -> None:
    """Its strings are in modified UTF-8."""
    qmp("drive-backup", device="vda", target=NUL, sync="full", format="raw", job_id="j")
    qmp.wait_event("BLOCK_JOB_COMPLETED")
    assert b"x\xc0\x80y" in os.listdir(os.fsencode(machine.directory))


def test_names_that_are_nearly_too_deep(qmp: Qmp) -> None:
    for arguments in (
        {"node-name": "deep", **nested(60)},
        {"node-name": "deep", "driver": "raw", "file": nested(60)},
    ):
        qmp.execute("blockdev-add", arguments)
        qmp("query-named-block-nodes")
        qmp("query-blockstats", query_nodes=True)
        qmp("blockdev-del", node_name="deep")
