# SPDX-License-Identifier: MIT
"""The assembly of a machine: nodes and drives from the values that users gave."""

from __future__ import annotations

from itertools import count

from blockcore.config.device_config import DeviceConfig
from blockcore.config.drive_config import DriveConfig
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.guest_request import Device
from blockcore.machine.graph_changes import blockdev_add
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.qapi.names import DeviceOnError, OnStop, QmpError
from blockcore.rules.accounting import BlockAcctStats
from blockcore.rules.policy import DEFAULT_RETRY


class Assembly:
    """The steps that add nodes, drives and devices to a machine at its start.

    Call `add_node` for all nodes first, then `add_drive`, then `add_device`, each
    in the order of the configuration: QEMU creates them in that order
    (configure_blockdev, qemu_create_cli_devices).  Each step raises
    QmpError if it fails.  Nothing is undone then, because the process ends.
    """

    def __init__(self, machine: Machine, devices: tuple[DeviceConfig, ...]) -> None:
        self._machine = machine
        self._devices = {device.drive: device for device in devices}
        # QEMU numbers devices without an id in the order in which it makes them (qdev_set_id).
        # Those that drives imply (if=virtio) come after those that were given.
        self._nameless = [device for device in devices if device.id is None]
        self._implied = count(len(self._nameless))

    async def add_node(self, options: BlockdevOptions) -> None:
        """Add the node of a `blockdev=`."""
        await blockdev_add(self._machine, options)

    async def add_drive(self, drive: DriveConfig) -> None:
        """Add a drive and its root node (`drive=`).

        The drive's device is the `device=` that names it, if there is one, else a
        virtio disk as with if=virtio.
        """
        device = self._devices.pop(drive.id, None)
        machine = self._machine
        root = await machine.graph.open(drive.options)
        if drive.id in machine.graph.nodes:
            raise QmpError(f"Device name '{drive.id}' conflicts with an existing node name")
        if root.why_read_only is not None:
            raise QmpError(root.why_read_only)
        if drive.copy_on_read:
            if root.read_only:
                raise QmpError("Can't use copy-on-read on read-only device")
            # What is copied on a read was there before: no write that a cache could lose.
            data = root.filtered if drive.is_volatile else None
            (data or root).enable_copy_on_read()
        blk = BlockBackend(
            machine,
            name=drive.id,
            export=drive.id,
            root=root,
            device=self._device(device),
            rerror=_policy(device.rerror if device else None, drive.rerror),
            werror=_policy(device.werror if device else None, drive.werror),
            retry=(device and device.retry) or drive.retry,
            on_stop=(device and device.on_stop) or drive.on_stop,
            writeback=_writeback(device, drive.writeback),
            stats=BlockAcctStats(
                account_invalid=drive.account_invalid, account_failed=drive.account_failed
            ),
        )
        machine.add_backend(blk)
        if drive.throttle is not None:
            machine.set_throttle(blk, drive.throttle, drive.throttle_group)

    async def add_device(self, device: DeviceConfig) -> None:
        """Add the drive of a `device=` on a node: it has no name, like QEMU's anonymous backend.

        Does nothing for a `device=` on a drive, which `add_drive` has taken care of.
        """
        root = self._machine.graph.nodes.get(device.drive)
        if root is None:
            return
        if root.why_read_only is not None:
            raise QmpError(root.why_read_only)
        blk = BlockBackend(
            self._machine,
            name="",
            export=device.id or device.drive,
            root=root,
            device=self._device(device),
            rerror=_policy(device.rerror, DeviceOnError.REPORT),
            werror=_policy(device.werror, DeviceOnError.ENOSPC),
            retry=device.retry or DEFAULT_RETRY,
            on_stop=device.on_stop or OnStop.HOLD,
            writeback=_writeback(device, True),
        )
        self._machine.add_backend(blk)

    def _device(self, device: DeviceConfig | None) -> Device:
        """Return the device of a drive, with its path in QEMU's object tree (qom-path).

        None stands for a device that the drive implies.
        """
        if device is None:
            number = next(self._implied)
            return Device(path=f"/machine/peripheral-anon/device[{number}]/virtio-backend")
        if device.id is None:
            place = f"/machine/peripheral-anon/device[{self._nameless.index(device)}]"
        else:
            place = f"/machine/peripheral/{device.id}"
        virtio = device.driver.startswith("virtio-blk")
        return Device(
            path=f"{place}/virtio-backend" if virtio else place,
            id=device.id,
            logical_block_size=device.logical_block_size,
            physical_block_size=device.physical_block_size,
        )


def _policy(of_device: DeviceOnError | None, of_drive: DeviceOnError) -> DeviceOnError:
    """Return the policy in force: the device's, or the drive's where the device says `auto`.

    (blkconf_apply_backend_options)
    """
    return of_drive if of_device is None or of_device is DeviceOnError.AUTO else of_device


def _writeback(device: DeviceConfig | None, of_drive: bool) -> bool:
    chosen = None if device is None else device.write_cache
    return of_drive if chosen is None else chosen
