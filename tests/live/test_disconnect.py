# SPDX-License-Identifier: MIT
"""Connections that a rule hangs up: exactly those, whoever else connects at the moment."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from operator import le
from pathlib import Path

import nbd
import pytest

from live import Live, Qmp

BLOCK = 4096
CLIENTS = 24


@pytest.fixture(name="live", scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = ("drive=id=vda,driver=null-co,rerror=stop,node-name=a", "drive=id=vdb,driver=null-co")
    with Live(tmp_path_factory.mktemp("m"), *keys) as machine:
        yield machine


def is_over(guest: nbd.NBD) -> bool:
    return bool(guest.aio_is_dead() or guest.aio_is_closed())


def hung_up(guest: nbd.NBD, offset: int = 0) -> bool:
    """Read a block; return whether there is no answer, and never will be one."""
    with pytest.raises(nbd.Error) as failed:
        guest.pread(512, offset)
    return is_over(guest) and failed.value.errnum != errno.ESHUTDOWN


def test_one_connection_is_hung_up(live: Live, qmp: Qmp) -> None:
    """The error policy says stop, but no device has failed."""
    rule = qmp("x-fault-add", node_name="vda", action="disconnect", iotype="read", count=1)["id"]
    with live.guest("vda") as other, live.guest("vda") as guest, live.guest("vdb") as elsewhere:
        other.pwrite(b"1", 0)
        assert hung_up(guest)
        assert (len(other.pread(512, 0)), len(elsewhere.pread(512, 0))) == (512, 512)
    assert qmp("query-status")["running"]
    (shown,) = qmp("x-query-faults")
    assert (shown["id"], shown["action"], shown["hits"]) == (rule, "disconnect", 1)
    stats = qmp("query-blockstats")[0]["stats"]
    assert stats["failed_rd_operations"] == 0
    assert qmp.take_events() == []


def test_jobs_have_no_connection(live: Live, qmp: Qmp) -> None:
    qmp("x-fault-add", node_name="vda", action="disconnect")
    qmp("blockdev-add", driver="null-co", node_name="target", size=1 << 30)
    qmp("blockdev-backup", job_id="j", device="vda", target="target", sync="full", speed=1)
    qmp("job-cancel", id="j")
    qmp.wait_event("BLOCK_JOB_CANCELLED", device="j")
    qmp("blockdev-del", node_name="target")
    assert qmp("x-query-faults")[0]["seen"] == 0


def test_clients_that_connect_at_the_same_time(live: Live, qmp: Qmp) -> None:
    """Which socket is whose is decided while all of them open."""
    for number in range(0, CLIENTS, 2):
        qmp(
            "x-fault-add", node_name="vda", action="disconnect", offset=number * BLOCK,
            length=BLOCK, iotype="read", id=f"d{number}",
        )
    guests = [nbd.NBD() for _ in range(CLIENTS)]
    threads = [
        threading.Thread(target=guest.connect_uri, args=(live.uri("vda"),)) for guest in guests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, guest in enumerate(guests):
        if number % 2:
            assert len(guest.pread(512, number * BLOCK)) == 512
        else:
            assert hung_up(guest, number * BLOCK)
    for guest in guests[1::2]:
        assert len(guest.pread(512, CLIENTS * BLOCK)) == 512
        guest.shutdown()


def test_requests_in_flight_are_not_answered(live: Live, qmp: Qmp) -> None:
    qmp("x-fault-add", node_name="vda", action="hang", offset=0, length=BLOCK)
    qmp("x-fault-add", node_name="vda", action="disconnect", offset=BLOCK, length=BLOCK)
    with live.guest("vda") as other:
        guest = nbd.NBD()
        guest.connect_uri(live.uri("vda"))
        cookies = [guest.aio_pread(nbd.Buffer(512), 0) for _ in range(8)]
        qmp.wait_for(lambda: len(qmp("x-query-requests")) == 8)
        with pytest.raises(nbd.Error):
            guest.pread(512, BLOCK)
        for cookie in cookies:
            with pytest.raises(nbd.Error):
                guest.aio_command_completed(cookie)
        qmp.wait_for(lambda: not qmp("x-query-requests"))
        assert len(other.pread(512, 4 * BLOCK)) == 512
        assert qmp("x-query-faults")[0].get("hanging", 0) == 0


def test_a_machine_hangs_up_and_goes_on(tmp_path: Path) -> None:
    """Of connections that were hung up no thread and no descriptor is left."""
    with Live(tmp_path, "drive=id=vda,driver=null-co") as live, live.qmp() as qmp:

        def left() -> tuple[int, ...]:
            process = Path(f"/proc/{live.pid}")
            return tuple(len(list((process / name).iterdir())) for name in ("task", "fd"))

        threads, descriptors = left()  # some of which may be those of the start, and end soon
        qmp("x-fault-add", node_name="vda", action="disconnect")
        for _ in range(20):
            with live.guest("vda") as guest:
                guest.aio_pread(nbd.Buffer(512), 0)
                assert hung_up(guest)
        qmp.wait_for(lambda: all(map(le, left(), (threads, descriptors))))
        assert qmp("query-status")["running"]
