#!/bin/sh
# SPDX-License-Identifier: MIT
# A virtual machine whose disk is a drive. Arguments are further ones of QEMU, such as a kernel.
#
#   faultline serve --run scripts/examples/qemu.sh drive=id=vda,file=disk.img,rerror=report,werror=report
#
# Who stops? Here QEMU does: the drive reports its errors, and QEMU's rerror and werror decide, so that
# a manager above QEMU has what it has in production: BLOCK_IO_ERROR, STOP and `cont` on QEMU's own
# socket, vm.qmp, which `faultline qmp -s vm.qmp` and `faultline events -s vm.qmp` also talk to.
# A drive with rerror=stop, as `faultline serve` has it without drive=, would hold the requests back
# instead; QEMU would see a slow disk, and no error.
#
# reconnect-delay lets the requests of the guest wait that many seconds for a server that is started
# again.
exec qemu-system-x86_64 -nodefaults -no-user-config -display none -m 256 \
    -serial stdio \
    -qmp unix:vm.qmp,server=on,wait=off \
    -blockdev "driver=nbd,node-name=disk,server.type=unix,server.path=$unixsocket,export=vda,reconnect-delay=10" \
    -device virtio-blk-pci,drive=disk,id=virtio-disk0,rerror=stop,werror=stop \
    "$@"
