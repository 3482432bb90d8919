# SPDX-License-Identifier: MIT
"""Chains of images for cases of jobs."""

from __future__ import annotations

from beside_qemu import Images, Side


def images(m: Images) -> None:
    """base <- mid <- top, each with data of its own, and open nodes of these names."""
    m.image("base.raw", "2M", "write -P 1 0 2M")
    m.image("mid.qcow2", "2M", "write -P 2 512k 512k", below="base.raw")
    m.image("top.qcow2", "2M", "write -P 3 1M 128k", below="mid.qcow2")


def three(m: Side) -> None:
    images(m)
    m.node("base", "base.raw", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="base")
    m.node("top", "top.qcow2", backing="mid")


def target(m: Side, size: str = "2M", name: str = "target.qcow2", **opts: str) -> None:
    m.image(name, size, **opts)
    m.node(name.partition(".")[0], name)


def long(m: Side, count: int, writable: int = 1) -> None:
    """A chain n0 <- n1 <- ..., each image with 128k of its own, the last ones writable."""
    m.image("n0.raw", "2M", "write -P 1 0 128k")
    for n in range(1, count):
        below = "n0.raw" if n == 1 else f"n{n - 1}.qcow2"
        m.image(f"n{n}.qcow2", "2M", f"write -P {n + 1} {n * 128}k 128k", below=below)
    m.node("n0", "n0.raw", read_only=True)
    for n in range(1, count):
        read_only = n < count - writable
        m.node(f"n{n}", f"n{n}.qcow2", backing=f"n{n - 1}", read_only=read_only)


def ends(m: Side, job: str = "j") -> None:
    m.status(job, "null")
    m.look()
