# SPDX-License-Identifier: MIT
"""The error of a command, for modules that need no other names, such as those of the command line.

All other modules find it in `names`, whose enums take time to make.
"""

from __future__ import annotations

from enum import StrEnum


class QapiErrorClass(StrEnum):
    """The `class` of an error reply; GenericError unless clients need to know the kind of error."""

    GENERIC_ERROR = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    DEVICE_NOT_ACTIVE = "DeviceNotActive"
    DEVICE_NOT_FOUND = "DeviceNotFound"


class QmpError(Exception):
    """A request of a client, or of the command line, that cannot be carried out.

    `desc` is one line of text; it is QEMU's where QEMU has one.  `where` is the place
    in a file, which a reply does not have; the command line says it.
    """

    where = ""

    def __init__(
        self, desc: str, error_class: QapiErrorClass = QapiErrorClass.GENERIC_ERROR
    ) -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class
