# SPDX-License-Identifier: MIT
"""The examples that are for other programs: QEMU, libvirt, systemd, containers, Kubernetes.

As far as one machine can run them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from blockcore.cli.serve import serve
from container import instructions
from faultline import Machine
from linux_guest import KERNEL, make_initramfs
from live import TIMEOUT_S
from tree import TREE

EXAMPLES = TREE / "scripts" / "examples"

FAULTLINE = TREE / ".venv" / "bin" / "faultline"


@pytest.mark.slow
def test_qemu(tmp_path: Path) -> None:
    """A guest's write fails, QEMU stops, and goes on; the recipe has the drive."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    (line,) = re.findall("^#   (faultline .*)$", (EXAMPLES / "qemu.sh").read_text(), re.MULTILINE)
    argv = shlex.split(line)
    script = argv.index("scripts/examples/qemu.sh")
    kernel = ["-kernel", KERNEL, "-initrd", make_initramfs(tmp_path), "-no-reboot"]
    kernel += ["-append", "console=ttyS0 quiet loglevel=0 panic=-1"]
    argv[0] = str(FAULTLINE)
    argv[script] = shlex.join(map(str, [TREE / argv[script], *kernel]))
    process = subprocess.Popen(
        [*argv[:2], "--quiet", "--control", "m.qmp", "--timeout", "200", *argv[2:]],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        console = iter(process.stdout.readline, b"")
        wait_line(console, b"ready")
        with Machine.connect(tmp_path / "m.qmp") as m, Machine.connect(tmp_path / "vm.qmp") as vm:
            with m.fault("vda", iotype="write", errno="EIO"):
                process.stdin.write(
                    b"dd if=/bin/busybox of=/dev/vda bs=1M count=1 conv=fsync 2>&-\n"
                )
                process.stdin.write(b"echo written $?\n")
                process.stdin.flush()
                vm.wait_event("BLOCK_IO_ERROR", action="stop", operation="write")
                vm.wait_event("STOP")
                assert m.wait_event("BLOCK_IO_ERROR")["action"] == "report"
                assert m.query_status()["running"]
            vm.cont()
            assert wait_line(console, b"written") == b"written 0"
            vm.quit()
        assert process.wait(TIMEOUT_S) == 0
    busybox = Path(str(shutil.which("busybox"))).read_bytes()[: 1 << 20]
    assert disk.read_bytes()[: len(busybox)] == busybox


def wait_line(lines: Iterator[bytes], start: bytes) -> bytes:
    seen = []
    for line in lines:
        seen.append(line)
        if line.startswith(start):
            return line.strip()
    raise AssertionError(seen)


def test_libvirt_domain(tmp_path: Path) -> None:
    """It is one to libvirt's schema, which does find mistakes."""
    assert validate(EXAMPLES / "domain.xml") == 0
    text = (EXAMPLES / "domain.xml").read_text()
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(text.replace("rerror_policy='stop'", "rerror_policy='enospace'"))
    assert validate(wrong) != 0


def validate(path: Path) -> int:
    return subprocess.run(
        ["virt-xml-validate", path, "domain"], capture_output=True, check=False
    ).returncode


UNITS = EXAMPLES / "systemd"

ACTIVATE = """\
import os, socket, sys
for at, path in enumerate(sys.argv[1:3], 3):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    os.dup2(listening.detach(), at)
    os.set_inheritable(at, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": sys.argv[3]}
os.execv(sys.argv[4], sys.argv[4:])
"""
"""What systemd does with sockets: their paths and names, then the command."""


def settings(unit: str) -> dict[str, str]:
    text = (UNITS / unit).read_text().replace("\\\n", " ")
    return dict(line.split("=", 1) for line in text.splitlines() if re.match("[A-Z].*=", line))


def test_units(tmp_path: Path) -> None:
    """The sockets of the units, outside of systemd: the machine has both, and leaves them."""
    service = settings("faultline.service")
    sockets = [settings(name) for name in service["Sockets"].split()]
    assert all(socket["Service"] == "faultline.service" for socket in sockets)
    paths = [socket["ListenStream"].replace("/run", str(tmp_path)) for socket in sockets]
    names = ":".join(socket["FileDescriptorName"] for socket in sockets)
    command = service["ExecStart"].split()
    argv = [sys.executable, "-c", ACTIVATE, *paths, names, str(FAULTLINE), *command[1:]]
    log = tmp_path / "log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        ready = json.loads(line)
        assert ready["control"] == paths[1]
        subprocess.run(["nbdinfo", ready["drives"]["vda"]], check=True, capture_output=True)
        with Machine.connect(paths[1]) as m:
            assert m.query_status()["running"]
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    assert all(Path(path).is_socket() for path in paths)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_units_are_what_systemd_takes(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/local/bin/faultline", str(FAULTLINE))
        (tmp_path / unit.name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    assert analyze(units) == (0, "")
    wrong = tmp_path / "faultline.socket"
    wrong.write_text(wrong.read_text().replace("ListenStream", "ListenSteam"))
    assert "ListenSteam" in analyze(units)[1]


def analyze(units: list[str]) -> tuple[int, str]:
    result = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


def accepts(arguments: list[str]) -> None:
    """Let `serve` read its arguments, and no more."""
    result = CliRunner().invoke(serve, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    for argument in arguments:
        if argument.startswith("--"):
            assert argument.partition("=")[0] in result.output


def test_containerfile() -> None:
    """Its commands parse, its packages are those of set-up, and `serve` takes its arguments."""
    seen = instructions()
    assert [word for word, _ in seen if word == "FROM"] == ["FROM", "FROM"]
    for word, rest in seen:
        assert word in {"FROM", "RUN", "COPY", "ENV", "VOLUME", "USER", "ENTRYPOINT"}
        if word == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
        elif word == "ENTRYPOINT":
            program, command, *arguments = yaml.safe_load(rest)
            assert (program, command) == ("faultline", "serve")
            accepts(arguments)
    used = {package for word, rest in seen if word == "RUN" for package in packages(rest)}
    known = (TREE / "scripts" / "setup").read_text()
    assert used and all(package in known for package in used)


def packages(command: str) -> list[str]:
    """The packages that a command installs."""
    found = re.search("--no-install-recommends(.*?)(&&|$)", command)
    return found[1].split() if found else []


KUBERNETES = EXAMPLES / "kubernetes"


def manifests() -> list[dict[str, Any]]:
    return [
        document
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


FIELDS = {
    "Job": {"template", "backoffLimit"},
    "Service": {"clusterIP", "selector", "ports"},
    "StatefulSet": {"serviceName", "replicas", "podManagementPolicy", "selector", "template"},
    "NetworkPolicy": {"podSelector", "policyTypes", "ingress"},
    "pod": {"restartPolicy", "securityContext", "volumes", "initContainers", "containers"},
    "container": {
        *("name", "image", "imagePullPolicy", "restartPolicy", "command", "args", "env", "ports"),
        *("securityContext", "startupProbe", "readinessProbe", "volumeMounts", "resources"),
    },
    "confined": {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"},
    "probe": {"exec", "periodSeconds", "timeoutSeconds", "failureThreshold"},
    "volume": {"name", "emptyDir"},
}
"""The fields that are used of each kind of object, as the reference of Kubernetes spells them."""

API = {
    "Job": "batch/v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}


@pytest.mark.parametrize(
    "manifest", manifests(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}"
)
def test_manifest(manifest: dict[str, Any]) -> None:
    kind = manifest["kind"]
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["apiVersion"] == API[kind]
    assert set(manifest["spec"]) <= FIELDS[kind]
    pod = manifest["spec"].get("template", {}).get("spec")
    if pod is None:
        return
    assert set(pod) <= FIELDS["pod"]
    volumes = {volume["name"] for volume in pod["volumes"] if set(volume) <= FIELDS["volume"]}
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        assert set(container) <= FIELDS["container"]
        assert set(container["securityContext"]) == FIELDS["confined"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        for name in ("startupProbe", "readinessProbe"):
            assert set(container.get(name, ())) <= FIELDS["probe"]


def test_manifests_are_what_kubernetes_takes() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in manifests():
        validator.validate(manifest, "1.31", strict=True)


def test_machines_of_a_pod_come_one_after_the_other(tmp_path: Path) -> None:
    """The loop of the container, outside of it: `quit` brings the next machine, SIGTERM the end."""
    (machine,) = (
        container
        for manifest in manifests()
        if manifest["kind"] == "StatefulSet"
        for container in manifest["spec"]["template"]["spec"]["containers"]
        if container["name"] == "machine"
    )
    (script,) = machine["args"]
    script = script.replace("/run/faultline", str(tmp_path)).replace("10809", "0")
    assert script.count(str(tmp_path)) == 1
    path = f"{FAULTLINE.parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        [*machine["command"], script],
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as loop:
        assert loop.stdout is not None
        for _ in range(2):
            assert loop.stdout.readline().startswith(b'{"drives": {"vda": "nbd://')
            with Machine.connect(tmp_path / "qmp") as m:
                assert m.query_status()["running"]
                m.quit()
        assert loop.stdout.readline()
        loop.terminate()
        assert loop.wait(TIMEOUT_S) == 0
    assert not list(tmp_path.iterdir())


def test_the_test_of_the_sidecar(tmp_path: Path) -> None:
    """The machine and the test of the pod, outside of it, with the probe between."""
    (job,) = (manifest for manifest in manifests() if manifest["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    (machine,), (test,) = pod["initContainers"], pod["containers"]
    (entry,) = (yaml.safe_load(rest) for word, rest in instructions() if word == "ENTRYPOINT")
    place = str(tmp_path)
    environ = {
        variable["name"]: variable["value"].replace("/run/faultline", place)
        for variable in test["env"]
    }
    argv = [word.replace("/run/faultline", place) for word in [*entry, *machine["args"]]]
    path = f"{FAULTLINE.parent}:{os.environ['PATH']}"
    env = os.environ | environ | {"PATH": path}
    with subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert environ["uri"].encode() in process.stdout.readline()
        probe = [
            word.replace("/run/faultline", place)
            for word in machine["startupProbe"]["exec"]["command"]
        ]
        for argv in (probe, [*test["command"], *test["args"]], ["nbdinfo", environ["uri"]]):
            subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
