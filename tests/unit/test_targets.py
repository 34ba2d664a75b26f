"""Every kind of state that a controller writes has the one target that holds it."""

from __future__ import annotations

from collections import Counter

from kube_router.app.controllers import everything, running
from kube_router.app.targets import Targets
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults


def test_each_kind_that_is_written_or_cleaned_up_has_exactly_one_target() -> None:
    options = defaults(node_name="n1")
    targets = Targets(options, Cache().view)
    assert options.run_service_proxy
    for controller in (*(entry.controller for entry in running(options, dict)), *everything()):
        held = Counter(kind for target in targets.of(controller.writes) for kind in target.kinds)
        assert {kind: held[kind] for kind in controller.writes} == dict.fromkeys(controller.writes, 1), controller.name
