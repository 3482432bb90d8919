# SPDX-License-Identifier: MIT
"""The reference of the client library, which is made from its docstrings."""

from __future__ import annotations

import warnings
from pathlib import Path

import faultline
import faultline.aio
import reference


def test_it_has_every_public_name(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference.write(tmp_path)
    for module in (faultline, faultline.aio):
        page = tmp_path / f"{module.__name__.replace('.', '/')}.html"
        anchors = page.read_text()
        for name in module.__all__:
            assert f'id="{name}"' in anchors, name
            for member in vars(getattr(module, name)):
                assert member.startswith("_") or f'id="{name}.{member}"' in anchors, member
    assert 'id="Commands.x_fault_add"' in (tmp_path / "faultline/sync/commands.html").read_text()
