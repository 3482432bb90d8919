# SPDX-License-Identifier: MIT
"""Copies that fail halfway: migrations, backups, streams and commits of the manager."""

from __future__ import annotations

import os
import subprocess

import pytest
from machines import add_target, file_of, overlay, stopping

from faultline import CommandError, JobFailed


def test_a_migration_to_a_target_that_fails(faultline_factory, manage, guests, image):
    machine = faultline_factory(stopping(image))
    manager = manage(machine)
    add_target(machine)
    machine.fault("target", iotype="write", errno="EIO", offset="8M")
    with pytest.raises(JobFailed, match="Input/output error"):
        manager.migrate("vda", "target")
    guests.io(machine.uri, "write -P 5 0 64k", "read -P 5 0 64k").done()
    assert file_of(machine) == str(image)
    assert machine.query_status()["running"]


def test_a_migration_to_a_target_that_is_full(faultline_factory, manage, guests, image):
    machine = faultline_factory(stopping(image))
    manager = manage(machine)
    add_target(machine, physical=8 << 20)
    manager.migrate("vda", "target")
    assert "job-vda stopped: nospace" in manager.notes
    assert file_of(machine) == "target"
    assert guests.same(image, machine.uri)


def test_a_backup_to_a_target_that_is_full(faultline_factory, manage, guests, image):
    machine = faultline_factory(stopping(image))
    manager = manage(machine)
    add_target(machine, "qcow2", physical=4 << 20)
    manager.back_up("vda", "target")
    assert "job-vda stopped: nospace" in manager.notes and not manager.alerts
    machine.blockdev_del(node_name="target")
    assert guests.same(image, "target", "qcow2")


def test_an_incremental_backup_again_after_a_failure(faultline_factory, manage, guests, image):
    machine = faultline_factory(stopping(image))
    manager = manage(machine)
    add_target(machine)
    with machine.bitmap("vda", "since") as since:
        manager.back_up("vda", "target")
        guests.io(machine.uri, "write -P 5 1M 2M").done()
        with machine.fault("target", iotype="write", errno="EIO", count=1):
            with pytest.raises(JobFailed, match="Input/output error"):
                manager.back_up("vda", "target", bitmap="since")
        assert since.count() == 2 << 20
        guests.io(machine.uri, "write -P 6 5M 64k").done()
        manager.back_up("vda", "target", bitmap="since")
        assert since.count() == 0
    assert guests.same("target", machine.uri)


@pytest.mark.parametrize("on_error", ["report", "stop", "ignore"])
def test_a_bad_sector_under_a_stream(faultline_factory, manage, guests, image, on_error):
    base = {"backing.node-name": "base"}
    machine = faultline_factory(stopping(overlay(image), "qcow2", **base))
    manager = manage(machine)
    bad = machine.fault("base", iotype="read", errno="EIO", sector=12345)
    if on_error == "stop":
        bad.remove()
        machine.fault("base", iotype="read", errno="EIO", sector=12345, count=2)
        manager.flatten("vda", on_error)
        assert manager.notes == ["job-vda stopped: failed"] * 2
    else:
        with pytest.raises(JobFailed, match="Input/output error"):
            manager.flatten("vda", on_error)
        bad.remove()
    depth = machine.query_block()[0]["inserted"]["backing_file_depth"]
    assert depth == (0 if on_error == "stop" else 1)
    assert guests.same(image, machine.uri)


def test_a_job_can_be_dismissed_only_at_its_end(faultline_factory, image):
    machine = faultline_factory(stopping(image))
    add_target(machine)
    begin = {"device": "vda", "target": "target", "sync": "full", "auto_dismiss": False}
    machine.fault("target", iotype="write", errno="EIO", offset="8M")
    machine.blockdev_backup(job_id="j", speed=1, **begin)
    job = machine.job("j")
    with pytest.raises(CommandError, match="cannot accept command verb 'dismiss'"):
        job.dismiss()
    job.set_speed(0)
    with pytest.raises(JobFailed, match="Input/output error"):
        job.wait()
    assert (job.info().status, job.info().error) == ("concluded", "Input/output error")
    with pytest.raises(CommandError, match="Job ID 'j' already in use"):
        machine.blockdev_backup(job_id="j", **begin)
    job.dismiss()
    with pytest.raises(LookupError):
        job.info()


def test_a_commit_while_the_guest_writes(faultline_factory, manage, guests, image):
    machine = faultline_factory(stopping(overlay(image), "qcow2"))
    manager = manage(machine)
    guests.io(machine.uri, "write -P 5 1M 4M").done()
    machine.fault("vda", iotype="write", errno="EIO", count=4)
    writer = guests.io(machine.uri, "write -P 6 2M 1M", "write -P 7 8M 64k")
    machine.wait_event("STOP", timeout=10)  # its first write fails, and fails again meanwhile
    manager.collapse("vda")
    writer.done()
    machine.wait_event("RESUME", timeout=10)
    checks = ["read -P 5 1M 1M", "read -P 6 2M 1M", "read -P 5 3M 2M", "read -P 7 8M 64k"]
    guests.io(machine.uri, *checks).done()
    assert file_of(machine) == str(image)


def test_a_snapshot_then_its_commit(faultline_factory, manage, guests, image):
    machine = faultline_factory(stopping(image))
    manager = manage(machine)
    machine.blockdev_snapshot_sync(device="vda", snapshot_file="snap", format="qcow2")
    guests.io(machine.uri, "write -P 5 1M 64k").done()
    nodes = {node["file"]: node["node-name"] for node in machine.query_named_block_nodes()}
    machine.fault(nodes[str(image)], iotype="write", errno="EIO", count=1)
    manager.collapse("vda")
    assert "job-vda stopped: failed" in manager.notes
    guests.io(machine.uri, "read -P 5 1M 64k").done()
    assert file_of(machine) == str(image)


def test_a_machine_that_is_killed_under_a_migration(faultline_factory, manage, guests, image):
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, "disk"], check=True)
    machine = faultline_factory(stopping("disk", "qcow2"))
    manager = manage(machine)
    add_target(machine)
    machine.fault("target", iotype="write", errno="EIO", offset="8M")
    members = {"job_id": "m", "sync": "full", "on_target_error": "stop"}
    machine.blockdev_mirror(device="vda", target="target", **members)
    machine.job("m").wait("stopped")
    machine.kill()
    manager.wait("lost the machine")
    guests.run("qemu-img", "check", "disk").done()
    assert guests.same(image, "disk", "qcow2")


@pytest.mark.faultline(stopping())
@pytest.mark.every_io("write", errno="ENOSPC")
def test_a_copy_of_which_each_write_fails_once(faultline_machine, manage, guests, image):
    os.truncate(image, 4 << 20)
    manage(faultline_machine)
    guests.copy(image, faultline_machine.uri).done()
    assert guests.same(image, faultline_machine.uri)
