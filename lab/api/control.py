"""The lab's own paths under ``/lab/``: the switches of a server that runs as a process of its own.

GET    /lab/faults     the faults in force with their hits        POST    a fault as JSON (fields of ``Fault``)
DELETE /lab/faults     no faults any more
POST   /lab/expire     forget the past: watches and pages from before get "410 Gone"
GET    /lab/seen       how many requests came in, by client, verb and kind
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import msgspec

from lab.api.faults import Fault, Faults
from lab.api.problem import Problem
from lab.api.routes import problem_answer
from lab.api.store import Store
from lab.api.wire import Answer, Request, json_answer


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came in, for tests that count them. ``at`` is the monotonic clock."""

    at: float
    client: str
    verb: str
    plural: str
    path: str
    query: dict[str, str]
    agent: str


def control(request: Request, *, faults: Faults, store: Store, seen: Iterable[Seen]) -> Answer:
    """Turn a switch or read a counter."""
    match request.method, request.path:
        case "GET", "/lab/faults":
            return json_answer(200, [asdict(fault) for fault in faults.all()])
        case "POST", "/lab/faults":
            try:
                fault = Fault(**msgspec.json.decode(request.body))
            except (msgspec.DecodeError, TypeError, ValueError) as error:
                return problem_answer(Problem(400, f"not a fault: {error}"))
            return json_answer(201, asdict(faults.add(fault)))
        case "DELETE", "/lab/faults":
            faults.clear()
            return json_answer(200, {})
        case "POST", "/lab/expire":
            store.expire()
            return json_answer(200, {"resourceVersion": str(store.version)})
        case "GET", "/lab/seen":
            counted = Counter((one.client, one.verb, one.plural) for one in tuple(seen))
            rows = [{"client": c, "verb": v, "plural": p, "count": n} for (c, v, p), n in sorted(counted.items())]
            return json_answer(200, rows)
    return problem_answer(Problem(404, "no such switch"))
