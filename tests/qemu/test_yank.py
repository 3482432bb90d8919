# SPDX-License-Identifier: MIT
"""`yank`: what waits for a server that hangs is rid of it, at once, whoever waits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beside_qemu import Shared, Side
from blockcore.qapi.qemu import RELEASES
from faultline import CommandError
from hung_place import BLOCK, FAR, SIZE, Place, wait_null
from live import Flight, Live, Qmp, freeze
from nbd_servers import killed, nbdkit, silent
from wire import Wire

FAR_NODE = "driver=nbd,{prefix}node-name=far,{prefix}server.type=unix,{prefix}server.path=kit.sock"
ON_FAR = f"drive=id=a,{FAR_NODE.format(prefix='')},rerror=report,werror=report"
CHAIN = (
    "drive=id=a,node-name=top,driver=qcow2,file.driver=file,file.filename=top.qcow2,"
    "backing.driver=qcow2,backing.node-name=mid,"
    "backing.file.driver=file,backing.file.filename=mid.qcow2,"
    "backing.backing." + FAR_NODE.format(prefix="backing.backing.")
)


def instance(name: str) -> dict[str, str]:
    return {"type": "block-node", "node-name": name}


def yank(qmp: Qmp, *names: str) -> None:
    qmp("yank", instances=[instance(name) for name in names])


def send(wire: Wire, command: str, *, how: str = "execute", **arguments: Any) -> None:
    """Send a command, with itself for an id, and do not wait for its answer."""
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    wire.send(json.dumps({how: command, "arguments": named, "id": command}).encode())


@pytest.fixture(name="chain")
def _chain(tmp_path: Path) -> Iterator[tuple[Place, Live, Qmp]]:
    """A drive `a` whose chain ends at a server: top, mid, far."""
    for image in ("top", "mid"):
        create = ["qemu-img", "create", "-q", "-f", "qcow2", f"{image}.qcow2", str(SIZE)]
        subprocess.run(create, cwd=tmp_path, check=True)
    write = ["qemu-io", "-c", "write 64k 64k", "mid.qcow2"]
    subprocess.run(write, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    place = Place(tmp_path, CHAIN)
    with place.machine() as (live, qmp):
        with live.guest("a") as guest:
            guest.pwrite(b"t" * BLOCK, 0)
        yield place, live, qmp


@pytest.mark.parametrize("cancelled", [False, True], ids=["reports", "cancelled"])
@pytest.mark.parametrize(
    ("command", "arguments", "done"),
    [("block-stream", {}, 128 << 10), ("block-commit", {"top_node": "mid"}, 64 << 10)],
    ids=["stream", "commit"],
)
def test_a_job_that_hangs_on_its_own_chain(
    command: str,
    arguments: dict[str, str],
    done: int,
    cancelled: bool,
    chain: tuple[Place, Live, Qmp],
) -> None:
    """To cancel it is not enough: it has to finish what it does to the chain of the drive.

    With `done` bytes behind it, it is about the first one that it needs the server for.
    """
    place, live, qmp = chain
    place.hang()
    qmp(command, job_id="ja", device="a", **arguments)
    qmp.wait_for(lambda: [job["offset"] for job in qmp("query-block-jobs")] == [done])
    if cancelled:
        qmp("job-cancel", id="ja")
    place.use_the_other(live, qmp)
    assert [job["status"] for job in qmp("query-jobs")] == ["running"]
    yank(qmp, "far")
    if cancelled:
        qmp.wait_event("BLOCK_JOB_CANCELLED")
    else:
        ended = qmp.wait_event("BLOCK_JOB_COMPLETED").data
        assert ended["error"] == "Input/output error"
    wait_null(qmp, "ja")
    with live.guest("a") as guest:
        assert guest.pread(BLOCK, 0) == b"t" * BLOCK
        guest.pwrite(b"w" * BLOCK, 0)


def test_a_guest(tmp_path: Path) -> None:
    """What it waits for fails, and so does all that comes later, as in QEMU."""
    place = Place(tmp_path, ON_FAR)
    with place.machine() as (live, qmp), live.guest("a") as guest:
        guest.pwrite(b"w" * BLOCK, 0)
        place.hang()
        flight = Flight()
        requests = [flight.read(guest, n * BLOCK, BLOCK) for n in range(6)]
        requests += [flight.write(guest, 6 * BLOCK, b"x" * BLOCK), flight.send(guest, "flush")]
        flight.arrived(qmp)
        with pytest.raises(CommandError) as failed:
            yank(qmp, "far", "nobody")
        assert failed.value.error_class == "DeviceNotFound"
        assert failed.value.text == "Instance not found"
        place.use_the_other(live, qmp)
        flight.poll(0)
        assert all(request.outcome is None for request in requests), "one of two is not cut off"
        yank(qmp, "far")
        assert flight.land(*requests) == ["EIO"] * 8
        place.go_on()
        assert flight.land(flight.read(guest, 0, BLOCK)) == ["EIO"]
        assert qmp("query-yank") == [instance("far")]
        yank(qmp, "far", "far")
        qmp("stop")
        qmp("cont")


def test_in_a_drained_section(tmp_path: Path) -> None:
    place = Place(tmp_path, ON_FAR)
    with place.machine() as (live, qmp), live.guest("a") as guest, live.wire() as stuck:
        guest.pread(BLOCK, 0)
        place.hang()
        flight = Flight()
        read = flight.read(guest, 0, BLOCK)
        flight.arrived(qmp)
        send(stuck, "blockdev-snapshot-sync", device="a", snapshot_file="s.qcow2")
        place.use_the_other(live, qmp)
        yank(qmp, "far")
        assert flight.land(read) == ["EIO"]
        assert "id" in stuck.reply()


def test_a_node_whose_last_flush_hangs(tmp_path: Path) -> None:
    """It is not to be found any more, but for this."""
    place = Place(tmp_path)
    with place.machine() as (live, qmp), live.wire() as stuck:
        qmp.execute("blockdev-add", FAR)
        qmp("blockdev-backup", job_id="ja", device="a", target="far", sync="full")
        wait_null(qmp, "ja")
        place.hang()
        send(stuck, "blockdev-del", node_name="far")
        qmp.wait_for(lambda: "far" not in {n["node-name"] for n in qmp("query-named-block-nodes")})
        place.use_the_other(live, qmp)
        assert qmp("query-yank") == [instance("far")]
        yank(qmp, "far")
        assert stuck.reply()["return"] == {}
        assert qmp("query-yank") == []


def test_a_server_that_does_not_greet(tmp_path: Path) -> None:
    """Who has asked to open the node can give it up himself, out of band."""
    place = Place(tmp_path)
    with silent(tmp_path / "mute.sock"), place.machine() as (live, qmp):
        with Wire.connect(live.control) as stuck:
            assert stuck.receive()["QMP"]["capabilities"] == ["oob"]
            send(stuck, "qmp_capabilities", enable=["oob"])
            assert stuck.reply()["return"] == {}
            mute: dict[str, Any] = {**FAR, "node-name": "mute", "open-timeout": 4000}
            mute["server"] = {"type": "unix", "path": "mute.sock"}
            send(stuck, "blockdev-add", **mute)
            send(stuck, "query-version")
            qmp.wait_for(lambda: qmp("query-yank") == [instance("mute")])
            place.use_the_other(live, qmp)
            send(stuck, "query-yank", how="exec-oob")
            assert stuck.reply() == {"return": [instance("mute")], "id": "query-yank"}
            send(stuck, "query-status", how="exec-oob")
            refused = "The command query-status does not support OOB"
            assert stuck.reply()["error"]["desc"] == refused
            send(stuck, "yank", how="exec-oob", instances=[instance("mute")])
            assert stuck.reply() == {"return": {}, "id": "yank"}
            failed = stuck.reply()
            assert failed["id"] == "blockdev-add"
            reason = "Failed to connect to 'mute.sock': Operation canceled"
            assert failed["error"]["desc"] == reason
            assert stuck.reply()["id"] == "query-version"
            assert qmp("query-yank") == []


def test_a_server_that_has_gone_and_does_not_come_back(tmp_path: Path) -> None:
    """A request that waits for `reconnect-delay` does not any more."""
    place = Place(tmp_path, f"{ON_FAR},reconnect-delay=4000")
    with place.machine() as (live, qmp), live.guest("a") as guest:
        guest.pread(BLOCK, 0)
        place.server.kill()
        place.server.wait()
        flight = Flight()
        read = flight.read(guest, 0, BLOCK)
        flight.arrived(qmp)
        yank(qmp, "far")
        assert flight.land(read) == ["EIO"]
        with killed(nbdkit(tmp_path, "memory", str(SIZE))):
            assert flight.land(flight.read(guest, 0, BLOCK)) == ["EIO"]


def refused(m: Side) -> None:
    for instances in (
        [],
        [instance("nobody")],
        [instance("d0")],
        [{"type": "chardev", "id": "nobody"}],
        [{"type": "migration"}],
        [{"type": "migration", "id": "m"}],
        [{"type": "block-node"}],
        [{"type": "drive", "id": "drive0"}],
        [{"node-name": "far"}],
        instance("far"),
    ):
        m("yank", instances=instances)
    m("yank")


def listed(m: Side) -> None:
    """Also what is below another node, and has no name of its own."""
    with killed(nbdkit(m.directory, "memory", "1M")):
        far = {key: value for key, value in FAR.items() if key != "node-name"}
        m("blockdev-add", node_name="n1", **far)
        m("blockdev-add", node_name="over", driver="raw", file=far)
        m("blockdev-add", node_name="n0", **far)
        m("blockdev-del", node_name="n1")
        m("blockdev-add", node_name="n1", **far)
        m("yank", instances=[instance("over")])
        kept = [each for each in m.ask("query-yank") if each["type"] != "chardev"]
        m.replies.append(["query-yank", [m._anywhere(each) for each in kept]])
        for name in ("n1", "over", "n0"):
            m("blockdev-del", node_name=name)


def under_a_job(m: Side) -> None:
    """It gets the error that any other would be; the node is of no use any more."""
    server = nbdkit(m.directory, "memory", "1M")
    with killed(server):
        m("blockdev-add", **FAR)
        m("blockdev-add", node_name="null", driver="null-co", size=1 << 20, read_zeroes=True)
        freeze(server)
        m("blockdev-backup", job_id="j", device="far", target="null", sync="full")
        m("yank", instances=[instance("far"), instance("far")])
        m.status("j", "null")
        m("blockdev-backup", job_id="k", device="far", target="null", sync="full")
        m.status("k", "null")
        m("yank", instances=[instance("far")])
        m("blockdev-del", node_name="far")
        m("yank", instances=[instance("far")])
        m("blockdev-del", node_name="null")


@pytest.mark.parametrize("case", [refused, listed, under_a_job], ids=lambda case: case.__name__)
def test_beside_qemu(case: Any, machines: Shared) -> None:
    machines.play(case)


@pytest.mark.parametrize("release", RELEASES)
def test_the_schema_says_that_it_may_be_out_of_band(release: str, tmp_path: Path) -> None:
    with Live(tmp_path, "drive=driver=null-co", f"qemu={release}") as live, live.qmp() as qmp:
        schema = qmp("query-qmp-schema")
        assert {entry["name"] for entry in schema if entry.get("allow-oob")} == {
            "yank",
            "query-yank",
        }
