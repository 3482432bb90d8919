# SPDX-License-Identifier: MIT
"""Machines that stop: the manager continues those that storage has stopped, and no others."""

from __future__ import annotations

from machines import IMAGE_SIZE, create, stopping, thin
from manager import Policy

from faultline import Drive, event


def test_storage_that_comes_back_after_some_tries(faultline_factory, manage, guests):
    machine = faultline_factory(stopping())
    manager = manage(machine)
    machine.fault("vda", iotype="write", errno="EIO", count=3)
    guests.io(machine.uri, "write -P 5 0 64k", "read -P 5 0 64k").done()
    machine.expect(*["STOP", "RESUME"] * 3, timeout=10)
    assert manager.notes == ["continued"] * 3 and not manager.alerts


def test_storage_that_stays_away(faultline_factory, manage, guests):
    machine = faultline_factory(stopping())
    manager = manage(machine, policy=Policy(tries=2))
    broken = machine.fault("vda", iotype="read", errno="EIO")
    reader = guests.io(machine.uri, "read 0 64k")
    manager.wait("vda: failing after 2 tries, paused")
    assert machine.query_block()[0]["io-status"] == "failed" and reader.waits
    broken.remove()
    machine.cont()
    reader.done()
    assert manager.notes == ["continued"] * 2


def test_a_stop_that_nobody_asked_for(faultline_factory, manage, guests):
    machine = faultline_factory(stopping())
    manager = manage(machine)
    machine.stop()
    writer = guests.io(machine.uri, "write 0 64k")
    manager.wait("paused by somebody else")
    assert machine.query_status()["status"] == "paused" and writer.waits
    machine.cont()
    writer.done()
    assert manager.notes == ["paused by somebody else"]


def test_a_flush_that_fails(faultline_factory, manage, guests):
    machine = faultline_factory(stopping())
    manager = manage(machine)
    machine.fault("vda", iotype="flush", errno="EIO", count=1)
    guests.io(machine.uri, "write -P 5 0 64k", "flush", "read -P 5 0 64k").done()
    machine.expect(event("BLOCK_IO_ERROR", operation="write"), "STOP", "RESUME", timeout=10)
    assert manager.notes == ["continued"]


def test_an_error_that_the_guest_is_told(faultline_factory, manage, guests):
    machine = faultline_factory(Drive(size="16M", id="vda", format="raw"))
    manager = manage(machine)
    machine.fault("vda", iotype="read", errno="EIO", count=1)
    status, printed = guests.io(machine.uri, "read 0 64k").end()
    assert status == 1 and "Input/output error" in printed
    machine.wait_event("BLOCK_IO_ERROR", action="report", timeout=10)
    manager.wait("vda: the guest was told: Input/output error")
    assert machine.query_status()["running"] and not manager.notes


def test_a_drive_without_a_name(faultline_factory, manage, guests):
    node = {"driver": "file", "node-name": "disk", "filename": "disk.img"}
    create("-f", "raw", "disk.img", str(IMAGE_SIZE))
    device = {"driver": "virtio-blk", "id": "vda", "drive": "disk", "werror": "stop"}
    machine = faultline_factory(blockdevs=[node], devices=[device])
    manager = manage(machine)
    for errno in ("ENOSPC", "EIO"):  # a sticky io-status would tell of the first for ever
        machine.fault("disk", iotype="write", errno=errno, count=1)
        guests.io(machine.uri, "write 0 64k").done()
        machine.expect(
            event("BLOCK_IO_ERROR", device="", node_name="disk", nospace=errno == "ENOSPC"),
            "RESUME",
            timeout=10,
        )
    assert manager.notes == ["continued"] * 2


def test_one_of_two_drives_fails(faultline_factory, manage, guests, image):
    machine = faultline_factory(thin("16M", id="vda"), thin("16M", id="vdb"))
    manage(machine)
    machine.fault("vda", iotype="write", errno="ENOSPC", after=3, count=2)
    copies = [guests.copy(image, drive.uri) for drive in machine.drives.values()]
    for copy in copies:
        copy.done()
    machine.expect(event("BLOCK_IO_ERROR", device="vda"), "STOP", "RESUME", timeout=10)
    for drive in machine.drives.values():
        assert guests.same(image, drive.uri)


def test_a_guest_reads_back_what_it_wrote(faultline_factory, manage, guests):
    machine = faultline_factory(stopping())
    manage(machine)
    machine.fault("vda", iotype="write", errno="EIO", after=20, count=2)
    machine.fault("vda", iotype="read", errno="EIO", after=20, count=2)
    job = ["--rw=randwrite", "--bs=64k", "--size=4M", "--verify=crc32c", "--verify_fatal=1"]
    guests.run("fio", "--name=g", "--ioengine=nbd", f"--uri={machine.uri}", *job).done()
    machine.expect("STOP", "RESUME", "STOP", "RESUME", timeout=10)
