"""Metrics as text, in Prometheus' exposition format 0.0.4.

Rendered by ourselves: the client library cannot write a counter whose name does not end in `_total`, and the names are
fixed by the dashboards that exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import itemgetter
from typing import Final

from kube_router.telemetry.metrics import BUCKETS, Distribution, Family, Values
from kube_router.telemetry.pace import paced

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def render(families: Iterable[Family]) -> str:
    """The text of a scrape."""
    written: dict[tuple[Values, Values], str] = {}  # ten metrics of each Service have the same labels
    # Family by family: all lines at once would take several times the memory of the text.
    return "".join(["\n".join((*paced(_lines(family, written)), "")) for family in families])


def _lines(family: Family, written: dict[tuple[Values, Values], str]) -> Iterator[str]:
    metric = family.metric
    name, labels = metric.exposed_name, metric.labels
    yield f"# HELP {name} {_escaped(metric.help)}"
    yield f"# TYPE {name} {metric.kind}"
    for values, value in sorted(family.series.items(), key=itemgetter(0)):
        if isinstance(value, Distribution):
            yield from _histogram(name, labels, values, value)
            continue
        text = written.get((labels, values))
        if text is None:
            text = written[labels, values] = _labels(labels, values)
        yield f"{name}{text} {value}" if type(value) is int else f"{name}{text} {_number(value)}"


def _histogram(name: str, labels: Values, values: Values, held: Distribution) -> Iterator[str]:
    for bound, count in zip((*BUCKETS, math.inf), accumulate(held.buckets), strict=True):
        yield f"{name}_bucket{_labels((*labels, 'le'), (*values, _number(bound)))} {count}"
    yield f"{name}_sum{_labels(labels, values)} {_number(held.total)}"
    yield f"{name}_count{_labels(labels, values)} {sum(held.buckets)}"


def _labels(names: Values, values: Values) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**63 else repr(value)
