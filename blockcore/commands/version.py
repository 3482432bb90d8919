# SPDX-License-Identifier: MIT
"""The version that a client is told."""

from __future__ import annotations

from blockcore.machine.machine import Machine
from blockcore.qapi.qemu import Release
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionTriple:
    major: int
    minor: int
    micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """QAPI's VersionInfo: the QEMU whose behaviour this is, and the program that has it."""

    qemu: VersionTriple
    package: str


def version_info(release: Release) -> VersionInfo:
    """Return what a release answers to `query-version`; `package` says that it is not QEMU."""
    major, minor, micro = release.version
    return VersionInfo(
        qemu=VersionTriple(major=major, minor=minor, micro=micro), package="faultline"
    )


@table.command("query-version")
def query_version(machine: Machine) -> VersionInfo:
    """Return the version of QEMU whose answers are given; `package` says that it is not QEMU."""
    return version_info(machine.qemu)
