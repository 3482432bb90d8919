# SPDX-License-Identifier: MIT
"""Faults in the languages of other tools, translated into the arguments of x-fault-add; no I/O.

============  =================================================================
language      text
============  =================================================================
dm-flakey     a device-mapper table; its targets may also be the next two,
dm-delay      linear and dust (`device_mapper`)
dm-error
dm-dust       messages to a dust target, or a list of its bad blocks (`dust`)
scsi_debug    options of the kernel module (`scsi_debug`)
nbdkit-error  parameters of nbdkit's error filter (`nbdkit_error`)
nbdkit-delay  parameters of nbdkit's delay filter (`nbdkit_delay`)
blkdebug      a file of QEMU's blkdebug (`blkdebug`)
============  =================================================================

Each module has `rules`, from a text to the members of rules, without the node's name.
What a language can say and a rule cannot raises ValueError, which names the word
(`words`); so does what the tool itself would refuse.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

LANGUAGES = {
    "dm-flakey": "device_mapper",
    "dm-delay": "device_mapper",
    "dm-error": "device_mapper",
    "dm-dust": "dust",
    "scsi_debug": "scsi_debug",
    "nbdkit-error": "nbdkit_error",
    "nbdkit-delay": "nbdkit_delay",
    "blkdebug": "blkdebug",
}
"""The module of each language, imported when it is first used."""


def translate(language: str, text: str, node: str, directory: str = "/") -> list[dict[str, Any]]:
    """Return the rules that a text means, on a node or drive.

    Names of files in the text begin in `directory`.

    >>> translate("nbdkit-error", "error=ENOSPC error-pwrite-rate=50%", "vda")
    [{'node-name': 'vda', 'iotype': 'write', 'errno': 'ENOSPC', 'rate': 0.5}]
    """
    if language not in LANGUAGES:
        raise ValueError(f"'{language}' is none of {', '.join(LANGUAGES)}")
    module = import_module(f"faultline.presets.{LANGUAGES[language]}")
    return [{"node-name": node, **rule} for rule in module.rules(text, directory)]
