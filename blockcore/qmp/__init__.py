"""The control protocol: QMP, without I/O.

`visitor` checks one value against one QAPI type and words the errors;
`qapitypes` makes those types out of Python annotations; `schema` has the
tables of commands and events, and the wire form of results; `introspect` turns
a table into the answer of ``query-qmp-schema``.  `jsonlexer`, `jsonvalue` and
`jsonstream` cut a byte stream into JSON values the way QEMU does; `session` is
one client's conversation.  Nothing in here reads a socket, takes a lock or
knows the time.
"""
