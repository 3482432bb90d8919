# SPDX-License-Identifier: MIT
"""What `Machine` takes, as the arguments of `faultline serve`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faultline.drives import Drive, Path, blockdev_key, keyval, named


@dataclass(frozen=True, slots=True)
class Plan:
    """One machine, before it is started: options of `serve`, and its KEY=VALUE pairs.

    A machine with options is started anew; without, a spare can become it.
    """

    options: tuple[str, ...]
    keys: tuple[str, ...]
    environ: Mapping[str, str] | None

    @property
    def fits_spare(self) -> bool:
        """Whether a machine that has been started without options can become this one."""
        return not self.options and self.environ is None


def plan(
    drives: Sequence[Drive | Path],
    *,
    blockdevs: Iterable[Mapping[str, Any] | str],
    devices: Iterable[Mapping[str, Any] | str],
    keys: Mapping[str, Any],
    nbd: Path | None,
    control: Path | None,
    options: Sequence[str],
    environ: Mapping[str, str] | None,
) -> Plan:
    """Return the plan of a machine; keys that are None are left out.

    >>> plan(["a.img"], blockdevs=(), devices=(), keys={"prelaunch": True, "seed": None},
    ...      nbd=None, control="m.qmp", options=(), environ=None).keys
    ('drive=file=a.img,id=vda', 'prelaunch=on')
    """
    pairs = [drive.key() for drive in named(drives)]
    pairs += [blockdev_key(definition) for definition in blockdevs]
    pairs += [
        f"device={device if isinstance(device, str) else keyval(device)}" for device in devices
    ]
    for name, value in keys.items():
        if value is not None:
            text = ("on" if value else "off") if isinstance(value, bool) else os.fspath(value)
            pairs.append(f"{name.replace('_', '-')}={text}")
    arguments = list(options)
    for option, path in (("--nbd", nbd), ("--control", control)):
        if path is not None:
            arguments += [option, os.fspath(path)]
    return Plan(tuple(arguments), tuple(pairs), environ)
