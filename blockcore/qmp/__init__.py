# SPDX-License-Identifier: MIT
"""The control protocol: QMP, without I/O.

`session` is one client's conversation: bytes in, commands with checked arguments
and replies out.  `output` is the queue of what the client is sent, as bytes, a
bit at a time, `waiting` what it has sent behind a command that is not answered
yet.  Nothing in here reads a socket, takes a lock or knows the time.
"""
