# SPDX-License-Identifier: MIT
"""The library is the only QMP client: all else that talks to a control socket stands on it."""

from __future__ import annotations

from tree import TREE

WORD = "qmp_capabilities"
"""What every client says."""

SPEAKS = {
    **dict.fromkeys(("client/faultline/aio/channel.py", "client/faultline/sync/channel.py"), "it"),
    **dict.fromkeys(("blockcore/qmp/session.py", "blockcore/commands/by_name.py"), "the server"),
    "scripts/generate_client.py": "leaves it out",
    "tests/project/test_one_client.py": "looks for it",
    "tests/qemu/test_introspect.py": "compares its arguments",
    "tests/support/wire.py": "for the tests of what is on the wire",
    "tests/live/test_control_socket.py": "what is on the wire",
    "tests/live/test_garbage_live.py": "what is on the wire",
    "tests/live/test_shutdown.py": "a client that does not read",
    "tests/qemu/test_yank.py": "out of band",
    "tests/support/recorder.py": "writes down what is on the wire",
    **dict.fromkeys(
        (f"tests/unit/test_{name}.py" for name in ("control_client", "later", "loop", "session")),
        "the server's half",
    ),
}
"""Who else may say it, and why."""


def test_there_is_one_client() -> None:
    """But for the examples, which are also for those who do not use the library."""
    paths = (path.relative_to(TREE) for top in ("blockcore", "client", "plugin", "scripts", "tests")
             for path in (TREE / top).rglob("*.py"))  # fmt: skip
    speak = {
        str(path)
        for path in paths
        if "examples" not in path.parts and WORD in (TREE / path).read_text()
    }
    assert speak == SPEAKS.keys()
