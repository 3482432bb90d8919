# SPDX-License-Identifier: MIT
"""The conversation with one QMP client, without I/O: bytes in, commands and replies out.

The host (`process.control`) passes input to `receive_data`.  It takes commands
from `next_command` as long as `may_be_command()` is true, runs each, and
answers it with `reply` or `fail`.  It sends the messages that `take_message`
returns, in their order, each on a line of its own (`writer.pieces`).  Replies
and events share one outbox, because their order is part of the protocol: STOP
comes before the reply of `stop`.

One command at a time is outstanding (taken and not answered), so that replies
come in the order of the requests.  Input behind it waits.  If the client has
enabled out-of-band execution, that input is parsed all the same: commands for
out-of-band execution are returned at once, and a limited number of others is
kept (`waiting`).

The host should not read more input while `wants_data()` is false.  The host has
to limit the size of the outbox.  No call takes long, so that the host can serve
other clients between any two calls.

Malformed input, negotiation, unknown commands and arguments that do not fit are
answered here, without the host.  Messages and the order of checks are QEMU's
(`monitor/qmp.c`, `qapi/qmp-dispatch.c`).  Where QEMU's order is that of a hash
table, known members are checked first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

from blockcore.qapi.json.stream import JsonStream, Limits, Parsed, ParseError
from blockcore.qapi.json.writer import Result, Shared
from blockcore.qapi.names import QapiErrorClass, QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import Command, CommandTable, wire_without
from blockcore.qmp.waiting import Waiting

ARGUMENTS_SIZE: Final = 256 << 10
"""The greatest size (`Parsed.size`: bytes and tokens) of a command with arguments.

Arguments are checked and used in one go, partly under the big lock, so larger ones would hold
up guests.  QEMU has no such limit.
"""


class QMPCapability(StrEnum):
    """The capabilities that a client may enable; QEMU too has only out-of-band execution."""

    OOB = "oob"


@dataclass(slots=True, eq=False)
class Invocation:
    """A command to run: ``command.function(machine, **kwargs)``.

    Immutable by convention: a frozen dataclass takes three times as long to
    make, and there is one for each command.

    `tags` has the request's `id`, if there is one, as it goes into the reply.
    `arguments` are as they came; `recorded` is the host's own number of it.
    An `oob` command has to be run at once, even if another one is outstanding.
    """

    command: Command
    kwargs: dict[str, Any]
    tags: dict[str, Any] = field(default_factory=dict)
    oob: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    recorded: int | None = None

    @property
    def id(self) -> Any:
        """The request's `id`, or None if there is none."""
        return self.tags.get("id")


NEGOTIATION: Final = CommandTable()
"""The table with `qmp_capabilities`.

A complete table includes this one, so that introspection lists the command.
"""


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
    """Raise a bug, where no host reports it."""
    raise error


class Session:
    """The state of one connection.

    `find` returns the command with a name, or None, or raises QmpError; `version` is
    the greeting's VersionInfo object in wire form.  Names in `absent` do not exist for
    the client (`qemu.Release.absent`).  `on_bug(where, error)` reports an exception that
    must not happen, and returns the error for the client.

    All calls come from one thread, except that another thread, under the big
    lock, may call `reply`, `fail` or `send_event`.
    """

    def __init__(
        self,
        find: Callable[[str], Command | None],
        version: dict[str, Any],
        limits: Limits | None = None,
        absent: frozenset[str] = frozenset(),
        on_bug: Callable[[str, Exception], QmpError] = _raise,
    ) -> None:
        self._on_bug = on_bug
        self.outbox: deque[dict[str, Any] | Shared] = deque()
        self._find = find
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
        """Return the message that the server sends first."""
        capabilities = [capability.value for capability in QMPCapability]
        return {"QMP": {"version": self._version, "capabilities": capabilities}}

    @property
    def negotiated(self) -> bool:
        """Whether `qmp_capabilities` has succeeded; from then on the client is sent events."""
        return self._negotiated

    def wants_data(self) -> bool:
        """Return whether a command may be run, and no input is left that could contain one."""
        if self._outstanding is None:
            return not self._waiting.items and self._input.exhausted()
        return self._oob and self._waiting.has_room() and self._input.exhausted()

    def may_be_command(self) -> bool:
        """Return whether a command may be run, and there is input that could contain one."""
        if self._outstanding is None:
            return bool(self._waiting.items) or not self._input.exhausted()
        return self._oob and self._waiting.has_room() and not self._input.exhausted()

    def receive_data(self, data: bytes) -> None:
        """Append input; the next calls of `next_command` parse it."""
        self._input.feed(data)

    def next_command(self) -> Invocation | None:
        """Parse the next piece of the input, and return the command in it, or None.

        A request that cannot be run is answered here.
        """
        # Another thread may answer the outstanding command between any two of these steps.  Then
        # `_outstanding` becomes None, never anything else: only this thread sets a new one.
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
        """Answer an item, or make it the outstanding command and return that."""
        if isinstance(item, ParseError):
            self._answer_error(QmpError(item.desc), {})
        else:
            self._outstanding = self._invocation(item)
        return self._outstanding

    def _pull(self) -> Parsed | ParseError | None:
        """Parse the next piece of the input; a bug of the parser is answered, not raised."""
        try:
            return self._input.pull()
        except Exception as exc:
            self._input.reset()
            self._answer_error(self._on_bug("The parser", exc), {})
            return None

    def reply(self, invocation: Invocation, result: Any) -> None:
        """Answer a command with the result of its function; the big lock is held."""
        self._complete(invocation)
        self._answer(result, invocation.tags)

    def fail(self, invocation: Invocation, error: QmpError) -> None:
        """Answer a command with an error; the big lock is held."""
        self._complete(invocation)
        self._answer_error(error, invocation.tags)

    def send_event(self, event: dict[str, Any] | Shared) -> None:
        """Put an event (in wire form) into the outbox, if the client has finished negotiation."""
        if self._negotiated:
            self.outbox.append(event)

    def take_message(self) -> dict[str, Any] | Shared | None:
        """Remove the next message to send from the outbox, and return it; None if there is none."""
        # Another thread may append meanwhile: both ends of a deque may be used at once, and only
        # this thread removes.
        return self.outbox.popleft() if self.outbox else None

    def enable(self, capabilities: list[QMPCapability]) -> None:
        """Enable capabilities; raise QmpError after negotiation (qmp_capabilities)."""
        if self._negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored",
                QapiErrorClass.COMMAND_NOT_FOUND,
            )
        self._oob = QMPCapability.OOB in capabilities

    def _invocation(self, item: Parsed) -> Invocation | None:
        """Check a request; return the command to run, or None if it has been answered here."""
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
                return Invocation(command, kwargs, tags, "exec-oob" in request, arguments)
            qmp_capabilities(self, **kwargs)
            self._answer(None, tags)
            self._negotiated = True
        except QmpError as error:
            self._answer_error(error, tags)
        except Exception as exc:
            self._answer_error(self._on_bug("The check of the command", exc), tags)
        return None

    def _check(self, request: Any) -> None:
        """Raise QmpError unless `request` has the form of a command (qmp_dispatch_check_obj)."""
        # First whether out-of-band execution is known at all to this client, then known members
        # by their types, then unknown members, then combinations: QEMU's order, except that
        # QEMU walks a hash table where this goes by the order of `_MEMBERS` and of the input.
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
        """Return the command that a request names, or raise QmpError (qmp_dispatch)."""
        name: str = request["execute" if "execute" in request else "exec-oob"]
        not_found = QapiErrorClass.COMMAND_NOT_FOUND
        if name == _NEGOTIATE.name:
            command = _NEGOTIATE
        elif not self._negotiated:
            text = f"Expecting capabilities negotiation with '{_NEGOTIATE.name}'"
            raise QmpError(text, not_found)
        elif name in self._absent or (found := self._find(name)) is None:
            raise QmpError(f"The command {name} has not been found", not_found)
        else:
            command = found
        if "exec-oob" in request and not command.allow_oob:
            raise QmpError(f"The command {name} does not support OOB")
        return command

    def _complete(self, invocation: Invocation) -> None:
        """Let the next command run: this one is about to be answered."""
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
    """Return whether a request does not wait for earlier ones (qmp_is_oob)."""
    return type(request) is dict and "exec-oob" in request and "execute" not in request


def error_reply(error: QmpError) -> dict[str, Any]:
    """Return the reply for an error, without an `id` (qmp_error_response)."""
    return {"error": {"class": error.error_class.value, "desc": error.desc}}
