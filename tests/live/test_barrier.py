# SPDX-License-Identifier: MIT
"""x-barrier: answers when what guests have sent is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import nbd
import pytest

from faultline import CommandError
from live import Live, Qmp


@pytest.fixture(name="live", scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = ("drive=id=vda,driver=null-co", "drive=id=vdb,driver=null-co")
    with Live(tmp_path_factory.mktemp("m"), *keys) as machine:
        yield machine


def test_it_waits_for_what_hangs(live: Live, qmp: Qmp) -> None:
    rule = qmp("x-fault-add", node_name="vda", action="hang")["id"]
    with live.guest("vda") as guest, live.qmp() as other:
        cookies = [guest.aio_pwrite(nbd.Buffer(512), at * 512) for at in range(5)]
        qmp("x-fault-wait", id=rule, hits=5)
        assert qmp("x-barrier", timeout_ms=1) == {"timed-out": True}
        assert qmp("x-barrier", device="vda", timeout_ms=1) == {"timed-out": True}
        assert qmp("x-barrier", device="vdb") == {"timed-out": False}
        waiting: list[object] = []
        thread = threading.Thread(target=lambda: waiting.append(other("x-barrier")))
        thread.start()
        qmp("query-status")
        assert not waiting
        qmp("x-fault-release", id=rule)
        thread.join()
        assert waiting == [{"timed-out": False}]
        assert qmp("x-query-requests") == []
        for cookie in cookies:
            while not guest.aio_command_completed(cookie):
                guest.poll(100)


def test_it_waits_for_what_is_held(live: Live, qmp: Qmp) -> None:
    qmp("stop")
    with live.guest("vda") as guest:
        cookie = guest.aio_pread(nbd.Buffer(512), 0)
        qmp.wait_for(lambda: qmp("x-query-requests"))
        assert qmp("x-barrier", timeout_ms=1)["timed-out"]
        qmp("cont")
        assert not qmp("x-barrier")["timed-out"]
        while not guest.aio_command_completed(cookie):
            guest.poll(100)


def test_in_the_middle_of_traffic(live: Live, qmp: Qmp) -> None:
    """Requests on the shortcut are waited for as well, and the shortcut comes back."""
    with live.guest("vda") as guest:
        go_on = True

        def read() -> None:
            while go_on:
                guest.pread(512, 0)

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(200):
            assert not qmp("x-barrier")["timed-out"]
        go_on = False
        thread.join()


def test_no_such_drive(qmp: Qmp) -> None:
    with pytest.raises(CommandError, match="Cannot find device='vdz' nor node-name='vdz'"):
        qmp("x-barrier", device="vdz")
