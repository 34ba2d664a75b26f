"""Set up a machine for this project: Debian packages, the Python environment, the BGP speakers, the lab kernel.

Runs on the base system's Python before anything else is installed, so it imports the standard library only. Each step
looks first whether there is anything to do: a second run takes a second, a changed list or lock does that step again.
It refuses to go on after a failed step, and names the command that failed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = REPOSITORY / "lab" / "packages"
LOCK = REPOSITORY / "requirements.lock"
VENV = REPOSITORY / ".venv"
CACHE = REPOSITORY / ".cache"
GOBGP_V4 = CACHE / "gobgp-v4"

# what the packages would have systemd run; the lab starts these programs itself, in its own namespaces
SERVICES = {"gobgpd": "gobgpd.service", "frr": "frr.service", "bird2": "bird.service"}

GOBGP_VERSION = "v4.8.0"
GO_NEEDED = (1, 26)  # GoBGP 4.8 says so in its go.mod
PYTHON_NEEDED = (3, 11)


class SetupFailed(Exception):
    """A step failed; the message says which command, and what to do."""


def packages(*sections: str) -> list[str]:
    """The Debian packages of the named sections of `lab/packages`, in their order."""
    found: list[str] = []
    section = ""
    for line in PACKAGES.read_text().splitlines():
        text = line.split("#", 1)[0].strip()
        if text.startswith("["):
            section = text.strip("[]")
        elif text and section in sections:
            found.append(text)
    return found


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, shown: tuple[str, ...] = ("",)) -> None:
    """Run a command and pass on the lines that begin with one of `shown`; all the last ones, and SetupFailed, when it fails."""
    print("\n   $ " + " ".join(command), flush=True)
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            if line.strip().startswith(shown):
                print(f"     {line.rstrip()}"[:120], flush=True)
    if process.returncode != 0:
        print("\n".join(last), flush=True)
        raise SetupFailed(f"`{' '.join(command)}` ended with {process.returncode}")


def debian_packages(*sections: str) -> str:
    """Install the missing Debian packages of these sections; what was done, in words."""
    wanted = packages(*sections)
    if shutil.which("dpkg-query") is None:
        raise SetupFailed(f"this is no Debian system; install by hand what corresponds to: {' '.join(wanted)}")
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    missing = [name for name in wanted if name not in installed]
    if not missing:
        return f"all {len(wanted)} are installed"
    if os.geteuid() != 0:
        raise SetupFailed(f"run as root, or install first: apt-get install {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], environment=quiet)
    # Services of these packages must not start here, now or at the next boot: gobgpd and bgpd would listen on the machine's own address.
    _mask([SERVICES[name] for name in missing if name in SERVICES])
    with _no_services():
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing], environment=quiet)
    return f"{len(missing)} installed"


def _mask(services: Sequence[str], *, folder: Path = Path("/etc/systemd/system")) -> None:
    """Keep systemd, where there is one, from ever starting these; `systemctl unmask` undoes it. A unit that is there stays."""
    for service in services:
        unit = folder / service
        if folder.is_dir() and not unit.exists() and not unit.is_symlink():
            unit.symlink_to("/dev/null")


class _no_services:  # noqa: N801 - reads as a statement
    """While it lasts, Debian's packages do not start their services (invoke-rc.d asks this file); an own one stays."""

    _policy = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self._ours = not self._policy.exists()
        if self._ours:
            self._policy.write_text("#!/bin/sh\nexit 101\n")
            self._policy.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._policy.unlink(missing_ok=True)


def python_environment() -> str:
    """The virtual environment in .venv: exactly the lock, and this project in place (an editable install)."""
    if sys.version_info[:2] < PYTHON_NEEDED:
        raise SetupFailed(f"Python {PYTHON_NEEDED[0]}.{PYTHON_NEEDED[1]} or later is needed, this is {sys.version}")
    python, stamp = VENV / "bin" / "python", VENV / "locked"
    digest = _digest([LOCK, REPOSITORY / "pyproject.toml"])
    done = f"{len(LOCK.read_text().splitlines())} packages as locked, in {VENV.relative_to(REPOSITORY)}"
    if stamp.exists() and stamp.read_text() == digest:
        return done
    if not python.exists() or subprocess.run([python, "-c", ""], check=False).returncode != 0:
        run([_base_python(), "-m", "venv", "--clear", str(VENV)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--progress-bar=off", "--requirement", str(LOCK)], shown=("Collecting", "Building", "Installing", "ERROR"))
    run([*pip, "install", "--quiet", "--no-deps", "--editable", str(REPOSITORY)], environment={"PIP_CONSTRAINT": str(LOCK)})
    stamp.write_text(digest)
    return done


def _base_python() -> str:
    """The interpreter that this one is, outside any virtual environment."""
    return getattr(sys, "_base_executable", None) or sys.executable


def speaker_v4() -> str:
    """Build gobgpd and gobgp of API generation 4 where Go is recent enough; say loudly when it is not."""
    version = _go_version()
    if version is None or version < GO_NEEDED:
        found = "no Go" if version is None else f"Go {version[0]}.{version[1]}"
        needed = f"{GO_NEEDED[0]}.{GO_NEEDED[1]}"
        return f"NOT BUILT: {found} here, {needed} or later is needed; tests cover API generation 3 only"
    if all((GOBGP_V4 / name).exists() for name in ("gobgpd", "gobgp")):
        return f"{GOBGP_VERSION} is built"
    GOBGP_V4.mkdir(parents=True, exist_ok=True)
    for name in ("gobgpd", "gobgp"):
        run(["go", "install", f"github.com/osrg/gobgp/v4/cmd/{name}@{GOBGP_VERSION}"], environment={"GOBIN": str(GOBGP_V4)})
    return f"{GOBGP_VERSION} built"


def _go_version() -> tuple[int, int] | None:
    if shutil.which("go") is None:
        return None
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"go(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else None


def lab_kernel() -> str:
    """Look whether there is a kernel for what this machine's own cannot do."""
    python = str(VENV / "bin" / "python")
    script = "from lab import kernel; print(kernel.release(kernel.find()))"
    done = subprocess.run([python, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupFailed(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


Step = tuple[str, Callable[[], str]]
FOR_CHECKS: tuple[Step, ...] = (
    ("Debian packages", lambda: debian_packages("build")),
    ("Python environment", python_environment),
)
EVERYTHING: tuple[Step, ...] = (
    ("Debian packages", lambda: debian_packages("runtime", "build", "lab")),
    ("Python environment", python_environment),
    ("gobgpd of API generation 4", speaker_v4),
    ("lab kernel", lab_kernel),
)


def set_up(steps: Sequence[Step]) -> None:
    """Take every step; each looks first whether anything is to be done."""
    for number, (what, step) in enumerate(steps, 1):
        begin = time.monotonic()
        print(f"setup {number}/{len(steps)}: {what}: ", end="", flush=True)
        print(f"{step()} ({time.monotonic() - begin:.1f} s)", flush=True)


def write_lock() -> None:
    """Resolve pyproject.toml's dependencies anew in a throwaway environment, and write the exact versions."""
    scratch = CACHE / "lock"
    run([_base_python(), "-m", "venv", "--clear", str(scratch)])
    pip = [str(scratch / "bin" / "pip"), "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", f"{REPOSITORY}[dev]"])
    frozen = subprocess.run([*pip, "freeze", "--exclude", "kube-router"], capture_output=True, text=True, check=True)
    LOCK.write_text(frozen.stdout)
    shutil.rmtree(scratch)
    print(f"{LOCK.name}: {len(frozen.stdout.splitlines())} packages")


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join([str(REPOSITORY).encode(), *(file.read_bytes() for file in files)])).hexdigest()


def main() -> int:
    """Usage: python3 lab/setup.py [check | lock | packages SECTION...]; without a word it sets up everything."""
    match sys.argv[1:]:
        case []:
            action: Callable[[], None] = functools.partial(set_up, EVERYTHING)
        case ["check"]:
            action = functools.partial(set_up, FOR_CHECKS)
        case ["lock"]:
            action = write_lock
        case ["packages", *sections]:
            print("\n".join(packages(*sections)))
            return 0
        case _:
            print(main.__doc__, file=sys.stderr)
            return 2
    try:
        action()
    except SetupFailed as failure:
        print(f"\nsetup FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
