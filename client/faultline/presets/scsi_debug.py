# SPDX-License-Identifier: MIT
"""Options of the kernel module scsi_debug, as `modprobe` takes them.

`every_nth` counts all commands of the host, a rule those requests of the drive that
it matches.  From the kernel's drivers/scsi/scsi_debug.c.
"""

from __future__ import annotations

from faultline.presets.words import WRITES, Rule, pairs, refuse

MEDIUM_ERR, TIMEOUT, RECOVERED, TRANSPORT, MAC_TIMEOUT = 2, 4, 8, 16, 128

NOISE = 0x1 | 0x200 | 0x2000 | 0x4000
"""Bits of `opts` that change what the kernel logs."""

REFUSED = {
    RECOVERED: "a command with a recovered error has succeeded, and a drive's client sees no more",
    0x20: "a drive has no protection information",
    0x40: "a drive has no protection information",
    0x100: "NBD has no transfer that is too short",
    0x400: "NBD has no full task set",
    0x800: "NBD has no full task set",
    0x1000: "the write cache is an option of the drive, cache=",
    0x8000: "NBD has no busy host",
    0x10000: "NBD has no command that is aborted",
}
"""Bits of `opts` that a rule cannot have, and why."""

DESCRIBING = frozenset(
    {
        *("dev_size_mb", "virtual_gb", "add_host", "num_tgts", "max_luns", "num_parts"),
        *("physblk_exp", "max_queue", "submit_queues", "ptype", "scsi_level", "removable"),
        *("inq_vendor", "inq_product", "inq_rev", "statistics", "no_uld"),
    }
)
"""Options that describe the disk, which is the drive's own."""

NUMBERS = frozenset(
    {
        *("every_nth", "opts", "medium_error_start", "medium_error_count", "delay", "ndelay"),
        *("sector_size", "CONFIG_HZ"),
    }
)

COMMAND = frozenset({"modprobe", "options", "scsi_debug", "insmod"})

NS_OF_MS = 1_000_000


def rules(text: str, directory: str) -> list[Rule]:
    """Return the rules of a text; `directory` is of no use."""
    given: dict[str, int] = {}
    for name, value in pairs(text, COMMAND):
        name = name.removeprefix("scsi_debug.")
        if name in DESCRIBING:
            continue
        if name not in NUMBERS:
            refuse(name, "no rule stands for it")
        try:
            given[name] = int(value, 0)
        except ValueError:
            refuse(value, f"{name} is a number")
    return [*_timeouts(given), *_medium_errors(given), *_transport_errors(given), *_delays(given)]


def _opts(given: dict[str, int]) -> int:
    opts = given.get("opts", 0) & ~NOISE
    for bit in (1 << at for at in range(opts.bit_length())):
        if not opts & bit or bit in (MEDIUM_ERR, TIMEOUT, TRANSPORT, MAC_TIMEOUT):
            continue
        why = REFUSED.get(bit, "scsi_debug has no such bit")
        refuse(f"opts={given['opts']:#x}", f"bit {bit:#x}: {why}")
    return opts


def _times(given: dict[str, int], bit: int) -> Rule:
    """Return which requests are hit: each nth, or all from the nth on if that is negative."""
    nth = given.get("every_nth", 0)
    if not nth:
        refuse(f"opts={given['opts']:#x}", f"bit {bit:#x} needs every_nth")
    if nth < 0:
        return {"after": -nth - 1} if nth < -1 else {}
    return {"every": nth} if nth > 1 else {}


def _timeouts(given: dict[str, int]) -> list[Rule]:
    opts = _opts(given)
    if opts & TIMEOUT:
        return [{"action": "hang", **_times(given, TIMEOUT)}]
    if opts & MAC_TIMEOUT:
        medium = {"iotype": ["read", *WRITES]}
        return [{"action": "hang", **medium, **_times(given, MAC_TIMEOUT)}]
    return []


def _medium_errors(given: dict[str, int]) -> list[Rule]:
    size = given.get("sector_size", 512)
    first, number = given.get("medium_error_start", 0x1234), given.get("medium_error_count", 10)
    if not _opts(given) & MEDIUM_ERR or not number:
        return []
    place = {"offset": first * size, "length": number * size}
    return [{"iotype": "read", "errno": "EIO", **place}]


def _transport_errors(given: dict[str, int]) -> list[Rule]:
    opts = _opts(given)
    if not opts & TRANSPORT:
        return []
    # A command that times out has no answer in which an error could be.
    times = _times(given, TRANSPORT)
    return [] if opts & TIMEOUT else [{"errno": "EIO", **times}]


def _delays(given: dict[str, int]) -> list[Rule]:
    if given.get("ndelay", 0) > 0:
        ms, rest = divmod(given["ndelay"], NS_OF_MS)
        if rest:
            refuse(f"ndelay={given['ndelay']}", "a rule's delay is in whole milliseconds")
        return [{"action": "delay", "delay-ms": ms}]
    jiffies = given.get("delay", 0)
    if jiffies <= 0:
        return []
    if given.get("CONFIG_HZ", 0) <= 0:
        refuse(f"delay={jiffies}", "it is in jiffies: add CONFIG_HZ=N, as that kernel has it")
    ms, rest = divmod(jiffies * 1000, given["CONFIG_HZ"])
    if rest:
        refuse(f"delay={jiffies}", "a rule's delay is in whole milliseconds")
    return [{"action": "delay", "delay-ms": ms}]
