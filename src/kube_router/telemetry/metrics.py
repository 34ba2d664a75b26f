"""Counting what the program does, from any thread, in a few microseconds; nothing is rendered before somebody scrapes.

    METRICS.counter("controller_bgp_advertisements_sent", {"type": "pod-route"}).inc()
    with METRICS.histogram("controller_routes_sync_time").time(): ...
    METRICS.replace("bgp_peer_info", {("10.0.0.2", "internal", "64512", "established"): 1})
    METRICS.at_scrape("ipvs", read_ipvs)      # what the kernel counts is read when asked for, in the scrape's thread

Names and labels are those of `catalog.py`; others are a KeyError or ValueError, so that a mistyped name cannot pass a test.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from kube_router.telemetry.catalog import CATALOG, Kind, Metric, Owner
from kube_router.telemetry.pace import paced

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, the default ones of Prometheus' client libraries."""

Labels = Mapping[str, str]
Values = tuple[str, ...]


class Sample(NamedTuple):
    """One series of a counter or gauge read at scrape time; `labels` are values in the catalog's order."""

    name: str
    labels: Values
    value: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram holds: observations per bucket (not cumulated; the last one beyond all bounds), and their sum."""

    buckets: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its series at one moment, ready to be rendered."""

    metric: Metric
    series: Mapping[Values, float | Distribution]


class Counter:
    """A number that only grows."""

    __slots__ = ("_labels", "_lock", "_series")

    def __init__(self, series: dict[Values, float], labels: Values, lock: threading.Lock) -> None:
        self._series, self._labels, self._lock = series, labels, lock

    def inc(self, amount: float = 1) -> None:
        """Add; ValueError for less than nothing."""
        if amount < 0:
            raise ValueError(f"a counter cannot go down by {-amount}")
        with self._lock:
            self._series[self._labels] = self._series.get(self._labels, 0) + amount


class Gauge:
    """A number that goes both ways."""

    __slots__ = ("_labels", "_lock", "_series")

    def __init__(self, series: dict[Values, float], labels: Values, lock: threading.Lock) -> None:
        self._series, self._labels, self._lock = series, labels, lock

    def set(self, value: float) -> None:
        """Say how much it is."""
        with self._lock:
            self._series[self._labels] = value

    def add(self, amount: float) -> None:
        """Add, or take away with a negative amount."""
        with self._lock:
            self._series[self._labels] = self._series.get(self._labels, 0) + amount


class Histogram:
    """How long things took, in seconds."""

    __slots__ = ("_labels", "_lock", "_series")

    def __init__(self, series: dict[Values, list[float]], labels: Values, lock: threading.Lock) -> None:
        self._series, self._labels, self._lock = series, labels, lock

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        with self._lock:
            slots = self._series.get(self._labels)
            if slots is None:
                slots = self._series[self._labels] = _empty_slots()
            slots[bisect_left(BUCKETS, seconds)] += 1
            slots[-1] += seconds

    @contextmanager
    def time(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """Count how long the block takes, however it ends."""
        start = clock()
        try:
            yield
        finally:
            self.observe(clock() - start)


class Registry:
    """All series of the program. A gauge or counter of an exposed owner without labels is there from the start, at 0."""

    def __init__(self, catalog: Iterable[Metric] = CATALOG) -> None:
        self._metrics = {metric.name: metric for metric in catalog}
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[Values, float]] = {name: {} for name in self._metrics}
        self._slots: dict[str, dict[Values, list[float]]] = {name: {} for name in self._metrics}
        self._readers: dict[str, Callable[[], Iterable[Sample]]] = {}
        self._owners: frozenset[Owner] = frozenset({"core"})

    def expose(self, owners: Iterable[Owner]) -> None:
        """From now on show the metrics of these owners, beside the program's own."""
        self._owners = frozenset({"core", *owners})

    def counter(self, name: str, labels: Labels | None = None) -> Counter:
        """The counter of that name and those labels."""
        return Counter(self._numbers[name], self._values(name, "counter", labels), self._lock)

    def gauge(self, name: str, labels: Labels | None = None) -> Gauge:
        """The gauge of that name and those labels."""
        return Gauge(self._numbers[name], self._values(name, "gauge", labels), self._lock)

    def histogram(self, name: str, labels: Labels | None = None) -> Histogram:
        """The histogram of that name and those labels."""
        return Histogram(self._slots[name], self._values(name, "histogram", labels), self._lock)

    def replace(self, name: str, series: Mapping[Values, float]) -> None:
        """All series of a gauge at once, those not named disappear; label values in the catalog's order."""
        metric = self._metrics[name]
        if metric.kind != "gauge" or any(len(labels) != len(metric.labels) for labels in series):
            raise ValueError(f"{name} is a {metric.kind} with the labels {metric.labels}")
        with self._lock:
            held = self._numbers[name]
            held.clear()
            held.update(series)

    def value(self, name: str, labels: Labels | None = None) -> float:
        """What a counter or gauge shows, 0 when it was never touched; of a histogram, how many were observed."""
        metric = self._metrics[name]
        values = self._values(name, metric.kind, labels)
        with self._lock:
            if metric.kind == "histogram":
                return sum(self._slots[name].get(values, [0.0])[:-1])
            return self._numbers[name].get(values, 0)

    def at_scrape(self, part: str, read: Callable[[], Iterable[Sample]]) -> None:
        """Ask `read` at each scrape, in the scrape's thread; its failure is counted and costs only its own series."""
        self._readers[part] = read

    def collect(self) -> list[Family]:
        """All exposed metrics that have series, by name. Calls the readers: never on the event loop."""
        read = self._read()
        with self._lock:
            families = [
                Family(metric, self._series(metric) | read.get(name, {}))
                for name, metric in sorted(self._metrics.items(), key=lambda pair: pair[1].exposed_name)
                if metric.owner in self._owners
            ]
        return [family for family in families if family.series]

    def _read(self) -> dict[str, dict[Values, float]]:
        found: dict[str, dict[Values, float]] = {}
        for part, read in list(self._readers.items()):
            series: dict[str, dict[Values, float]] = {}
            try:
                for sample in paced(read()):
                    name, labels, value = self._checked(sample)
                    series.setdefault(name, {})[labels] = value
            except Exception:  # noqa: BLE001  whatever one reader meets, the other metrics are still wanted
                self.counter("scrape_errors_total", {"part": part}).inc()
                continue
            for name, values in series.items():
                found.setdefault(name, {}).update(values)
        return found

    def _checked(self, sample: Sample) -> Sample:
        metric = self._metrics[sample.name]
        if metric.kind == "histogram" or len(sample.labels) != len(metric.labels):
            raise ValueError(f"{sample.name} is a {metric.kind} with the labels {metric.labels}")
        return sample

    def _series(self, metric: Metric) -> dict[Values, float | Distribution]:
        if metric.kind == "histogram":
            slots = self._slots[metric.name] or ({} if metric.labels else {(): _empty_slots()})
            return {labels: Distribution(tuple(int(n) for n in s[:-1]), s[-1]) for labels, s in slots.items()}
        untouched: dict[Values, float | Distribution] = {} if metric.labels or metric.at_scrape else {(): 0}
        return untouched | self._numbers[metric.name]

    def _values(self, name: str, kind: Kind, labels: Labels | None) -> Values:
        metric, given = self._metrics[name], labels or {}
        if metric.kind != kind or given.keys() != set(metric.labels):
            raise ValueError(f"{name} is a {metric.kind} with the labels {metric.labels}, not a {kind} with {given}")
        return tuple(given[label] for label in metric.labels)


def _empty_slots() -> list[float]:
    """A count per bucket, one beyond all bounds, and the sum."""
    return [0.0] * (len(BUCKETS) + 2)


METRICS: Final = Registry()
