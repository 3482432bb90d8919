# SPDX-License-Identifier: MIT
"""Drives that have a size and no file: which they are, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcore.process.temporary_drive import DEFAULT, needs_directory, with_files
from blockcore.qapi.names import QmpError

OTHERS = (
    "drive=id=vda,file=disk.img,size=1M",
    "drive=id=vda,driver=null-co,size=1M",
    "drive=id=vda,file.driver=null-co,file.size=1M",
    "drive=id=vda",
    "drive=id=vda,file=size=1.img",
    "blockdev=driver=null-co,node-name=n,size=1M",
    "name=size=1",
)


@pytest.mark.parametrize("key", OTHERS)
def test_other_keys_stay_as_they_are(key: str, tmp_path: Path) -> None:
    keys = (key, "drive=id=vdb,file=b.img")
    assert not needs_directory(keys)
    assert with_files(keys, tmp_path) == keys
    assert list(tmp_path.iterdir()) == []


def test_a_size_makes_a_file(tmp_path: Path) -> None:
    directory = tmp_path / "a,b"
    directory.mkdir()
    keys = ("drive=size=64k,id=data,werror=stop", "name=m")
    assert needs_directory(keys)
    assert with_files(keys, directory) == (
        f"drive=format=raw,id=data,werror=stop,file={tmp_path}/a,,b/data.img",
        "name=m",
    )
    assert (directory / "data.img").stat().st_size == 65536


def test_without_drives_there_is_one(tmp_path: Path) -> None:
    assert needs_directory(("name=m",))
    (name, drive) = with_files(("name=m",), tmp_path)
    assert name == "name=m"
    assert drive.startswith("drive=format=raw,id=vda,rerror=stop,werror=enospc,file=")
    assert DEFAULT.startswith("drive=id=vda,size=1G")
    made = (tmp_path / "vda.img").stat()
    assert (made.st_size, made.st_blocks) == (1 << 30, 0)


@pytest.mark.parametrize("keys", [("drive=size=1M", "drive=size=2M"), ("drive=id=a/b,size=1M",)])
def test_ids_that_name_no_file(keys: tuple[str, ...], tmp_path: Path) -> None:
    with_files(keys, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(keys)


def test_a_size_that_is_none_is_told_with_its_key(tmp_path: Path) -> None:
    key = "drive=id=vda,size=big"
    with pytest.raises(QmpError, match=f"^{key}: "):
        with_files((key,), tmp_path)
    assert list(tmp_path.iterdir()) == []
