"""The daemon: watchers fill the cache, controllers turn it into state, until told to stop or until something breaks.

Start: health endpoint first, so that probes are answered; then targets, controllers and watchers. Nothing is written before
what a controller reads has been listed. Stop: SIGTERM or SIGINT ends the loops within seconds and tears nothing down, for
the node's network must outlive its manager. A task that ends by itself is a bug, and ends the process with status 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from kube_router.app.acceptance import Acceptance
from kube_router.app.cloud import source_check
from kube_router.app.controllers import absent, keeper, running
from kube_router.app.inbox import Inbox
from kube_router.app.metering import meter
from kube_router.app.outcomes import passed
from kube_router.app.reporting import Reporting
from kube_router.app.targets import Targets
from kube_router.app.watchers import Watchers
from kube_router.cache.cache import Cache
from kube_router.config.faults import StartRefused
from kube_router.config.node import node_faults, speaker_faults
from kube_router.config.options import Options
from kube_router.control.controller import Controller
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.runner import Runner
from kube_router.control.schedule import Schedule
from kube_router.desired import Note
from kube_router.kit.errors import TargetError
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state.netfilter import ChainKey
from kube_router.plan import ownership
from kube_router.serve import endpoints
from kube_router.telemetry.health import Health
from kube_router.telemetry.logging import get_logger
from kube_router.telemetry.metrics import METRICS

_LOG = get_logger("daemon")
_STOP_TIME: Final = 4.0  # seconds that writes under way get when we stop; a SIGTERM is obeyed within 5 s
_THREADS: Final = 8  # one for each controller's writes, and some for scrapes
_API_LOOK: Final = 2.0  # seconds between looks at how the watches do
_TURN: Final = 60.0  # seconds within which every loop must turn: the first pass of a large cluster takes its time


def run(options: Options) -> int:
    """Run until stopped; the exit status. Raises StartRefused for faults that only this node shows."""
    named = replace(options, node_name=options.node_name or socket.gethostname())
    status = asyncio.run(Daemon(named).run())
    _leave_if_threads_linger(status)
    return status


class Daemon:
    """One run of the program."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._health = Health(time.monotonic)
        self._cache = Cache()
        self._targets = Targets(options, self._cache.view)
        self._acceptance = Acceptance(options)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="write")
        self._runners: list[Runner] = []
        self._unwritten: set[str] = set()  # controllers of rules that have not completed a pass yet
        self._watchers: Watchers
        self._reporting: Reporting
        self._inbox: Inbox

    async def run(self) -> int:
        """Start, wait, stop."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        servers = await endpoints.start(self._options, health=self._health, metrics=METRICS)
        try:
            # Probes are answered by now; this reads credentials, and takes a while on a slow machine.
            self._watchers = Watchers(self._options, self._targets, self._cache.view)
            self._reporting = Reporting(self._watchers.post)
            self._targets.tell = self._tell_of_sessions
            self._targets.is_proxy_alive = lambda: self._health.live(ownership.PROXY).good
            self._acceptance.load()
            self._inbox = Inbox(self._cache, gate=self._acceptance.gate, fault=self._reporting.bad_object, seen=_count_events)
            return await self._work(stop)
        finally:
            for server in servers:
                await server.stop()
            self._targets.health_ports.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _work(self, stop: asyncio.Event) -> int:
        broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        for entry in running(self._options, self._targets.found_marks):
            self._prepare(entry.controller, entry.audit)
        meter(self._runners)
        tasks = self._watchers.start(self._inbox, self._runners, lambda bug: None if broken.done() else broken.set_result(bug))
        tasks |= {asyncio.create_task(runner.run(), name=runner.name) for runner in self._runners}
        tasks |= {asyncio.create_task(self._remove_absent(gone), name=f"no {gone.name}") for gone in absent(self._options)}
        tasks.add(asyncio.create_task(self._check_node(), name="node"))
        tasks.add(asyncio.create_task(self._check_speaker(), name="speaker"))
        tasks.add(asyncio.create_task(self._leave_other_backend(), name="other backend"))
        tasks.add(asyncio.create_task(self._follow_api(), name="api"))
        tasks.add(asyncio.create_task(self._acceptance.keep(self._in_thread), name="accepted annotations"))
        if self._options.run_router and self._options.disable_source_dest_check:
            tasks.add(asyncio.create_task(source_check(self._options, self._cache.view, self._reporting).run(), name="cloud"))
        try:
            return await _first_end(tasks, stop, broken)
        finally:
            self._watchers.stop()
            for task in tasks:
                task.cancel()
            self._targets.gobgp.close()  # ends calls that wait for a speaker which hangs, and the threads that they wait in
            await asyncio.wait(tasks, timeout=_STOP_TIME)
            self._acceptance.finish()

    def _prepare(self, controller: Controller, audit: float) -> None:
        cycle = self._cycle(controller)
        name = controller.name
        self._health.expect(name, period=_TURN)
        if ChainKey in controller.writes:
            self._unwritten.add(name)
        runner = Runner(
            cycle,
            Schedule(time.monotonic(), kinds=controller.writes, max_gap=audit),
            ready=lambda: self._is_listed(controller),
            done=lambda outcome, seconds: self._done(name, outcome, seconds),
            beat=lambda: self._health.beat(name),
        )
        self._runners.append(runner)
        self._inbox.serve(runner)

    def _cycle(self, controller: Controller) -> Cycle:
        return Cycle(
            controller,
            feed=self._cache.feed(controller.reads),
            view=self._cache.view,
            targets=self._targets.of(controller.writes),
            report=self._reporting,
            call=self._in_thread,
            keeper=keeper(controller, self._options, self._cache.view, self._targets.connections),
        )

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def _is_listed(self, controller: Controller) -> bool:
        missing = self._cache.unlisted(controller.reads)
        if missing:
            kinds = ", ".join(sorted(kind.value for kind in missing))
            why = self._watchers.trouble(missing)
            self._health.failing(controller.name, f"waiting for the first list of {kinds}{': ' + why if why else ''}")
        return not missing

    def _done(self, name: str, outcome: Outcome, seconds: float) -> None:
        passed(name, outcome, seconds, health=self._health, reporting=self._reporting)
        if not outcome.failure:
            self._unwritten.discard(name)

    async def _remove_absent(self, controller: Controller) -> None:
        """What a switched-off controller left behind goes; tried until it is gone."""
        cycle = self._cycle(controller)
        wait = 1.0
        while not (await cycle.sync()).good:
            await asyncio.sleep(wait)
            wait = min(wait * 2, 60.0)
        await asyncio.Event().wait()  # a task that ends is taken for a crash

    async def _leave_other_backend(self) -> None:
        """Rules in the backend that we do not use go once every controller has written its own into the one that we do."""
        while self._unwritten:
            await asyncio.sleep(0.2)
        wait = 1.0
        while True:
            try:
                await self._in_thread(self._targets.leave_other_backend)
                break
            except TargetError as failure:
                _LOG.warning("the other backend of iptables is not clean yet", reason=str(failure))
            await asyncio.sleep(wait)
            wait = min(wait * 2, 60.0)
        await asyncio.Event().wait()

    async def _follow_api(self) -> None:
        """While the API server is away the node works on and is alive, but it is not ready: it would not hear of changes."""
        self._health.expect("api", period=_TURN)
        while True:
            trouble = self._watchers.api_trouble()
            if trouble:
                self._health.failing("api", trouble)
            else:
                self._health.synced("api")
            await asyncio.sleep(_API_LOOK)

    async def _check_node(self) -> None:
        """Faults that only this node's own object shows end the start, all of them at once."""
        own = Name("", self._options.node_name)
        while not self._cache.listed((Kind.NODE,)) or own not in self._cache.view.nodes:
            await asyncio.sleep(0.2)
        # A pod CIDR may come later: the routing controller waits for it, with a note on the node.
        faults = node_faults(self._options, self._cache.view.nodes[own].addresses, None)
        if faults:
            raise StartRefused(faults)
        await asyncio.Event().wait()

    async def _check_speaker(self) -> None:
        """A flag that the speaker beside us cannot follow ends the start, as soon as there is one to ask."""
        while self._options.run_router:
            try:
                generation = await self._in_thread(self._targets.gobgp.generation)
            except TargetError:
                await asyncio.sleep(1.0)
                continue
            faults = speaker_faults(self._options, has_bfd=generation.has_bfd)
            if faults:
                raise StartRefused(faults)
            break
        await asyncio.Event().wait()

    def _tell_of_sessions(self, reason: str, message: str) -> None:
        about = Ref(Kind.NODE, Name("", self._options.node_name))
        self._reporting.foretell("speaker", Note(about, reason, message))


async def _first_end(tasks: set[asyncio.Task[None]], stop: asyncio.Event, broken: asyncio.Future[Exception]) -> int:
    """Wait for a signal, a crashed task, or a watcher that broke; the exit status."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    ends: set[asyncio.Future[Any]] = {*tasks, stopping, broken}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        _LOG.info("told to stop: loops end, the node's network stays as it is")
        return 0
    stopping.cancel()
    if broken.done():
        _LOG.exception("a watcher broke, which is a bug", broken.result())
        return 1
    for task in tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if isinstance(error, StartRefused):
                raise error
            _LOG.exception(f"task {task.get_name()} ended, which is a bug", error or RuntimeError("it returned"))
    return 1


def _count_events(kind: str, number: int) -> None:
    METRICS.counter("watch_events_total", {"kind": kind}).inc(number)


def _leave_if_threads_linger(status: int) -> None:
    """A write that hangs in the kernel or behind a lock must not keep a stopped process alive: kubelet would kill it anyway."""
    import threading

    if any(thread.name.startswith("write") and thread.is_alive() for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(status)
