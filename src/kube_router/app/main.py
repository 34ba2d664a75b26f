"""Where the program begins: arguments to options, then the daemon or the cleanup, and an exit status.

0 help, version, cleanup done, nothing to run, or a clean stop; 1 start-up or run failed; 2 faults in the command line.
Nothing heavy is imported before it is known that there is something to run, so that --help is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO, cast

from kube_router.config.faults import StartRefused, report
from kube_router.config.options import Options
from kube_router.config.usage import usage
from kube_router.config.validate import parse

STOPPED, FAILED, MISUSED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class World:
    """What a start depends on beside its arguments."""

    environ: Mapping[str, str]
    read_file: Callable[[str], str]
    user: Callable[[], int]
    stderr: TextIO
    daemon: Callable[[Options], int]
    cleanup: Callable[[Options], int]


def main() -> int:
    """Run with the arguments of this process; the exit status."""
    world = World(os.environ, _read_file, os.geteuid, sys.stderr, _daemon, _cleanup)
    return start(sys.argv[1:], world)


def start(arguments: Sequence[str], world: World) -> int:
    """Do what the arguments ask for; the exit status."""
    options = parse(arguments, world.environ, world.read_file)
    if not isinstance(options, Options):
        world.stderr.write(report(options))
        return MISUSED
    if options.help:
        world.stderr.write(usage("kube-router"))
        return STOPPED
    if options.version:
        world.stderr.write(_version_line())
        return STOPPED
    if world.user() != 0:
        world.stderr.write("kube-router: must run as root, for it writes to the kernel of this node\n")
        return FAILED
    return _run(options, world)


def _run(options: Options, world: World) -> int:
    from kube_router.telemetry import logging
    from kube_router.telemetry.build import version

    form = cast(logging.Format, options.log_format)
    logging.configure(verbosity=options.verbosity, form=form, stream=world.stderr)
    logging.take_over()
    log = logging.get_logger("main")
    try:
        if options.cleanup_config:
            return world.cleanup(options)
        if not (options.run_router or options.run_firewall or options.run_service_proxy):
            log.info("router, firewall and service proxy are all switched off: nothing to run")
            return STOPPED
        log.info("starting", version=version(), families=list(options.families))
        _expose_metrics(options)
        return world.daemon(options)
    except StartRefused as refused:
        for fault in refused.faults:
            log.error(f"not started: {fault}")
        log.error(f"ended by the faults above, exit status {refused.status}")
        return refused.status
    except Exception as error:
        log.exception(f"ended by an error, exit status {FAILED}: {type(error).__name__}: {error}", error)
        return FAILED


def _expose_metrics(options: Options) -> None:
    from kube_router.telemetry.build import runtime, version
    from kube_router.telemetry.catalog import Owner
    from kube_router.telemetry.metrics import METRICS
    from kube_router.telemetry.process import read_process

    switches: tuple[tuple[Owner, bool], ...] = (
        ("router", options.run_router),
        ("proxy", options.run_service_proxy),
        ("firewall", options.run_firewall),
        ("loadbalancer", options.run_loadbalancer),
    )
    METRICS.expose(owner for owner, on in switches if on)
    METRICS.gauge("build_info", {"goversion": runtime(), "version": version()}).set(1)
    METRICS.at_scrape("process", read_process)


def _version_line() -> str:
    from kube_router.telemetry.build import runtime, version

    return f"{sys.argv[0]} version {version()}, {runtime()}\n"


def _read_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _daemon(options: Options) -> int:
    from kube_router.app.daemon import run

    return run(options)


def _cleanup(options: Options) -> int:
    from kube_router.app.cleanup import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
