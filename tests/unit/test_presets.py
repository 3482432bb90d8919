# SPDX-License-Identifier: MIT
"""Other tools' languages, and the rules that their texts mean: tables of both."""

from __future__ import annotations

import re
from typing import Any

import pytest

from blockcore.faults.lines import parse_lines
from faultline.presets import LANGUAGES, translate
from faultline.rule_lines import lines

MEDIUM = ["read", "write", "write-zeroes", "discard"]
WRITES = MEDIUM[1:]
MIB = {"offset": 0, "length": 1 << 20}
TURNS = {"up-ms": 30_000, "down-ms": 5_000}
BYTE = {"action": "corrupt", "how": "byte"}

MEANINGS: list[tuple[str, str, list[dict[str, Any]]]] = [
    (
        "dm-flakey",
        "0 2048 flakey /dev/sdb 0 30 5",
        [
            {"iotype": "read", "errno": "EIO", **MIB, **TURNS},
            {"iotype": WRITES, "errno": "EIO", **MIB, **TURNS},
            {"iotype": "flush", "errno": "EIO", **TURNS},
        ],
    ),
    ("dm-flakey", "0 2048 flakey 8:16 0 180 0", []),
    (
        "dm-flakey",
        "0 2048 flakey 8:16 0 0 180 1 drop_writes",
        [{"action": "drop", "iotype": WRITES, **MIB}, {"action": "drop", "iotype": "flush"}],
    ),
    (
        "dm-flakey",
        "# comment\nf: 2048 2048 flakey 8:16 64 0 1 1 error_writes\n0 2048 linear 8:16 0\n",
        [
            {"iotype": WRITES, "errno": "EIO", "offset": 1 << 20, "length": 1 << 20},
            {"iotype": "flush", "errno": "EIO"},
        ],
    ),
    (
        "dm-flakey",
        "0 2048 flakey 8:16 0 0 1 1 error_reads",
        [{"iotype": "read", "errno": "EIO", **MIB}],
    ),
    (
        "dm-flakey",
        "0 2048 flakey 8:16 0 0 1 6 drop_writes corrupt_bio_byte 224 r 255 0",
        [
            {"action": "drop", "iotype": WRITES, **MIB},
            {"action": "drop", "iotype": "flush"},
            {**BYTE, "at": 223, "value": 255, "iotype": "read", **MIB},
        ],
    ),
    (
        "dm-flakey",
        "0 2048 flakey 8:16 0 0 1 5 corrupt_bio_byte 1 W 0 0",
        [{**BYTE, "at": 0, "value": 0, "iotype": "write", "medium": True, **MIB}],
    ),
    (
        "dm-flakey",
        "0 2048 flakey 8:16 0 0 1 4 random_read_corrupt 500000000 random_write_corrupt 1000000000",
        [
            {**BYTE, "rate": 0.5, "iotype": "read", **MIB},
            {**BYTE, "rate": 1.0, "iotype": "write", "medium": True, **MIB},
        ],
    ),
    (
        "dm-delay",
        "0 2048 delay 8:16 0 100",
        [
            {"action": "delay", "iotype": "read", **MIB, "delay-ms": 100},
            {"action": "delay", "iotype": WRITES, **MIB, "delay-ms": 100},
            {"action": "delay", "iotype": "flush", "delay-ms": 100},
        ],
    ),
    (
        "dm-delay",
        "0 2048 delay 8:16 0 0 8:16 0 7 8:16 0 0",
        [{"action": "delay", "iotype": WRITES, **MIB, "delay-ms": 7}],
    ),
    ("dm-error", "0 2048 error", [{"iotype": MEDIUM, "errno": "EIO", **MIB}]),
    ("dm-error", "0 2048 dust 8:16 0 512", []),
    (
        "dm-dust",
        "0 33552384 dust 8:16 0 4096\naddbadblock 60\naddbadblock 61\naddbadblock 67 2\n"
        "dmsetup message dust1 0 addbadblock 72\nremovebadblock 72\nqueryblock 60\nenable",
        [
            {"iotype": WRITES, "errno": "EIO", "count": 2, "offset": 67 * 4096, "length": 4096},
            {"action": "badblock", "offset": 60 * 4096, "length": 8192, "block-size": 4096},
            {"action": "badblock", "offset": 67 * 4096, "length": 4096, "block-size": 4096},
        ],
    ),
    (
        "dm-dust",
        "3\n1\n2\n",
        [{"action": "badblock", "offset": 512, "length": 1536}],
    ),
    (
        "dm-dust",
        "8 800 dust 8:16 16 512\naddbadblock 17\nenable",
        [{"action": "badblock", "offset": 9 * 512, "length": 512}],
    ),
    ("dm-dust", "addbadblock 1\nenable\ndisable", []),
    ("dm-dust", "addbadblock 1\nclearbadblocks", []),
    (
        "scsi_debug",
        "modprobe scsi_debug dev_size_mb=64 opts=3",
        [{"iotype": "read", "errno": "EIO", "offset": 0x1234 * 512, "length": 5120}],
    ),
    (
        "scsi_debug",
        "opts=0x2 medium_error_start=16 medium_error_count=1 sector_size=4096",
        [{"iotype": "read", "errno": "EIO", "offset": 65536, "length": 4096}],
    ),
    ("scsi_debug", "every_nth=100 opts=4", [{"action": "hang", "every": 100}]),
    ("scsi_debug", "every_nth=-3 opts=20", [{"action": "hang", "after": 2}]),
    ("scsi_debug", "every_nth=-1 opts=16", [{"errno": "EIO"}]),
    (
        "scsi_debug",
        "scsi_debug.every_nth=2 opts=128 ndelay=3000000",
        [
            {"action": "hang", "iotype": MEDIUM, "every": 2},
            {"action": "delay", "delay-ms": 3},
        ],
    ),
    ("scsi_debug", "delay=5 CONFIG_HZ=250", [{"action": "delay", "delay-ms": 20}]),
    ("scsi_debug", "delay=0", []),
    (
        "nbdkit-error",
        "error-rate=1%",
        [{"iotype": [*MEDIUM, "block-status"], "errno": "EIO", "rate": 0.01}],
    ),
    (
        "nbdkit-error",
        "--filter=error error=ENOSPC error-pwrite-rate=100% error-zero-rate=1:1",
        [{"iotype": ["write", "write-zeroes"], "errno": "ENOSPC"}],
    ),
    (
        "nbdkit-error",
        "error-pread-rate=0.5 error-pread=EPERM error-pread-file=trigger error-trim-rate=1 "
        "error-trim-file=/tmp/t",
        [
            {"iotype": "read", "errno": "EPERM", "rate": 0.5, "while-file": "/here/trigger"},
            {"iotype": "discard", "errno": "EIO", "while-file": "/tmp/t"},
        ],
    ),
    ("nbdkit-error", "error-pread-rate=1 error-rate=0", []),
    (
        "nbdkit-delay",
        "rdelay=2 wdelay=5ms delay-trims=0.5s delay-extents=2000000ns delay-fast-zero=yes",
        [
            {"action": "delay", "iotype": "read", "delay-ms": 2000},
            {"action": "delay", "iotype": ["write", "write-zeroes"], "delay-ms": 5},
            {"action": "delay", "iotype": "discard", "delay-ms": 500},
            {"action": "delay", "iotype": "block-status", "delay-ms": 2},
        ],
    ),
    ("nbdkit-delay", "delay-zero=1 delay-zero=0", []),
    (
        "nbdkit-delay",
        "delay-open=3",
        [{"action": "delay", "iotype": "connect", "delay-ms": 3000}],
    ),
    (
        "blkdebug",
        '# rules\n[set-state]\nevent = "write_aio"\nstate = "1"\nnew_state = "2"\n'
        '[inject-error "a"]\nevent = "read_aio"\nstate = "2"\nerrno = "5"\nsector = "8"\n'
        'once = "on"\n[inject-error]\n  event = "none"\niotype = "flush"\nerrno = "ENOSPC"\n',
        [
            {"event": "read_aio", "state": 2, "errno": 5, "sector": 8, "once": True},
            {"event": "none", "iotype": "flush", "errno": "ENOSPC"},
            {"action": "set-state", "event": "write_aio", "state": 1, "new-state": 2},
        ],
    ),
    (
        "blkdebug",
        '[set-state]\nevent = "l1_update"\n',
        [{"action": "set-state", "event": "l1_update", "new-state": 0}],
    ),
]


@pytest.mark.parametrize(("language", "text", "rules"), MEANINGS)
def test_meaning(language: str, text: str, rules: list[dict[str, Any]]) -> None:
    translated = translate(language, text, "vda", "/here")
    assert translated == [{"node-name": "vda", **rule} for rule in rules]
    assert len(parse_lines(lines(translated))) == len(rules)


FLAKEY = "0 2048 flakey 8:16 0 0 1 "

REFUSALS = [
    ("dm-flakey", "0 2048 snapshot 8:16", "line 1: 'snapshot': the targets are flakey, delay,"),
    ("dm-flakey", "0 2048", "'0 2048': a table line is START LENGTH TARGET"),
    ("dm-flakey", "0 x flakey 8:16 0 1 1", "'x': the length is a whole number"),
    ("dm-flakey", "\n0 8 flakey 8:16 0 1", "line 2: '8:16 0 1': a flakey target has DEVICE"),
    ("dm-flakey", "0 8 flakey 8:16 0 0 0", "'0': the up and the down interval are both zero"),
    ("dm-flakey", FLAKEY + "2 drop_writes", "'2': there are 1 words of features"),
    ("dm-flakey", FLAKEY + "1 drop_reads", "'drop_reads': the features of flakey are error_reads,"),
    ("dm-flakey", FLAKEY + "2 drop_writes drop_writes", "'drop_writes': it is given twice"),
    ("dm-flakey", FLAKEY + "2 drop_writes error_writes", "'error_writes': it excludes drop_writes"),
    (
        "dm-flakey",
        FLAKEY + "6 error_writes corrupt_bio_byte 1 w 1 0",
        "'corrupt_bio_byte': it excludes error_writes",
    ),
    ("dm-flakey", FLAKEY + "5 corrupt_bio_byte 1 x 1 0", "'x': the direction is r or w"),
    ("dm-flakey", FLAKEY + "5 corrupt_bio_byte 0 r 1 0", "'0': bytes count from 1"),
    ("dm-flakey", FLAKEY + "5 corrupt_bio_byte 1 r 256 0", "'256': the value is from 0 to 255"),
    ("dm-flakey", FLAKEY + "5 corrupt_bio_byte 1 r 1 32", "'32': a rule does not see the kernel's"),
    ("dm-flakey", FLAKEY + "4 corrupt_bio_byte 1 r 1", "a feature of flakey lacks a word"),
    ("dm-flakey", FLAKEY + "2 random_read_corrupt 2000000000", "'2000000000': the probability"),
    (
        "dm-flakey",
        FLAKEY + "7 corrupt_bio_byte 1 r 1 0 random_read_corrupt 1",
        "'random_read_corrupt': it excludes corrupt_bio_byte",
    ),
    ("dm-delay", "0 8 delay 8:16 0", "'8:16 0': a delay target has DEVICE OFFSET MS"),
    ("dm-delay", "0 8 delay 8:16 0 5 8:32 0 9", "'8:32': a drive has one medium"),
    ("dm-dust", "addbadblock 5", "'enable': it is missing, and a dust target reads its bad"),
    ("dm-dust", "5\n5", "line 2: '5': the block is bad already"),
    ("dm-dust", "removebadblock 5", "'5': the block is not bad"),
    ("dm-dust", "frobnicate", "'frobnicate': it is no message to a dust target"),
    ("dm-dust", "0 8 dust 8:16 0 1000", "'1000': the block size is a power of two"),
    ("dm-dust", "0 8 dust 8:16 0 512\naddbadblock 8\nenable", "'8': the block is not in the"),
    ("dm-dust", "0 8 dust 8:16 0 512\n0 8 dust 8:16 0 512", "line 2: '512': there is one target"),
    ("scsi_debug", "opts=8 every_nth=2", "'opts=0x8': bit 0x8: a command with a recovered error"),
    ("scsi_debug", "opts=0x100000", "'opts=0x100000': bit 0x100000: scsi_debug has no such bit"),
    ("scsi_debug", "opts=4", "'opts=0x4': bit 0x4 needs every_nth"),
    ("scsi_debug", "opts=4x", "'4x': opts is a number"),
    ("scsi_debug", "tur_ms_to_ready=5", "'tur_ms_to_ready': no rule stands for it"),
    ("scsi_debug", "delay=3", "'delay=3': it is in jiffies: add CONFIG_HZ=N"),
    ("scsi_debug", "delay=1 CONFIG_HZ=300", "'delay=1': a rule's delay is in whole milliseconds"),
    ("scsi_debug", "ndelay=500", "'ndelay=500': a rule's delay is in whole milliseconds"),
    ("nbdkit-error", "error=EIO", "'error-rate': it is missing, and without a rate the filter"),
    ("nbdkit-error", "error=EFOO", "'EFOO': the errors of the filter are EPERM, EIO,"),
    ("nbdkit-error", "error-rate=ten", "'error-rate=ten': a rate is as in 50%, 0.5 or 1:2"),
    ("nbdkit-error", "error-rate=150%", "'error-rate=150%': a rate is at most 100%"),
    ("nbdkit-error", "error-rate=1:0", "'error-rate=1:0': a rate is at most 100%"),
    ("nbdkit-error", "error-cache-rate=1", "'error-cache-rate': rules do not see requests to"),
    ("nbdkit-error", "error-flush-rate=1", "'error-flush-rate': the error filter has no such"),
    ("nbdkit-error", "error-file= error-rate=1", "'error-file=': the name of the file is empty"),
    ("nbdkit-error", "rate", "'rate': it is no NAME=VALUE"),
    ("nbdkit-delay", "rdelay=0.5ms", "'rdelay=0.5ms': a rule's delay is in whole milliseconds"),
    ("nbdkit-delay", "rdelay=5m", "'rdelay=5m': a delay is in seconds, or has a unit"),
    ("nbdkit-delay", "delay-close=1", "'delay-close': rules do not see the end of"),
    ("nbdkit-delay", "delay-fast-zero=no", "'delay-fast-zero=no': a rule does not see"),
    ("nbdkit-delay", "delay-flush=1", "'delay-flush': the delay filter has no such parameter"),
    ("blkdebug", 'event = "read_aio"', "line 1: 'event = \"read_aio\"': it is in no group"),
    ("blkdebug", "[inject-eror]", "'[inject-eror]': a group is [inject-error] or [set-state]"),
    ("blkdebug", '[inject-error]\nerno = "5"', "line 2: 'erno': the keys of [inject-error] are"),
    ("blkdebug", "[inject-error]\nevent=read_aio", "line 2: 'event=read_aio': a line is KEY ="),
    ("blkdebug", '[set-state]\nnew_state = "2"', "line 1: '[set-state]': its event is missing"),
    ("blkdebug", '[inject-error]\nonce = "1"', "line 2: '1': once is on or off"),
    ("blkdebug", '[inject-error]\nsector = "-1"', "line 2: '-1': sector is a number"),
    ("dm-error", "0 8 eror", "line 1: 'eror': the targets are flakey, delay, error, linear"),
    ("dm-crypt", "", f"'dm-crypt' is none of {', '.join(LANGUAGES)}"),
]


@pytest.mark.parametrize(("language", "text", "why"), REFUSALS)
def test_refusal(language: str, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        translate(language, text, "vda")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_both(language: str) -> None:
    assert any(row[0] == language for row in MEANINGS)
    assert any(row[0] == language for row in REFUSALS)
