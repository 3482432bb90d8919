# SPDX-License-Identifier: MIT
"""QEMU's JSON lexer (`qobject/json-lexer.c`) as a state table: bytes in, tokens out.

QEMU's dialect has strings in single or double quotes, keywords of lower-case
letters, and no number like ``01`` or ``0e1``.  A byte that does not fit ends the
token in which it appears, which is then *stray*; the lexer skips everything
after it up to the next structural character or control byte.  0xFE, 0xFF and
control bytes other than tab are errors everywhere.  So a client that sends such
a byte knows that the lexer is between two tokens afterwards.
"""

from __future__ import annotations

import re
from array import array
from enum import IntEnum, auto
from typing import Final


class State(IntEnum):
    """The states of the lexer, and, as negative numbers, the actions of table entries."""

    STRAY = -5
    """Take the byte; the bytes that were taken are a stray token."""
    TOKEN = -4
    """Take the byte; the token is complete."""
    TOKEN_BEFORE = -3
    """The token was complete before this byte; look at the byte again."""
    SKIP = -2
    """Drop the byte."""
    RESYNC = -1
    """Look at this byte again, between two tokens."""
    START = 0
    RECOVERY = auto()
    DOUBLE = auto()
    DOUBLE_ESCAPE = auto()
    SINGLE = auto()
    SINGLE_ESCAPE = auto()
    MINUS = auto()
    ZERO = auto()
    DIGITS = auto()
    POINT = auto()
    FRACTION = auto()
    E = auto()
    E_SIGN = auto()
    E_DIGITS = auto()
    KEYWORD = auto()


_STRUCTURAL: Final = b"{}[]:,"
_DIGITS: Final = b"0123456789"
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
_TEXT: Final = bytes(range(0x20, 0xFE))

_S = State
_RULES: Final[dict[State, list[tuple[bytes, State]]]] = {
    _S.START: [
        (b" \t\r\n", _S.SKIP),
        (_STRUCTURAL, _S.TOKEN),
        (b'"', _S.DOUBLE),
        (b"'", _S.SINGLE),
        (b"-", _S.MINUS),
        (_DIGITS, _S.DIGITS),
        (b"0", _S.ZERO),
        (_LETTERS, _S.KEYWORD),
    ],
    _S.RECOVERY: [
        (bytes(range(256)), _S.RESYNC),
        (_TEXT + b"\t", _S.SKIP),
        (_STRUCTURAL, _S.RESYNC),
    ],
    _S.DOUBLE: [(_TEXT, _S.DOUBLE), (b"\\", _S.DOUBLE_ESCAPE), (b'"', _S.TOKEN)],
    _S.DOUBLE_ESCAPE: [(_TEXT, _S.DOUBLE)],
    _S.SINGLE: [(_TEXT, _S.SINGLE), (b"\\", _S.SINGLE_ESCAPE), (b"'", _S.TOKEN)],
    _S.SINGLE_ESCAPE: [(_TEXT, _S.SINGLE)],
    _S.MINUS: [(_DIGITS, _S.DIGITS), (b"0", _S.ZERO)],
    _S.ZERO: [(_DIGITS, _S.STRAY), (b".", _S.POINT)],
    _S.DIGITS: [(_DIGITS, _S.DIGITS), (b".", _S.POINT), (b"eE", _S.E)],
    _S.POINT: [(_DIGITS, _S.FRACTION)],
    _S.FRACTION: [(_DIGITS, _S.FRACTION), (b"eE", _S.E)],
    _S.E: [(_DIGITS, _S.E_DIGITS), (b"+-", _S.E_SIGN)],
    _S.E_SIGN: [(_DIGITS, _S.E_DIGITS)],
    _S.E_DIGITS: [(_DIGITS, _S.E_DIGITS)],
    _S.KEYWORD: [(_LETTERS, _S.KEYWORD)],
}
_SELF_DELIMITING: Final = {_S.ZERO, _S.DIGITS, _S.FRACTION, _S.E_DIGITS, _S.KEYWORD}


def _row(state: State) -> array[int]:
    """Return the table's row for a state: the next state or the action, for each byte."""
    row = array("b", [_S.TOKEN_BEFORE if state in _SELF_DELIMITING else _S.STRAY]) * 256
    for accepted, action in _RULES[state]:
        for byte in accepted:
            row[byte] = action
    return row


_TABLE: Final = [_row(state) for state in State if state >= _S.START]
# What a string may contain without leaving its state: C looks for the end of it, which is faster.
_RUNS: Final = {
    int(_S.DOUBLE): re.compile(rb'[^\x00-\x1f\xfe\xff"\\]+'),
    int(_S.SINGLE): re.compile(rb"[^\x00-\x1f\xfe\xff'\\]+"),
}
_STRAY, _TOKEN, _BEFORE, _SKIP = map(int, (_S.STRAY, _S.TOKEN, _S.TOKEN_BEFORE, _S.SKIP))
_START, _RECOVERY = int(_S.START), int(_S.RECOVERY)


class Lexer:
    """The lexer of one stream; it keeps the unfinished token between two pieces of input."""

    def __init__(self, token_size_max: int) -> None:
        self._token_size_max = token_size_max
        self._token = bytearray()
        self._state = _START

    @property
    def between_tokens(self) -> bool:
        """Whether no token is unfinished: the next byte begins one, or is white space."""
        return self._state == _START

    def scan(self, data: bytes, position: int, end: int) -> tuple[bytes | None, bool, int]:
        """Read `data` from `position` to the end of one token, but not beyond `end`.

        Returns the token, or None if it does not end before `end`; whether it
        is a proper token (a stray one includes the byte that does not fit); and
        where to continue.  A token that is longer than allowed is returned as
        soon as it is too long, for the caller to refuse.
        """
        # Each round takes one byte, or within a string all bytes up to the next special one.  A
        # round that leaves the token unfinished goes on with `continue`; the others fall out of
        # the `if` and return a token: complete, stray, or too long.
        token, state = self._token, self._state
        while position < end:
            run = _RUNS.get(state)
            if run and (match := run.match(data, position, end)):
                room = self._token_size_max + 1 - len(token)
                stop = min(match.end(), position + room)
                token += data[position:stop]
                position = stop
                action = state
            else:
                action = _TABLE[state][data[position]]
                if action >= _START or action in (_TOKEN, _STRAY):
                    token.append(data[position])
                if action != _BEFORE and action != _S.RESYNC:
                    position += 1
            if action >= _START:
                state = action
                if len(token) <= self._token_size_max:
                    continue
            elif action == _SKIP:
                continue
            elif action == _S.RESYNC:
                state = _START
                continue
            self._state = _RECOVERY if action == _STRAY else _START
            return self._take(), action != _STRAY, position
        self._state = state
        return None, True, position

    def finish(self) -> tuple[bytes | None, bool]:
        """Return the token that the end of input completes, if any, and whether it is proper."""
        proper = self._state in _SELF_DELIMITING
        self._state = _START
        return (self._take() or None), proper

    def _take(self) -> bytes:
        """Return the bytes of the token, and forget them."""
        token = bytes(self._token)
        self._token.clear()
        return token
