# SPDX-License-Identifier: MIT
"""From nbdkit's KEY=VALUE pairs to a machine.

`config` parses all keys into a frozen `Config`, `drive_config` the value of
``drive=``, `device_config` that of ``device=``, `policy_options` what both say
about policies that QEMU lacks; `fault_hints` say more where that of ``fault=`` is
wrong; `sockets` has the rules about
sockets that are checked before there is a machine; `assemble` makes its nodes and
drives.
"""
