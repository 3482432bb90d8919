# SPDX-License-Identifier: MIT
"""128 requests of one connection that wait at once, and all others that do not wait for them."""

from __future__ import annotations

from collections.abc import Iterator

import nbd
import pytest

from live import Live, Qmp

DEPTH = 128


@pytest.fixture(name="live", scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = ("drive=id=vda,driver=null-co", "drive=id=vdb,driver=null-co")
    options = ("--threads", str(DEPTH))
    with Live(tmp_path_factory.mktemp("m"), *keys, options=options) as machine:
        yield machine


def until_hit(qmp: Qmp, guest: nbd.NBD, rule: str, hits: int) -> None:
    """Let the client send what its socket has had no room for, until all of it has come."""
    while qmp("x-fault-wait", id=rule, hits=hits, timeout_ms=20)["timed-out"]:
        guest.poll(0)


@pytest.mark.parametrize("waiting", [{"action": "hang"}, {"action": "delay", "delay_ms": 3600_000}])
def test_nobody_else_waits(live: Live, qmp: Qmp, waiting: dict[str, object]) -> None:
    """Not another drive, another connection, the rest of this one, or the control socket."""
    area = {"offset": 0, "length": DEPTH * 512}
    rule = qmp("x-fault-add", node_name="vda", iotype="write", **area, **waiting)["id"]
    with live.guest("vda") as guest:
        cookies = [guest.aio_pwrite(nbd.Buffer(512), at * 512) for at in range(DEPTH - 1)]
        until_hit(qmp, guest, rule, DEPTH - 1)
        assert len(guest.pread(512, 0)) == 512
        cookies.append(guest.aio_pwrite(nbd.Buffer(512), (DEPTH - 1) * 512))
        until_hit(qmp, guest, rule, DEPTH)
        assert len(qmp("x-query-requests")) == DEPTH
        with live.guest("vda") as other, live.guest("vdb") as elsewhere:
            assert len(other.pread(512, 0)) == len(elsewhere.pread(512, 0)) == 512
            other.pwrite(b"1" * 512, DEPTH * 512)
            elsewhere.pwrite(b"1" * 512, 0)
        assert qmp("query-status")["running"]
        assert not any(guest.aio_command_completed(cookie) for cookie in cookies)
        if waiting["action"] == "hang":
            assert qmp("x-fault-release", id=rule) == {"released": DEPTH}
            for cookie in cookies:
                while not guest.aio_command_completed(cookie):
                    guest.poll(1000)
            assert qmp("x-barrier") == {"timed-out": False}
    # A client that goes takes what is delayed with it.
    assert qmp("x-barrier") == {"timed-out": False}
