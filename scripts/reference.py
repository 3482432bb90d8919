# SPDX-License-Identifier: MIT
"""Writes the reference of the client library from its docstrings, with pdoc: `scripts/docs`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

MODULES = (
    *("faultline", "faultline.aio", "faultline.schema"),
    # Where the methods are that machines of the two faces inherit.
    *("faultline.sync.session", "faultline.sync.commands"),
    *("faultline.aio.session", "faultline.aio.commands"),
)


def write(directory: Path) -> None:
    """Write the pages; raises an exception, and no page, for a module that cannot be read."""
    pdoc.render.configure(docformat="markdown", search=True, show_source=False)
    with warnings.catch_warnings():
        # Of the members of types that are declared by a call, because their names have dashes.
        warnings.filterwarnings("ignore", "Cannot determine where faultline.schema.", UserWarning)
        pdoc.pdoc(*MODULES, output_directory=directory)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    print(Path(sys.argv[1]) / "index.html")
