"""The cloud that this node runs in, wired to what we know of the node."""

from __future__ import annotations

from kube_router.app.reporting import Reporting
from kube_router.cache.cache import View
from kube_router.config.options import Options
from kube_router.control.source_check import Attempt, Instance, SourceCheck
from kube_router.model.objects import Kind, Name, Ref
from kube_router.plan import ownership


def source_check(options: Options, view: View, reporting: Reporting) -> SourceCheck:
    """Follows our own Node object and tells what it comes to as routing's news."""
    own = Name("", options.node_name)
    return SourceCheck(
        node=lambda: view.nodes.get(own),
        switch_off=_attempt,
        tell=lambda note: reporting.note(ownership.ROUTING, note),
        about=Ref(Kind.NODE, own),
    )


async def _attempt(instance: Instance) -> Attempt:
    from kube_router.apply.cloud.aws import Failed
    from kube_router.apply.cloud.process import switch_off

    try:
        await switch_off(instance.name, instance.region)
    except Failed as failure:
        return Attempt(str(failure), failure.denied)
    return Attempt()
