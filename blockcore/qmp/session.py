# SPDX-License-Identifier: MIT
"""One client's conversation: bytes in, commands and replies out, no I/O.

The host feeds what it reads with `receive_data`, takes commands with
`next_command` while there `may_be_command`, answers each with `reply` or
`fail`, and sends what `take_message` gives, in that order, each message on a
line of its own (`writer.pieces`).  Replies and events share one outbox,
because their order is part of the protocol: STOP comes before the reply of
`stop`.

One command is outstanding at a time, so replies come in the order of requests.
Input behind it waits, unless the client has enabled out-of-band execution: then
it is looked at, what is to be executed out of band is, and some of the rest is kept.
A host should not read more while `wants_data()` is false,
and what it holds in the outbox is for the host to measure and to limit.  No
call takes long, so that a host can serve others between any two.
Everything that needs no command function is answered in here: malformed input,
negotiation, unknown commands, arguments that do not fit.  Texts and the order
of checks are QEMU's (`monitor/qmp.c`, `qapi/qmp-dispatch.c`); where
QEMU's order is that of a hash table, known members come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from blockcore.qapi.json.stream import JsonStream, Limits, Parsed, ParseError
from blockcore.qapi.json.writer import Result, Shared
from blockcore.qapi.names import QapiErrorClass, QmpError
from blockcore.qapi.schema import Command, CommandTable, wire_without
from blockcore.qmp.waiting import Waiting

ARGUMENTS_SIZE: Final = 256 << 10
"""What a command with arguments may have, in bytes and tokens; QEMU has no limit of its own.

They are looked at under the big lock, or with it, at one go.
"""


class QMPCapability(StrEnum):
    """What a client may enable.  Out-of-band execution is QEMU's only one."""

    OOB = "oob"


@dataclass(slots=True, eq=False)
class Invocation:
    """A command to run: ``command.function(machine, **kwargs)``; nobody changes it.

    (A frozen class would say so, and take three times as long to make.)

    `tags` holds the request's `id`, if it had one, as it goes into the reply.
    One that is `oob` comes while another is outstanding, perhaps.
    """

    command: Command
    kwargs: dict[str, Any]
    tags: dict[str, Any] = field(default_factory=dict)
    oob: bool = False

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


def _raise(what: str, error: Exception) -> QmpError:
    raise error


class Session:
    """The state of one connection.

    `table` has the commands; `version` is the greeting's ``VersionInfo``
    object, as it goes on the wire.  What is in `absent` is not there for the
    client (`qemu.Release.absent`).  `on_bug` is told who has raised what nobody
    may raise, and gives what the client is told.
    """

    def __init__(
        self,
        table: CommandTable,
        version: dict[str, Any],
        limits: Limits | None = None,
        absent: frozenset[str] = frozenset(),
        on_bug: Callable[[str, Exception], QmpError] = _raise,
    ) -> None:
        self._on_bug = on_bug
        self.outbox: deque[dict[str, Any] | Shared] = deque()
        self._commands = table.commands
        self._absent = absent
        self._to_wire = wire_without(absent)
        self._version = version
        self._input = JsonStream(limits)
        self._negotiated = False
        self._oob = False
        self._outstanding: Invocation | None = None
        self._out_of_band: Invocation | None = None
        self._waiting = Waiting()

    def greeting(self) -> dict[str, Any]:
        """What the server says first."""
        capabilities = [capability.value for capability in QMPCapability]
        return {"QMP": {"version": self._version, "capabilities": capabilities}}

    @property
    def negotiated(self) -> bool:
        """The client has got past `qmp_capabilities`; it is sent events from here on."""
        return self._negotiated

    def wants_data(self) -> bool:
        """A command could be run, and there is no input left that could contain one."""
        if self._outstanding is None:
            return not self._waiting.items and self._input.exhausted()
        return self._oob and self._waiting.has_room() and self._input.exhausted()

    def may_be_command(self) -> bool:
        """A command could be run, and there is input that could contain one."""
        if self._outstanding is None:
            return bool(self._waiting.items) or not self._input.exhausted()
        return self._oob and self._waiting.has_room() and not self._input.exhausted()

    def receive_data(self, data: bytes) -> None:
        """Append input.  It takes effect with the next calls of `next_command`."""
        self._input.feed(data)

    def next_command(self) -> Invocation | None:
        """The command to run, if there is one in the next piece of the input.

        What cannot be run is answered.  Another thread may answer the
        outstanding command meanwhile.
        """
        if self._outstanding is None and self._waiting.items:
            return self._next_in_turn(self._waiting.pop())
        item = self._pull() if self.may_be_command() else None
        if item is None:
            return None
        if isinstance(item, Parsed) and _is_oob(item.value):
            self._out_of_band = self._invocation(item)
            return self._out_of_band
        if self._outstanding is None and not self._waiting.items:
            return self._next_in_turn(item)
        self._waiting.push(item)
        return self._next_in_turn(self._waiting.pop()) if self._outstanding is None else None

    def _next_in_turn(self, item: Parsed | ParseError) -> Invocation | None:
        if isinstance(item, ParseError):
            self._answer_error(QmpError(item.desc), {})
        else:
            self._outstanding = self._invocation(item)
        return self._outstanding

    def _pull(self) -> Parsed | ParseError | None:
        try:
            return self._input.pull()
        except Exception as exc:
            self._input.reset()
            self._answer_error(self._on_bug("The parser", exc), {})
            return None

    def reply(self, invocation: Invocation, result: Any) -> None:
        """Answer the outstanding command with what its function returned."""
        self._complete(invocation)
        self._answer(result, invocation.tags)

    def fail(self, invocation: Invocation, error: QmpError) -> None:
        """Answer the outstanding command with an error."""
        self._complete(invocation)
        self._answer_error(error, invocation.tags)

    def send_event(self, event: dict[str, Any] | Shared) -> None:
        """Put an event (in wire form) into the outbox, unless negotiation is not finished."""
        if self._negotiated:
            self.outbox.append(event)

    def take_message(self) -> dict[str, Any] | Shared | None:
        """The message that has to be sent next, out of the outbox.

        Another thread may add to it meanwhile.
        """
        return self.outbox.popleft() if self.outbox else None

    def enable(self, capabilities: list[QMPCapability]) -> None:
        """Choose capabilities; QmpError if that has been done before."""
        if self._negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored",
                QapiErrorClass.COMMAND_NOT_FOUND,
            )
        self._oob = QMPCapability.OOB in capabilities

    def _invocation(self, item: Parsed) -> Invocation | None:
        """What the host has to run for a request; None if it has been answered already."""
        request = item.value
        tags = {"id": request["id"]} if type(request) is dict and "id" in request else {}
        try:
            self._check(request)
            command = self._lookup(request)
            arguments = request.get("arguments", {})
            if arguments and item.size > ARGUMENTS_SIZE:
                raise QmpError("QMP input member 'arguments' is too large")
            kwargs = command.bind(arguments, absent=self._absent)
            if command is not _NEGOTIATE:
                return Invocation(command, kwargs, tags, oob="exec-oob" in request)
            qmp_capabilities(self, **kwargs)
            self._answer(None, tags)
            self._negotiated = True
        except QmpError as error:
            self._answer_error(error, tags)
        except Exception as exc:
            self._answer_error(self._on_bug("The check of the command", exc), tags)
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
        if "exec-oob" in request and not command.allow_oob:
            raise QmpError(f"The command {name} does not support OOB")
        return command

    def _complete(self, invocation: Invocation) -> None:
        if invocation.oob:
            assert invocation is self._out_of_band, "not the command out of band"
            self._out_of_band = None
        else:
            assert invocation is self._outstanding, "not the outstanding command"
            self._outstanding = None

    def _answer(self, result: Any, tags: dict[str, Any]) -> None:
        shown: Any = {} if result is None else Result(result, self._to_wire)
        self.outbox.append({"return": shown, **tags})

    def _answer_error(self, error: QmpError, tags: dict[str, Any]) -> None:
        self.outbox.append({**error_reply(error), **tags})


def _is_oob(request: Any) -> bool:
    """Whether a request does not wait for those before it (qmp_is_oob)."""
    return type(request) is dict and "exec-oob" in request and "execute" not in request


def error_reply(error: QmpError) -> dict[str, Any]:
    """The message that tells of an error, without an `id`."""
    return {"error": {"class": error.error_class.value, "desc": error.desc}}
