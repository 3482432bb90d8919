# SPDX-License-Identifier: MIT
"""A private directory with packages for nbdkit's Python, filled by pip once.

It is for a Python other than the one that runs.  It is in the user's cache.  Its
name depends on everything it was made from, so an existing directory need not be
checked.  It gets its name when it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click

from blockcore.cli.embedding import Nbdkit
from blockcore.cli.output import tell
from blockcore.qapi.record import dataclass

INSTALL = ("install", "--quiet", "--no-input", "--disable-pip-version-check")


@dataclass(frozen=True, slots=True)
class PrivateEnvironment:
    """The packages of `requirements` for nbdkit's Python; `directory` may not exist yet."""

    nbdkit: Nbdkit
    requirements: tuple[str, ...]
    directory: Path

    @classmethod
    def of(
        cls,
        nbdkit: Nbdkit,
        version: str,
        requirements: tuple[str, ...],
        environ: Mapping[str, str],
    ) -> PrivateEnvironment:
        """Return the environment for one version of faultline, without making it.

        Raises ClickException if there is no home directory.
        """
        cache = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if not os.path.isabs(cache):
            raise click.ClickException("no home directory: set XDG_CACHE_HOME to an absolute path")
        made_from = "\n".join([sysconfig.get_platform(), *requirements])
        digest = hashlib.sha256(made_from.encode()).hexdigest()[:8]
        name = f"{nbdkit.python_name}-{version}-{digest}"
        return cls(nbdkit, requirements, Path(cache, "faultline", name))

    def make(self, environ: Mapping[str, str]) -> None:
        """Install the packages, unless the directory exists.

        Raises ClickException if that fails; the message says what to do.
        """
        if self.directory.is_dir():
            return
        try:
            with self._lock():
                if not self.directory.is_dir():
                    self._install(environ)
        except OSError as exc:
            raise self._failure(
                f"{exc.filename or self.directory}: {exc.strerror}", "set XDG_CACHE_HOME"
            ) from exc

    def command(self, environ: Mapping[str, str]) -> list[str] | None:
        """Return the command that installs packages, up to the directory; None without any pip.

        The first of: the pip of nbdkit's Python, this interpreter's pip, uv.
        """
        own = self.nbdkit.interpreter(environ)
        if own is not None and _has_pip(own):
            return [own, "-I", "-m", "pip", *INSTALL, "--target"]
        # There is no program of nbdkit's Python that could build packages or compile modules.
        version = self.nbdkit.python_name.removeprefix("python")
        foreign = ["--only-binary=:all:", f"--python-version={version}"]
        if find_spec("pip") is not None:
            abis = [f"--abi={abi}" for abi in (f"cp{version.replace('.', '')}", "abi3", "none")]
            pip = [sys.executable, "-P", "-m", "pip", *INSTALL, *foreign, "--implementation=cp"]
            return [*pip, *abis, "--no-compile", "--target"]
        uv = shutil.which("uv", path=environ.get("PATH", os.defpath))
        if uv is not None:
            return [uv, "pip", "install", "--quiet", *foreign, "--target"]
        return None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Lock the environment, so that processes that start together install it once."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        path = f"{self.directory}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _install(self, environ: Mapping[str, str]) -> None:
        wanted = " and ".join(self.requirements)
        command = self.command(environ)
        if command is None:
            ensurepip = shlex.join([sys.executable, "-m", "ensurepip"])
            raise self._failure(f"there is no pip to get {wanted}", f"run {ensurepip}")
        python = self.nbdkit.python_name
        tell(f"faultline: installing {wanted} for nbdkit's {python} in {self.directory}")
        new = self.directory.with_name(f"{self.directory.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        done = subprocess.run(
            [*command, str(new), *self.requirements],
            # A user's pip may have these settings, which contradict --target.
            env={**environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            by_hand = shlex.join([*command, str(self.directory), *self.requirements])
            raise self._failure(_reason(done.stderr), f"get them by hand: {by_hand}")
        new.rename(self.directory)

    def _failure(self, reason: str, remedy: str) -> click.ClickException:
        theirs = self.nbdkit.python_name
        version = f"{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"
        ours = f"{sys.implementation.name} {version}"
        return click.ClickException(
            f"nbdkit embeds {theirs}, faultline is installed for {ours}, and packages for "
            f"{theirs} cannot be had: {reason}; install faultline with {theirs}, or {remedy}"
        )


def _has_pip(interpreter: str) -> bool:
    command = [interpreter, "-I", "-c", "import pip"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _reason(text: str) -> str:
    """Return why pip failed: its last line, or that the network was the reason."""
    if "connection broken by" in text:
        return "the package index cannot be reached"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "pip failed"
