# SPDX-License-Identifier: MIT
"""Rule files: what QEMU reads out of them, and what it says when it cannot."""

from __future__ import annotations

import errno
import json

import pytest

from blockcore.nodes.definitions.blkdebug_config import parse_blkdebug_config
from blockcore.nodes.definitions.structs import InjectError, SetState
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType, QmpError
from tree import RECORDINGS

INJECT = "[inject-error]\n"
STATE = "[set-state]\n"
NONE = INJECT + 'event = "none"\n'

REFUSED = {
    "unknown group": ('[foo]\na = "1"\n', "There is no option group 'foo'"),
    "group in spaces": (
        '[ inject-error ]\nevent = "none"\n',
        "There is no option group ' inject-error '",
    ),
    "unknown group later": (NONE + "[foo]\n", "There is no option group 'foo'"),
    "empty name": (NONE + '[set-state ""]\n', "There is no option group 'set-state \"\"'"),
    "long group": (f"[{'x' * 70}]\n", f"There is no option group '{'x' * 63}'"),
    "open group": ("[inject-error\n", "parse error"),
    "indented group": (' [inject-error]\nevent = "none"\n', "no group defined"),
    "no group": ('event = "none"\n', "no group defined"),
    "garbage": ("garbage\n", "no group defined"),
    "white space": ("  \n", "parse error"),
    "unknown key": (NONE + 'foo = "x"\n', "Invalid parameter 'foo'"),
    "no spaces": (INJECT + 'event="none"\n', "Invalid parameter 'event=\"none\"'"),
    "half the spaces": (NONE + 'sector= "8"\n', "Invalid parameter 'sector='"),
    "indented comment": (NONE + " # c\n", "Invalid parameter '#'"),
    "other comment": (NONE + ";c\n", "Invalid parameter ';c'"),
    "key of the other group": (
        STATE + 'event = "none"\nerrno = "3"\n',
        "Invalid parameter 'errno'",
    ),
    "long key": (NONE + f'k{"x" * 70} = "y"\n', f"Invalid parameter 'k{'x' * 62}'"),
    "no negated booleans": (NONE + 'noonce = "x"\n', "Invalid parameter 'noonce'"),
    "missing event": (INJECT + 'errno = "5"\n', "Missing event name for rule"),
    "empty rule": (INJECT, "Missing event name for rule"),
    "event before iotype": (INJECT + 'iotype = "bogus"\n', "Missing event name for rule"),
    "unknown event": (INJECT + 'event = "bogus"\nerrno = "5"\n', "invalid parameter value: bogus"),
    "event without quotes": (INJECT + "event = none\n", "invalid parameter value: "),
    "event without sign": (INJECT + 'event "none"\n', "invalid parameter value: "),
    "event in spaces": (INJECT + 'event = " none"\n', "invalid parameter value:  none"),
    "last event counts": (NONE + 'event = "bogus"\n', "invalid parameter value: bogus"),
    "open value": (INJECT + 'event = "none\n', "parse error"),
    "unknown iotype": (NONE + 'iotype = "READ"\n', "invalid parameter value: READ"),
    "bad bool": (NONE + 'once = "ON"\n', "Parameter 'once' expects 'on' or 'off'"),
    "empty bool": (NONE + 'immediately = ""\n', "Parameter 'immediately' expects 'on' or 'off'"),
    "bad number": (NONE + 'sector = "1k"\n', "Parameter 'sector' expects a number"),
    "fraction": (NONE + 'sector = "8.5"\n', "Parameter 'sector' expects a number"),
    "trailing space": (NONE + 'errno = "5 "\n', "Parameter 'errno' expects a number"),
    "no such errno": (NONE + 'errno = "EBOGUS"\n', "Parameter 'errno' expects a number"),
    "errno in lower case": (NONE + 'errno = "enospc"\n', "Parameter 'errno' expects a number"),
    "bad state": (STATE + 'event = "none"\nstate = "x"\n', "Parameter 'state' expects a number"),
    "bad new_state": (
        STATE + 'event = "none"\nnew_state = "x"\n',
        "Parameter 'new_state' expects a number",
    ),
    "too large": (
        NONE + 'sector = "18446744073709551616"\n',
        "Value '18446744073709551616' is too large for parameter 'sector'",
    ),
    "bad id": ('[inject-error "1x"]\n', "Parameter 'id' expects an identifier"),
    "duplicate id": (
        2 * '[inject-error "x"]\nevent = "none"\n',
        "Duplicate ID 'x' for inject-error",
    ),
    "types before events": (
        INJECT + 'event = "bogus"\n' + INJECT + 'errno = "x"\n',
        "Parameter 'errno' expects a number",
    ),
    "inject-error before set-state": (
        STATE + 'event = "bogus"\n' + INJECT,
        "Missing event name for rule",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_blkdebug_config(text)
    assert caught.value.desc == message


READ = {
    "plain": (NONE, {}),
    "spaces around": (INJECT + '  event  =  "none"  \n', {}),
    "space before the sign only": (INJECT + 'event ="none"\n', {}),
    "rest of the line": (INJECT + 'event = "none" # c\n', {}),
    "comments and empty lines": ("\n# c\n" + INJECT + '\n# c\nevent = "none"\n', {}),
    "no last line end": (INJECT + 'event = "none"', {}),
    "CRLF": (INJECT + 'event = "none"\r\n', {}),
    "group and more": ('[inject-error][set-state]\nevent = "none"\n', {}),
    "with an id": ('[inject-error "x"]\nevent = "none"\n', {}),
    "last of two": (INJECT + 'event = "bogus"\nevent = "none"\n', {}),
    "hexadecimal": (NONE + 'sector = "0x10"\n', {"sector": 16}),
    "octal": (NONE + 'sector = "010"\n', {"sector": 8}),
    "signs and spaces": (NONE + 'errno = "+5"\nstate = " 1"\n', {"errno": 5, "state": 1}),
    "negative": (NONE + 'sector = "-1"\nerrno = "-28"\n', {"sector": -1, "errno": -28}),
    "errno by name": (NONE + 'errno = "ENOSPC"\n', {"errno": errno.ENOSPC}),
    "all": (
        NONE
        + 'state = "2"\niotype = "block-status"\nerrno = "0"\nonce = "y"\nimmediately = "true"\n',
        {
            "state": 2,
            "iotype": BlkdebugIOType.BLOCK_STATUS,
            "errno": 0,
            "once": True,
            "immediately": True,
        },
    ),
}


@pytest.mark.parametrize(("text", "members"), READ.values(), ids=READ)
def test_read(text: str, members: dict[str, int]) -> None:
    rules, changes = parse_blkdebug_config(text)
    assert rules == [InjectError(event=BlkdebugEvent.NONE, **members)]  # type: ignore[arg-type]
    assert not changes


def test_kinds_in_order() -> None:
    text = (
        f'{STATE}event = "write_aio"\nstate = "1"\nnew_state = "2"\n'
        f'{INJECT}event = "read_aio"\n'
        f'{STATE}event = "pwritev"\n'
        f'{INJECT}event = "write_aio"\nstate = "2"\n'
    )
    assert parse_blkdebug_config(text) == (
        [
            InjectError(event=BlkdebugEvent.READ_AIO),
            InjectError(event=BlkdebugEvent.WRITE_AIO, state=2),
        ],
        [
            SetState(event=BlkdebugEvent.WRITE_AIO, state=1, new_state=2),
            SetState(event=BlkdebugEvent.PWRITEV, new_state=0),
        ],
    )


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "#"])
def test_no_rules(text: str) -> None:
    assert parse_blkdebug_config(text) == ([], [])


RECORDED = RECORDINGS["7.2"] / "blkdebug-cli.json"
OUR_EXTENSION = "errno as name"


def test_recorded_messages() -> None:
    for case in json.loads(RECORDED.read_text()):
        refused = [line for line in case["output"] if line.startswith("qemu-io: can't open: ")]
        if not refused or case["test"] == OUR_EXTENSION:
            parse_blkdebug_config(case["config"])
            continue
        with pytest.raises(QmpError) as caught:
            parse_blkdebug_config(case["config"])
        assert refused == [f"qemu-io: can't open: {caught.value.desc}"], case["test"]
