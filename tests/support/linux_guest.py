# SPDX-License-Identifier: MIT
"""A real Linux in qemu-system (TCG), with a drive of a machine as its virtio disk.

Its initramfs has a static busybox and the modules of virtio-blk and ext4; its
init runs what the test writes to the serial console, line by line.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tree import TREE

KERNEL = TREE / ".cache" / "kernel" / "vmlinuz"
MODULES = TREE / ".cache" / "kernel" / "modules"

WANTED_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
"""Those that are built into the kernel, or do not exist in this version, are left out."""

HANG_S = 240
"""A guest that lives longer is killed: less than what scripts/test gives a test."""

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
for module in %s; do insmod /modules/$module.ko; done
# The disk appears a moment after the last module is loaded.
until [ -b /dev/vda ]; do sleep 0.1; done
echo ready
while read -r line; do eval "$line"; done
reboot -f
"""


def module(path: Path) -> bytes:
    """A kernel module as the kernel takes it; Debian 13 and Fedora have compressed files."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    return data


def load_order() -> dict[str, bytes]:
    """The wanted modules and those they depend on by name, each after its dependencies.

    Read from the modules themselves: `modules.dep` is made when a kernel is
    installed, and the kernel used here need not be.
    """
    files = {
        path.name.partition(".")[0].replace("-", "_"): path
        for path in MODULES.resolve().rglob("*.ko*")
    }
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name not in files or name in order:
            return
        data = module(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in depends[1].decode().split(",") if depends else ():
            visit(needed.replace("-", "_"))
        order[name] = data

    for name in WANTED_MODULES:
        visit(name)
    return order


def make_initramfs(directory: Path) -> Path:
    """An uncompressed archive in `directory` with what the guest consists of."""
    root = directory / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "mnt", "modules"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin" / "busybox")
    modules = load_order()
    for name, data in modules.items():
        (root / "modules" / f"{name}.ko").write_bytes(data)
    init = root / "init"
    init.write_text(INIT % " ".join(modules))
    init.chmod(0o755)
    archive = directory / "initramfs.cpio"
    names = "".join(f"{path.relative_to(root)}\0" for path in sorted(root.rglob("*")))
    with archive.open("wb") as file:
        subprocess.run(
            ["cpio", "--null", "--create", "--quiet", "--format=newc", "--owner=0:0"],
            cwd=root,
            input=names.encode(),
            stdout=file,
            check=True,
        )
    return archive


class LinuxGuest:
    """A booted guest; `directory` keeps its files, `console.log` among them."""

    def __init__(self, directory: Path, nbd_socket: str, export: str) -> None:
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256"]
        argv += ["-nodefaults", "-no-user-config", "-no-reboot"]
        argv += ["-display", "none", "-monitor", "none", "-serial", "stdio"]
        argv += ["-kernel", str(KERNEL), "-initrd", str(make_initramfs(directory))]
        # The kernel's messages would end up amidst those of the shell; dmesg has them.
        argv += ["-append", "console=ttyS0 quiet loglevel=0 panic=-1"]
        argv += ["-blockdev", f"nbd,node-name=disk,server.type=unix,server.path={nbd_socket}"]
        argv[-1] += f",export={export}"
        # This machine's own policy plays no part: it gets no answer while the server holds
        # a request, and passes on whatever error the server reports.
        argv += ["-device", "virtio-blk-pci,drive=disk,rerror=report,werror=report"]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._guard = threading.Timer(HANG_S, self.process.kill)
        self._guard.daemon = True
        self._guard.start()
        self._console = self._read_console(directory / "console.log")
        self.wait_line("ready")

    def __enter__(self) -> LinuxGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.cancel()
        self.process.kill()
        self.process.communicate()

    def send(self, line: str) -> None:
        """Have the guest's shell run `line`."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait_line(self, start: str) -> str:
        """What follows `start` on the next line of the console that begins so."""
        for line in self._console:
            if line.startswith(start):
                return line.removeprefix(start).strip()
        raise AssertionError(f"the guest ended without {start!r}: {self.lines[-20:]}")

    def run(self, command: str) -> str:
        """Run `command` in the guest: its exit status and, as one line, what it printed."""
        self.send(f"out=$({command}); echo status $? $out")
        return self.wait_line("status ")

    def power_off(self) -> None:
        """End the guest in an orderly way; everything it wrote is with the server then."""
        self.send("umount /mnt; reboot -f")
        for _ in self._console:
            pass
        assert self.process.wait() == 0, self.lines[-20:]

    def _read_console(self, log: Path) -> Iterator[str]:
        assert self.process.stdout is not None
        with log.open("wb") as copy:
            for raw in self.process.stdout:
                copy.write(raw)
                copy.flush()
                self.lines.append(raw.decode(errors="replace").strip())
                yield self.lines[-1]
