"""What the kernel says about this process, read from /proc/self when somebody scrapes."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from kube_router.telemetry.metrics import Sample


def read_process(proc: Path = Path("/proc")) -> Iterator[Sample]:
    """Processor time, memory, age and files of this process; OSError where /proc is not mounted."""
    own = proc / "self"
    # Fields of proc(5) counted from the one after the command's name, which may hold blanks and brackets.
    fields = (own / "stat").read_text().rpartition(")")[2].split()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    yield Sample("process_cpu_seconds_total", (), (int(fields[11]) + int(fields[12])) / ticks)
    yield Sample("process_start_time_seconds", (), _boot_time(proc) + int(fields[19]) / ticks)
    yield Sample("process_virtual_memory_bytes", (), int(fields[20]))
    yield Sample("process_resident_memory_bytes", (), int(fields[21]) * page)
    yield Sample("process_open_fds", (), len(os.listdir(own / "fd")))
    yield Sample("process_max_fds", (), resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _boot_time(proc: Path) -> int:
    lines = (proc / "stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))
