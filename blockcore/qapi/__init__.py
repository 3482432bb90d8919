# SPDX-License-Identifier: MIT
"""The vocabulary of the block layer, and how it is typed.  Nothing in here knows a machine.

`names` has QAPI's enums and errors, `events` its events, `qemu` what differs
between the releases of QEMU.  `visitor` checks one value against one QAPI type
and words the errors; `types` makes those types out of Python annotations;
`members` are what structs, events and arguments consist of; `schema` has the
tables of commands and events and the wire form of results; `introspect` turns a
table into the answer of ``query-qmp-schema``.  `errnos` are those of an I/O, and
those that are given by name.  `keyval` reads the
``key=value,...`` syntaxes of QEMU's command line; `json` is the text of QMP.
"""
