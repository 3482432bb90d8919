# SPDX-License-Identifier: MIT
"""`python -m faultline` is the command `faultline`."""

from __future__ import annotations

from blockcore.cli import main

raise SystemExit(main())
