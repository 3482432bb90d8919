# SPDX-License-Identifier: MIT
"""Rules as objects of the client library, with a guest whose requests they hit."""

from __future__ import annotations

import nbd
import pytest

from faultline import Drive, Machine, TimedOut

DRIVE = Drive(size="1M", id="vda", format="raw")


def connected(m: Machine) -> nbd.NBD:
    guest = nbd.NBD()
    guest.connect_uri(m.drives["vda"].uri)
    return guest


def test_requests_are_held_and_let_go() -> None:
    with Machine(DRIVE) as m, m.fault("vda", action="hang", iotype="write") as fault:
        guest = connected(m)
        cookies = [guest.aio_pwrite(nbd.Buffer(512), at * 512) for at in range(3)]
        assert fault.wait(3) == 3
        with pytest.raises(TimedOut, match=r"^requests are in flight after 0\.01 s"):
            m.barrier("vda", timeout=0.01)
        assert fault.release() == 3
        m.barrier()
        for cookie in cookies:
            while not guest.aio_command_completed(cookie):
                guest.poll(100)
        guest.shutdown()


def test_waiting_for_what_cannot_come() -> None:
    with Machine(DRIVE) as m:
        guest = connected(m)
        fault = m.fault("vda", errno="EIO", iotype="read", count=1)
        with pytest.raises(nbd.Error):
            guest.pread(512, 0)
        with pytest.raises(LookupError, match="rule fault0 is over after 1 hits of 2"):
            fault.wait(2)
        fault.modify(count=3)
        with pytest.raises(TimedOut, match=r"rule fault0 has hit 1 requests of 2 within 0\.01 s"):
            fault.wait(2, timeout=0.01)
        guest.shutdown()


def test_a_change_renews_what_is_wrong_with_a_rule() -> None:
    with Machine(DRIVE) as m, m.fault("vda", state=4) as fault:
        assert [text.partition(" is set")[0] for text in fault.warnings] == ["'state' 4"]
        fault.modify(state=1, offset="64k", length=512)
        assert fault.warnings == ()
        assert (fault.info()["offset"], fault.info()["length"]) == (65536, 512)
