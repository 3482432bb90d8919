# SPDX-License-Identifier: MIT
"""Drives that run full, or seem to: the manager extends their volumes."""

from __future__ import annotations

from machines import thin

WATCHED = {"vda": "vda-file"}


def test_a_volume_grows_before_it_is_full(faultline_factory, manage, guests):
    machine = faultline_factory(thin("8M"))
    manager = manage(machine, thin=WATCHED)
    guests.io(machine.uri, "write 0 7M").done()
    manager.wait("extended vda")
    guests.io(machine.uri, "write 7M 4M").done()
    assert "STOP" not in [event.name for event in machine.events]
    assert "continued" not in manager.notes


def test_an_extension_that_comes_late(faultline_factory, manage, guests, image):
    machine = faultline_factory(thin("8M"))
    manager = manage(machine, thin=WATCHED, latency_ms=300)
    copy = guests.copy(image, machine.uri)
    machine.expect("BLOCK_IO_ERROR", "STOP", "X_VOLUME_EXTENDED", "RESUME", timeout=10)
    copy.done()
    assert "continued" in manager.notes
    assert guests.same(image, machine.uri)


def test_a_threshold_event_that_was_missed(faultline_factory, manage, guests):
    machine = faultline_factory(thin("8M"))
    guests.io(machine.uri, "write 0 7M").done()
    manager = manage(machine, thin=WATCHED)
    assert manager.notes == ["extended vda"]
    assert machine.volume("vda").info()["physical-size"] == 12 << 20


def test_full_is_told_though_there_is_room(faultline_factory, manage, guests):
    machine = faultline_factory(thin("8M"))
    manager = manage(machine, thin=WATCHED)
    machine.fault("vda", iotype="write", errno="ENOSPC", count=2)
    guests.io(machine.uri, "write 0 64k").done()
    assert machine.volume("vda").info()["physical-size"] == 8 << 20
    assert manager.alerts == ["vda: says that it is full, and has room"] * 2
    assert manager.notes == ["continued", "continued"]


def test_a_full_volume_tells_another_error(faultline_factory, manage, guests):
    machine = faultline_factory(thin("8M"))
    machine.x_drive_set_policy(device="vda", werror="stop")
    machine.fault("vda", iotype="write", errno="EIO", offset="8M", count=1)
    writer = guests.io(machine.uri, "write 0 7M", "write -P 5 7M 2M", "read -P 5 7M 2M")
    machine.wait_event("STOP", timeout=10)  # the manager is started when all this has happened
    manager = manage(machine, thin=WATCHED)
    writer.done()
    assert manager.notes == ["extended vda", "continued"]
