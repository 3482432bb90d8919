# SPDX-License-Identifier: MIT
"""The parser of ``device=``: QEMU's ``-device`` as far as it decides how errors are handled.

Known are the properties that all block devices have (`hw/block/block.c`): drive,
rerror, werror, logical_block_size, physical_block_size, write-cache; and those
of `policy_options`, which QEMU lacks.  The text is ``driver,property=value,...``
or a JSON object.
"""

from __future__ import annotations

from typing import Final

from blockcore.config.policy_options import ON_STOP, RETRY_OPTIONS, take_on_stop, take_retry
from blockcore.nodes.definitions.structs import OnOffAuto
from blockcore.qapi.json.stream import parse_json
from blockcore.qapi.keyval import parse_opts, well_formed_id
from blockcore.qapi.names import DeviceOnError, OnStop, QmpError
from blockcore.qapi.qemu import LATEST, Release
from blockcore.qapi.record import dataclass
from blockcore.qapi.texts import opt_size
from blockcore.rules.policy import Retry

BLOCK_SIZE_MIN: Final = 512
BLOCK_SIZE_MAX: Final = 2 << 20
"""Limits of a block size, in bytes (MIN_BLOCK_SIZE and MAX_BLOCK_SIZE in QEMU)."""

DRIVERS: Final = {
    "ide-hd": "ide-hd",
    "scsi-hd": "scsi-hd",
    "virtio-blk": "virtio-blk-device",
    "virtio-blk-pci": "virtio-blk-device",
}
"""Device models, each with the QOM type that has its property `drive`."""


PROPERTIES: Final = (
    *("drive", "id", "rerror", "werror", "logical_block_size", "physical_block_size"),
    "write-cache",
    *(*RETRY_OPTIONS, ON_STOP),
)
"""The properties that a device has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """A device, parsed.

    `drive` is the id of a drive, or the name of a node if no drive has that id.
    A policy of AUTO means the drive's policy, and so does None for `retry` and
    `on_stop`.  Block sizes are in bytes, None if not given or 0.  `write_cache` is
    None if the drive's cache mode stays.
    """

    driver: str
    drive: str
    id: str | None = None
    rerror: DeviceOnError = DeviceOnError.AUTO
    werror: DeviceOnError = DeviceOnError.AUTO
    retry: Retry | None = None
    on_stop: OnStop | None = None
    logical_block_size: int | None = None
    physical_block_size: int | None = None
    write_cache: bool | None = None


def parse_device(text: str, qemu: Release = LATEST) -> DeviceConfig:
    """Parse the value of ``device=``; raises QmpError in the words of the release."""
    # Checks come in QEMU's order: the driver, the id, each property, then (at the device's
    # realize function) properties that contradict each other.
    opts = _json_opts(text) if text.startswith("{") else parse_opts(text, "driver")
    driver = opts.pop("driver", None)
    if driver is None:
        raise QmpError("Parameter 'driver' is missing")
    if driver not in DRIVERS:
        raise QmpError(f"'{driver}' is not a valid device model name")
    device_id = opts.pop("id", None)
    if device_id is not None and not well_formed_id(device_id):
        raise QmpError("Parameter 'id' expects an identifier")
    drive = opts.pop("drive", "")
    policies = _policy(opts, "rerror"), _policy(opts, "werror")
    config = DeviceConfig(
        driver=driver,
        drive=drive,
        id=device_id,
        rerror=policies[0],
        werror=policies[1],
        retry=take_retry(opts, policies),
        on_stop=take_on_stop(opts),
        logical_block_size=_block_size(opts, "logical_block_size", qemu),
        physical_block_size=_block_size(opts, "physical_block_size", qemu),
        write_cache=_write_cache(opts),
    )
    for name in opts:
        raise QmpError(f"Property '{driver}.{name}' not found")
    if not drive:
        raise QmpError("drive property not set")
    if (config.logical_block_size or 512) > (config.physical_block_size or 512):
        raise QmpError("logical_block_size > physical_block_size not supported")
    return config


def _json_opts(text: str) -> dict[str, str]:
    value = parse_json(text)
    assert isinstance(value, dict)
    opts = {}
    for key, item in value.items():
        if isinstance(item, bool):
            item = "on" if item else "off"
        elif not isinstance(item, (str, int)):
            raise QmpError(f"Invalid parameter type for '{key}', expected: string")
        opts[key] = str(item)
    return opts


def _policy(opts: dict[str, str], name: str) -> DeviceOnError:
    """Take a policy out of `opts`.

    As a property, rerror accepts `enospc` as well (BlockdevOnError); ``-drive`` refuses it.
    """
    text = opts.pop(name, "auto")
    if text not in tuple(DeviceOnError):
        raise QmpError(f"Parameter '{name}' does not accept value '{text}'")
    return DeviceOnError(text)


def _write_cache(opts: dict[str, str]) -> bool | None:
    text = opts.pop("write-cache", "auto")
    if text not in tuple(OnOffAuto):
        raise QmpError(f"Parameter 'write-cache' does not accept value '{text}'")
    return None if text == OnOffAuto.AUTO else text == OnOffAuto.ON


def _block_size(opts: dict[str, str], name: str, qemu: Release) -> int | None:
    text = opts.pop(name, None)
    if text is None:
        return None
    try:
        size = opt_size(text, name)
    except QmpError:
        raise QmpError(f"Parameter '{name}' expects size") from None
    text = None
    if size and not BLOCK_SIZE_MIN <= size <= BLOCK_SIZE_MAX:
        text = qemu.block_size_range
    elif size & (size - 1):
        text = qemu.block_size_power
    if text is not None:
        raise QmpError(
            text.format(name=name, size=size, minimum=BLOCK_SIZE_MIN, maximum=BLOCK_SIZE_MAX)
        )
    return size or None
