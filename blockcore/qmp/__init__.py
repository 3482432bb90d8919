"""The control protocol: QMP, without I/O.

`visitor` checks one JSON value against one QAPI type and words the errors;
`schema` makes those types out of Python annotations, and holds the tables of
commands and events; `introspect` turns a table into the answer of
``query-qmp-schema``; `jsonstream` cuts a byte stream into JSON values the way
QEMU's lexer does; `session` is one client's conversation.  Nothing in here
reads a socket, takes a lock or knows the time.
"""
