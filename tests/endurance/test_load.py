# SPDX-License-Identifier: MIT
"""Random load with random trouble: nothing lost, nothing invented, counted exactly.

FAULTLINE_LOAD_SECONDS sets how long each run takes (60 for the full one; by default
4, in which there are thousands of requests and hundreds of troubles, as many in a second
as in any other), FAULTLINE_LOAD_SEED repeats one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from live import Live, make_image
from load import BLOCK, Load

SECONDS = float(os.environ.get("FAULTLINE_LOAD_SECONDS", "4"))
SEED = int(os.environ.get("FAULTLINE_LOAD_SEED", str(random.randrange(1 << 20))))
BLOCKS = 2048

POLICIES = {
    "report-stop-enospc": ("report", "stop", "enospc"),
    "with-ignore": ("report", "stop", "enospc", "ignore"),
}


@pytest.mark.slow
@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
def test_load(policies: tuple[str, ...], tmp_path: Path) -> None:
    print(f"FAULTLINE_LOAD_SEED={SEED}")
    make_image(tmp_path / "d.img", BLOCKS * BLOCK)
    drive = "drive=id=vda,file=d.img,format=raw,rerror=stop,werror=stop"
    with Live(tmp_path, drive, f"seed={SEED}", options=("--threads", "32")) as live:
        with live.qmp() as qmp:
            told, wrong = Load(live, SEED, SECONDS, blocks=BLOCKS, policies=policies).run()
            assert wrong == []
            stats = qmp("query-blockstats")[0]["stats"]
            events = qmp.events
        checked = 0 if "ignore" in policies else BLOCKS
        assert stats["rd_operations"] == told.reads_ok + checked
        assert stats["rd_bytes"] == (told.reads_ok + checked) * BLOCK
        assert stats["wr_operations"] == told.writes_ok
        assert stats["wr_bytes"] == told.writes_ok * BLOCK
        assert stats["flush_operations"] == told.flushes_ok
        assert stats["failed_rd_operations"] == told.reads_failed
        assert stats["failed_wr_operations"] == told.writes_failed
        assert stats["failed_flush_operations"] == told.flushes_failed
        assert stats["invalid_rd_operations"] == stats["invalid_wr_operations"] == 0
        kinds = [event.name for event in events]
        turns = [kind for kind in kinds if kind in ("STOP", "RESUME")]
        assert turns == ["STOP", "RESUME"] * (len(turns) // 2), "they alternate"
        errors = [e.data for e in events if e.name == "BLOCK_IO_ERROR"]
        for operation, failed in (
            ("read", told.reads_failed),
            ("write", told.writes_failed + told.flushes_failed),
        ):
            reported = [
                e for e in errors if (e["operation"], e["action"]) == (operation, "report")
            ]
            assert len(reported) == failed, "one event for each error reply"
        assert len(turns) > 4 and len(errors) > 10, "there was trouble"
        assert told.reads_ok + told.writes_ok > 200 * SECONDS
