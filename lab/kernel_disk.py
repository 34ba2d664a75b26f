"""A disk for the lab kernel that holds Python: standard library, packages of the virtual environment, and this repository.

The guest's root is the host's, through a 9p export without a cache: every `stat` is a round trip through QEMU, and one start
of the daemon needs ten thousand of them (a minute, where the work itself takes five seconds). So what Python reads is
packed into one read-only squashfs image, given to QEMU as a disk, and mounted over the folders that it came from. What is
packed depends on nothing but files, so an image of packages is kept until they change; the repository is packed at each boot.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
CACHE: Final = REPOSITORY / ".cache" / "lab-kernel"
CODE: Final = ("src", "lab", "tests", "bench")
# Packages that no test needs inside: tools of `make check` and data of the manifests' tests.
LEFT_OUT: Final = (
    *("mypy", "mypyc", "*__mypyc*.so", "ruff*", "pip", "setuptools"),
    *("kubernetes_validate", "grpc_tools", "grimp", "importlinter"),
)
_STDLIB_LEFT_OUT: Final = ("test", "idlelib", "lib2to3", "ensurepip", "tkinter", "site-packages", "dist-packages", "config-*")
_PLAIN: Final = ("-noI", "-noD", "-noF", "-noX", "-no-xattrs", "-quiet", "-no-progress")  # reading must cost the guest nothing


class Disk:
    """An image and the folders that it holds, by the paths where they belong."""

    def __init__(self, image: Path, folders: Sequence[Path]) -> None:
        self.image = image
        self.folders = tuple(folders)

    def qemu_options(self) -> str:
        """For `vng --qemu-opts`."""
        return f"-drive file={self.image},if=virtio,format=raw,readonly=on"

    def guest_lines(self, device: str, at: str) -> list[str]:
        """Shell lines that mount the disk and put its folders in place."""
        lines = [f"mkdir -p {at} && mount -t squashfs -o ro {device} {at}"]
        return lines + [f"mount --bind {at}{folder} {folder}" for folder in self.folders]


def packages() -> Disk:
    """The standard library and the packages of this interpreter; packed anew when a package came or went."""
    library, site = Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["purelib"])
    folders = [library, site]
    image = CACHE / f"python-{_fingerprint(folders)}.squashfs"
    if not image.exists():
        for old in CACHE.glob("python-*.squashfs"):
            old.unlink()
        excluded = [f"--exclude={site}/{name}" for name in LEFT_OUT] + [f"--exclude={library}/{name}" for name in _STDLIB_LEFT_OUT]
        _pack(image, folders, excluded)
    return Disk(image, folders)


def repository(work: Path) -> Disk:
    """This repository's code, compiled, as it is now."""
    folders = [REPOSITORY / name for name in CODE if (REPOSITORY / name).is_dir()]
    for folder in folders:
        compileall.compile_dir(folder, quiet=2)
    image = work / "code.squashfs"
    _pack(image, folders, [])
    return Disk(image, folders)


def is_possible() -> bool:
    """Whether the tool that packs is installed."""
    return shutil.which("sqfstar") is not None


def _pack(image: Path, folders: Sequence[Path], excluded: Sequence[str]) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    beside = image.with_suffix(f".{os.getpid()}")
    beside.unlink(missing_ok=True)
    names = [str(folder) for folder in folders]
    tar = subprocess.Popen(
        ["tar", "--create", "--absolute-names", *excluded, "--file=-", *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    packed = subprocess.run(["sqfstar", *_PLAIN, str(beside)], stdin=tar.stdout, capture_output=True, text=True, check=False)
    tar.wait()
    if packed.returncode:
        raise OSError(f"cannot pack {image.name}: {packed.stderr.strip()}")
    beside.replace(image)


def _fingerprint(folders: Sequence[Path]) -> str:
    seen = hashlib.sha256(sys.version.encode())
    for folder in folders:
        entries = sorted((entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(folder) if entry.name != "__pycache__")
        seen.update(repr((str(folder), entries)).encode())
    return seen.hexdigest()[:16]
