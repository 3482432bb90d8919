# SPDX-License-Identifier: MIT
"""The vocabulary of the block layer: names, types and texts.  Nothing in here knows a machine.

- `names`: QAPI's enums.
- `errors`: the error of a command.
- `events`: QAPI's events.
- `qemu`: the differences between the releases of QEMU.
- `errnos`: errnos by name, and as the outcome of an I/O.
- `errno_types`: the QAPI types of errnos by number or name.
- `visitor`: checks one value against one QAPI type, with QEMU's error messages.
- `types`: makes QAPI types out of Python annotations.
- `members`: the members of structs, events and command arguments.
- `record`: dataclasses that are made quickly.
- `schema`: the tables of commands and events, and the wire form of results.
- `introspect`: turns a table into the answer of ``query-qmp-schema``.
- `keyval`: parses the ``key=value,...`` syntaxes of QEMU's command line.
- `nearest`: the right answer that is nearest to what somebody has typed.
- `texts`: booleans, numbers and sizes as texts.
- `json`: parses and writes the JSON text of QMP.
"""
