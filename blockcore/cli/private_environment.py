# SPDX-License-Identifier: MIT
"""Packages for a Python that is not the one that runs: a private directory, filled by pip once.

It is below the user's cache, and its name has all that it was made from, so
what is there is right.  A directory is complete when it has that name.
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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from blockcore.cli.embedding import Nbdkit
from blockcore.cli.output import tell

INSTALL = ("install", "--quiet", "--no-input", "--disable-pip-version-check")


@dataclass(frozen=True, slots=True)
class PrivateEnvironment:
    """The packages of `requirements` for nbdkit's Python, whether or not they are there."""

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
        """The environment of one version of faultline; touches nothing."""
        cache = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if not os.path.isabs(cache):
            raise click.ClickException("no home directory: set XDG_CACHE_HOME to an absolute path")
        made_from = "\n".join([sysconfig.get_platform(), *requirements])
        digest = hashlib.sha256(made_from.encode()).hexdigest()[:8]
        name = f"{nbdkit.python_name}-{version}-{digest}"
        return cls(nbdkit, requirements, Path(cache, "faultline", name))

    def make(self, environ: Mapping[str, str]) -> None:
        """Install the packages if they are not there; ClickException says what to do instead."""
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
        """What installs packages, up to the directory; None without any pip."""
        own = self.nbdkit.interpreter(environ)
        if own is not None and _has_pip(own):
            return [own, "-I", "-m", "pip", *INSTALL, "--target"]
        # For an interpreter that is not there nothing can be built, nor compiled.
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
        """Let starts that come together take turns."""
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
            # These settings of a user's pip would contradict --target.
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
    """Why pip failed: its last line, unless the network was what it complained of before."""
    if "connection broken by" in text:
        return "the package index cannot be reached"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "pip failed"
