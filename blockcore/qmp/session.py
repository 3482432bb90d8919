"""One client's conversation: bytes in, commands and replies out, no I/O.

The host feeds what it reads with `receive_data`, takes commands with
`next_command`, answers each with `reply` or `fail`, and sends what `drain`
gives, in that order, each message on a line of its own (`jsonstream.encode`).
Replies and events share one outbox, because their order is part of the
protocol: STOP comes before the reply of `stop`.

One command is outstanding at a time, so replies come in the order of requests.
Input behind it waits; a host should not read more while `wants_data()` is false,
and what it holds in the outbox is for the host to measure and to limit.
Everything that needs no command function is answered in here: malformed input,
negotiation, unknown commands, arguments that do not fit.  Texts and the order
of checks are QEMU's (`monitor/qmp.c`, `qapi/qmp-dispatch.c`); where
QEMU's order is that of a hash table, known members come first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from blockcore.qapi import QapiErrorClass, QmpError
from blockcore.qmp.jsonstream import JsonStream, Limits, ParseError
from blockcore.qmp.schema import Command, CommandTable, Wire


class QMPCapability(StrEnum):
    """What a client may enable.  Out-of-band execution is QEMU's only one."""

    OOB = "oob"


@dataclass(frozen=True, slots=True, eq=False)
class Invocation:
    """A command to run: ``command.function(machine, **kwargs)``.

    `tags` holds the request's `id`, if it had one, as it goes into the reply.
    """

    command: Command
    kwargs: dict[str, Any]
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> Any:
        """The request's `id`; None also if there was none."""
        return self.tags.get("id")


NEGOTIATION: Final = CommandTable()
"""`qmp_capabilities`; a complete table includes this, so that introspection lists it."""


@NEGOTIATION.command("qmp_capabilities")
def qmp_capabilities(session: Session, *, enable: list[QMPCapability] | None = None) -> None:
    """Enable QMP capabilities.

    Must be the first command of a connection; no other works before it.
    """
    session.enable(enable or [])


_MEMBERS: Final[dict[str, type]] = {
    "exec-oob": str,
    "execute": str,
    "arguments": dict,
    "id": object,
}
_KINDS: Final[dict[type, str]] = {str: "a string", dict: "an object"}

_NEGOTIATE: Final = NEGOTIATION.commands["qmp_capabilities"]


class Session:
    """The state of one connection.

    `table` has the commands; `version` is the greeting's ``VersionInfo``
    object, as it goes on the wire.  What is in `absent` is not there for the
    client (`qemu.Release.absent`).
    """

    def __init__(
        self,
        table: CommandTable,
        version: dict[str, Any],
        limits: Limits | None = None,
        absent: frozenset[str] = frozenset(),
    ) -> None:
        self.outbox: deque[dict[str, Any]] = deque()
        self._commands = table.commands
        self._absent = absent
        self._to_wire = Wire(absent)
        self._version = version
        self._input = JsonStream(limits)
        self._negotiated = False
        self._oob = False
        self._outstanding: Invocation | None = None

    def greeting(self) -> dict[str, Any]:
        """What the server says first."""
        capabilities = [capability.value for capability in QMPCapability]
        return {"QMP": {"version": self._version, "capabilities": capabilities}}

    @property
    def negotiated(self) -> bool:
        """The client has got past `qmp_capabilities`; it is sent events from here on."""
        return self._negotiated

    def wants_data(self) -> bool:
        """No command is outstanding, and no input is left that could contain one."""
        return self._outstanding is None and self._input.exhausted()

    def receive_data(self, data: bytes) -> None:
        """Append input.  It takes effect with the next call of `next_command`."""
        self._input.feed(data)

    def next_command(self) -> Invocation | None:
        """The next command to run; None if there is none yet, or one is outstanding.

        Answers everything in front of it that cannot be run.
        """
        if self._outstanding is not None:
            return None
        while (item := self._input.pull()) is not None:
            if isinstance(item, ParseError):
                self._answer_error(QmpError(item.desc), {})
                continue
            self._outstanding = self._invocation(item.value)
            if self._outstanding is not None:
                return self._outstanding
        return None

    def reply(self, invocation: Invocation, result: Any) -> None:
        """Answer the outstanding command with what its function returned."""
        self._complete(invocation)
        self._answer(result, invocation.tags)

    def fail(self, invocation: Invocation, error: QmpError) -> None:
        """Answer the outstanding command with an error."""
        self._complete(invocation)
        self._answer_error(error, invocation.tags)

    def send_event(self, event: dict[str, Any]) -> None:
        """Put an event (in wire form) into the outbox, unless negotiation is not finished."""
        if self._negotiated:
            self.outbox.append(event)

    def drain(self) -> list[dict[str, Any]]:
        """Empty the outbox; the messages in the order in which they have to be sent.

        Another thread may add to it meanwhile: what it adds is given now or
        next time.
        """
        return [self.outbox.popleft() for _ in range(len(self.outbox))]

    def enable(self, capabilities: list[QMPCapability]) -> None:
        """Finish negotiation; QmpError if that has been done before."""
        if self._negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored",
                QapiErrorClass.COMMAND_NOT_FOUND,
            )
        self._oob = QMPCapability.OOB in capabilities
        self._negotiated = True

    def _invocation(self, request: Any) -> Invocation | None:
        """What the host has to run for `request`; None if it has been answered already."""
        tags = {"id": request["id"]} if type(request) is dict and "id" in request else {}
        try:
            self._check(request)
            command = self._lookup(request)
            kwargs = command.bind(request.get("arguments", {}), absent=self._absent)
            if command is not _NEGOTIATE:
                return Invocation(command, kwargs, tags)
            qmp_capabilities(self, **kwargs)
            self._answer(None, tags)
        except QmpError as error:
            self._answer_error(error, tags)
        return None

    def _check(self, request: Any) -> None:
        """Raise QmpError unless `request` has the form of a command."""
        if type(request) is not dict:
            raise QmpError("QMP input must be a JSON object")
        if "exec-oob" in request and not self._oob:
            raise QmpError("QMP input member 'exec-oob' is unexpected")
        for member, kind in _MEMBERS.items():
            if member in request and not isinstance(request[member], kind):
                raise QmpError(f"QMP input member '{member}' must be {_KINDS[kind]}")
        for member in request:
            if member not in _MEMBERS:
                raise QmpError(f"QMP input member '{member}' is unexpected")
        if "execute" in request and "exec-oob" in request:
            raise QmpError("QMP input member 'execute' clashes with 'exec-oob'")
        if "execute" not in request and "exec-oob" not in request:
            raise QmpError("QMP input lacks member 'execute'")

    def _lookup(self, request: dict[str, Any]) -> Command:
        name = request.get("execute", request.get("exec-oob"))
        not_found = QapiErrorClass.COMMAND_NOT_FOUND
        if name == _NEGOTIATE.name:
            command = _NEGOTIATE
        elif not self._negotiated:
            text = f"Expecting capabilities negotiation with '{_NEGOTIATE.name}'"
            raise QmpError(text, not_found)
        elif name in self._commands and name not in self._absent:
            command = self._commands[name]
        else:
            raise QmpError(f"The command {name} has not been found", not_found)
        if "exec-oob" in request:
            raise QmpError(f"The command {name} does not support OOB")
        return command

    def _complete(self, invocation: Invocation) -> None:
        assert invocation is self._outstanding, "not the outstanding command"
        self._outstanding = None

    def _answer(self, result: Any, tags: dict[str, Any]) -> None:
        self.outbox.append({"return": {} if result is None else self._to_wire(result), **tags})

    def _answer_error(self, error: QmpError, tags: dict[str, Any]) -> None:
        body = {"class": error.error_class.value, "desc": error.desc}
        self.outbox.append({"error": body, **tags})
