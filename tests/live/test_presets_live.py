# SPDX-License-Identifier: MIT
"""Faults in the languages of other tools, and files of rules, as an NBD client meets them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nbd
import pytest

from faultline import CommandError, Drive, Machine, StartFailed
from live import FAULTLINE, Live, Qmp, make_image

SIZE = 1 << 20
SECTORS = SIZE // 512
ONES = b"\x11" * 4096
TWOS = b"\x22" * 4096


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("m")
    make_image(directory / "vda.img", SIZE, pattern=0x11)
    keys = "drive=id=vda,file=vda.img,format=raw,file.node-name=disk,werror=report"
    with Live(directory, keys) as live:
        yield live


@pytest.fixture
def guest(machine: Live) -> Iterator[nbd.NBD]:
    with machine.guest("vda") as handle:
        yield handle
        handle.pwrite(ONES * (SIZE // 4096), 0)


@pytest.fixture
def qmp(machine: Live, guest: nbd.NBD) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client
        client("x-fault-clear")


def outcome(ask: Callable[[], object]) -> int:
    """The errno of a request, 0 for none."""
    try:
        ask()
    except nbd.Error as exc:
        return exc.errnum or -1
    return 0


def test_dm_flakey(qmp: Qmp, guest: nbd.NBD) -> None:
    table = f"0 {SECTORS} flakey /dev/sdb 0 0 5 6 drop_writes corrupt_bio_byte 3 r 254 0"
    with qmp.import_faults("dm-flakey", table, "vda"):
        guest.pwrite(TWOS, 0)
        assert outcome(guest.flush) == 0
        assert guest.pread(4096, 0) == b"\x11\x11\xfe" + ONES[3:]
    assert guest.pread(4096, 0) == ONES
    with qmp.import_faults("dm-flakey", f"0 {SECTORS} flakey 8:16 0 0 9", "vda"):
        writes = [outcome(lambda: guest.pwrite(TWOS, 0)), outcome(guest.flush)]
        assert [outcome(lambda: guest.pread(512, 0)), *writes] == [errno.EIO] * 3
    assert guest.pread(4096, 0) == ONES


def test_dm_dust(qmp: Qmp, guest: nbd.NBD) -> None:
    text = f"0 {SECTORS} dust 8:16 0 4096\naddbadblock 1\naddbadblock 2 1\nenable"
    with qmp.import_faults("dm-dust", text, "vda"):
        found = [outcome(partial(guest.pread, 512, at * 4096)) for at in range(4)]
        assert found == [0, errno.EIO, errno.EIO, 0]
        assert outcome(lambda: guest.pwrite(TWOS, 4096)) == 0
        assert [outcome(lambda: guest.pwrite(TWOS, 8192)) for _ in "12"] == [errno.EIO, 0]
        assert guest.pread(16384, 0) == ONES + TWOS * 2 + ONES


def test_dm_delay_and_dm_error(qmp: Qmp, guest: nbd.NBD) -> None:
    table = "0 8 delay 8:16 0 1 8:16 0 0\n8 8 error\n16 8 linear 8:16 0"
    with qmp.import_faults("dm-delay", table, "vda") as rules:
        assert len(rules.ids) == 2
        assert guest.pread(4096, 0) == ONES == guest.pread(4096, 8192)
        assert outcome(lambda: guest.pread(512, 4096)) == errno.EIO
        assert outcome(lambda: guest.pwrite(TWOS, 4096)) == errno.EIO
        assert [rule["hits"] for rule in qmp("x-query-faults")] == [1, 2]
    assert guest.pread(4096, 4096) == ONES


def test_scsi_debug(qmp: Qmp, guest: nbd.NBD) -> None:
    text = "modprobe scsi_debug every_nth=3 opts=18 medium_error_start=8 medium_error_count=1"
    with qmp.import_faults("scsi_debug", text, "vda"):
        found = [outcome(lambda: guest.pread(512, 0)) for _ in range(6)]
        assert found == [0, 0, errno.EIO] * 2
        assert outcome(lambda: guest.pread(4096, 512)) == errno.EIO
    assert guest.pread(4096, 4096) == ONES


def test_nbdkit_error_with_a_trigger(qmp: Qmp, guest: nbd.NBD, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    text = f"error=ENOSPC error-pwrite-rate=100% error-file={trigger}"
    with qmp.import_faults("nbdkit-error", text, "vda"):
        assert outcome(lambda: guest.pwrite(TWOS, 0)) == 0
        trigger.touch()
        assert outcome(lambda: guest.pwrite(ONES, 0)) == errno.ENOSPC
        assert guest.pread(4096, 0) == TWOS
        trigger.unlink()
        assert outcome(lambda: guest.pwrite(ONES, 0)) == 0
    assert guest.pread(4096, 0) == ONES


def test_nbdkit_delay(qmp: Qmp, guest: nbd.NBD) -> None:
    with qmp.import_faults("nbdkit-delay", "rdelay=1ms wdelay=2ms delay-trim=0", "vda"):
        guest.pwrite(TWOS, 0)
        guest.trim(4096, 8192)
        assert guest.pread(4096, 0) == TWOS
        assert [rule["hits"] for rule in qmp("x-query-faults")] == [1, 1]


CONFIG = """
[inject-error]
event = "write_aio"
state = "2"
iotype = "read"

[set-state]
event = "write_aio"
state = "1"
new_state = "2"
"""


def test_blkdebug(qmp: Qmp, guest: nbd.NBD) -> None:
    with qmp.import_faults("blkdebug", CONFIG, "disk"):
        read, write = partial(guest.pread, 512, 0), partial(guest.pwrite, TWOS, 0)
        found = [outcome(ask) for ask in (read, write, read, write, read)]
        assert found == [0, 0, 0, 0, errno.EIO]
        assert [rule["hits"] for rule in qmp("x-query-faults")] == [1, 1]
    assert guest.pread(4096, 0) == TWOS


def test_a_refusal_adds_nothing(qmp: Qmp) -> None:
    with pytest.raises(ValueError, match="'error-cache-rate': rules do not see requests"):
        qmp.import_faults("nbdkit-error", "error-rate=1 error-cache-rate=1", "vda")
    with pytest.raises(CommandError, match="line 2: Parameter 'colour' is unexpected"):
        qmp.faults("vda", "vda,colour=red")
    assert qmp("x-query-faults") == []


def command(machine: Live, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*FAULTLINE, "fault", *words],
        env={**os.environ, "FAULTLINE_CONTROL": machine.control},
        cwd=machine.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_file_goes_around(qmp: Qmp, machine: Live) -> None:
    """Imported and printed, loaded, saved, loaded by the library, served."""
    flakey = ("dm-flakey", f"0 {SECTORS} flakey /dev/sdb 0 30 5", "--drive", "vda")
    status, printed, _ = command(machine, "import", *flakey, "--print")
    assert status == 0 and len(printed.splitlines()) == 3
    file = machine.directory / "rules.faults"
    file.write_text(f"# rules\n{printed}vda,id=mine,action=badblock,offset=4k\n")
    assert command(machine, "load", "rules.faults") == (0, "fault0\nfault1\nfault2\nmine\n", "")
    assert command(machine, "save", "saved.faults")[0] == 0
    saved = machine.directory / "saved.faults"
    assert saved.read_text() == command(machine, "save")[1] == qmp.saved_faults()
    before = qmp("x-query-faults")
    qmp("x-fault-clear")
    qmp.load_faults(saved)
    assert qmp("x-query-faults") == before
    recording = machine.directory / "recording"
    with Machine(Drive(size=SIZE), faults=saved, options=("--record", str(recording))) as other:
        assert other.saved_faults() == saved.read_text()
    header = json.loads(recording.read_text().split("\n")[0])
    rules = [value for key, value in header["keys"] if key == "fault"]
    assert rules == saved.read_text().splitlines()
    assert "faults" not in [key for key, _ in header["keys"]]


KINDS = "read, write, write-zeroes, discard, flush, block-status or connect"
LIKE_WRITE = f", did you mean 'write'? It is {KINDS}"


def test_a_wrong_file_is_told_with_its_line(qmp: Qmp, machine: Live) -> None:
    file = machine.directory / "wrong.faults"
    file.write_text("# rules\nvda\n\nvda,iotype=writes\n")
    told = "4: Parameter 'iotype' does not accept value 'writes'"
    status, _, error = command(machine, "load", "wrong.faults")
    assert (status, error) == (1, f"faultline: wrong.faults:{told}{LIKE_WRITE}\n")
    with pytest.raises(CommandError) as failed:
        qmp.load_faults(file)
    assert failed.value.text == f"{file}:{told}"
    with pytest.raises(StartFailed) as start, Machine(Drive(size=SIZE), faults=file):
        pass
    assert "does not accept value 'writes', did you mean 'write'?" in str(start.value)
    assert str(start.value).endswith(f" ({file}, line 4)")
    assert qmp("x-query-faults") == []
