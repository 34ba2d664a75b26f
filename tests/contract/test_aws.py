"""The source/destination check of our own EC2 instance goes off in the background; elsewhere nobody is asked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from kube_router.apply.cloud import aws, process
from kube_router.control.source_check import DENIED, FIRST, LOOK, MOST, Attempt, Instance, SourceCheck, instance_of
from kube_router.desired import Note
from kube_router.model.objects import Kind, Name, Node, Ref

ABOUT = Ref(Kind.NODE, Name("", "node1"))
REGION = "us-west-2"


@pytest.mark.parametrize(
    ("provider_id", "expected"),
    [
        ("aws:///us-west-2a/i-0123456789abcdef0", Instance("i-0123456789abcdef0", "us-west-2")),
        ("aws:///us-gov-east-1c/i-1", Instance("i-1", "us-gov-east-1")),
        ("aws:///us-west-2-lax-1a/i-1", Instance("i-1", "us-west-2")),
        ("aws:///eu-west-1/i-1", Instance("i-1", "eu-west-1")),
        ("aws:///us-west-2a/fargate-ip-10-0-0-1.us-west-2.compute.internal", None),
        ("aws:///us-west-2a/4f8a/fargate-10.0.0.1", None),
        ("aws:///us-west-2a/i-1; reboot", None),
        ("gce://project/us-central1-a/i-1", None),
        ("k3s://node1", None),
        ("", None),
    ],
)
def test_the_instance_and_its_region_stand_in_the_provider_id(provider_id, expected):
    assert instance_of(provider_id) == expected


# -- the call, against a made-up EC2 -------------------------------------------------------------------------------------


@pytest.fixture
def account(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        yield boto3.client("ec2", region_name=REGION)


def instances(ec2, count: int) -> list[str]:
    return [made["InstanceId"] for made in ec2.run_instances(ImageId="ami-12345678", MinCount=count, MaxCount=count)["Instances"]]


def is_checked(ec2, instance: str) -> bool:
    return ec2.describe_instance_attribute(InstanceId=instance, Attribute="sourceDestCheck")["SourceDestCheck"]["Value"]


def test_r26_the_check_of_our_instance_goes_off_and_no_other(account):
    ours, other = instances(account, 2)
    assert is_checked(account, ours)
    aws.switch_off(ours, REGION)
    assert not is_checked(account, ours)
    assert is_checked(account, other)


def test_an_instance_that_is_not_there_is_told_and_may_come(account):
    with pytest.raises(aws.Failed, match="InvalidInstanceID") as failed:
        aws.switch_off("i-0123456789abcdef0", REGION)
    assert not failed.value.denied


@set_initial_no_auth_action_count(0)
def test_a_missing_right_is_told_with_what_to_allow(account):
    with pytest.raises((aws.Failed, ClientError)) as failed:
        aws.switch_off("i-0123456789abcdef0", REGION)
    assert isinstance(failed.value, aws.Failed)
    assert failed.value.denied
    assert "allow ec2:ModifyInstanceAttribute" in str(failed.value)


# -- the process ---------------------------------------------------------------------------------------------------------

MADE_UP: str = """
import os, sys
os.environ.update(AWS_ACCESS_KEY_ID="t", AWS_SECRET_ACCESS_KEY="t", MOTO_EC2_LOAD_DEFAULT_AMIS="false")
import boto3
from moto import mock_aws
from kube_router.apply.cloud import aws
with mock_aws():
    ec2 = boto3.client("ec2", region_name=sys.argv[2])
    ours = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    sys.exit(aws.main([ours, sys.argv[2]]))
"""


def run(script: str, instance: str = "i-0", *, timeout: float = 60.0) -> None:
    asyncio.run(process.switch_off(instance, REGION, program=(sys.executable, "-c", script), timeout=timeout))


def test_the_program_of_its_own_does_it():
    run(MADE_UP)


@pytest.mark.parametrize("denied", [True, False])
def test_what_the_program_says_is_understood(denied):
    said = json.dumps({"message": "because", "denied": denied})
    with pytest.raises(aws.Failed, match=r"^because$") as failed:
        run(f"print({said!r}); raise SystemExit(1)")
    assert failed.value.denied == denied


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise RuntimeError('broken')", "ended with status 1: .*broken"),
        ("import sys; print('{}'); sys.exit(3)", "ended with status 3: without a word"),
    ],
)
def test_a_program_that_breaks_is_a_failure_in_its_own_words(script, words):
    with pytest.raises(aws.Failed, match=words):
        run(script)


def test_r26_a_program_that_hangs_is_ended(tmp_path):
    number, began = tmp_path / "pid", time.monotonic()
    with pytest.raises(aws.Failed, match=r"no answer in 1 s"):
        run(f"import os, time; open({str(number)!r}, 'w').write(str(os.getpid())); time.sleep(600)", timeout=1.0)
    assert time.monotonic() - began < 10.0
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


# -- when ----------------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Ends a loop that has no end."""


class Clouds:
    """Plays a few attempts and records what was waited for and told."""

    def __init__(self, *attempts: Attempt, looks: int = 3) -> None:
        self.attempts = list(attempts)
        self.looks = looks
        self.asked: list[Instance] = []
        self.waits: list[float] = []
        self.notes: list[Note] = []

    async def switch_off(self, instance: Instance) -> Attempt:
        self.asked.append(instance)
        return self.attempts.pop(0) if self.attempts else Attempt()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.waits.count(LOOK) > self.looks:
            raise Stop

    def run(self, node: Callable[[], Node | None]) -> None:
        check = SourceCheck(node=node, switch_off=self.switch_off, tell=self.notes.append, about=ABOUT, sleep=self.sleep)
        with pytest.raises(Stop):
            asyncio.run(check.run())


def on(provider_id: str) -> Node:
    return Node(ABOUT.name, provider_id=provider_id)


OURS = on("aws:///us-west-2a/i-1")


def test_r26_it_is_done_once_for_our_own_node():
    clouds = Clouds()
    clouds.run(lambda: OURS)
    assert clouds.asked == [Instance("i-1", "us-west-2")]
    assert [(note.reason, note.quiet) for note in clouds.notes] == [("SourceDestCheckDisabled", True)]


@pytest.mark.parametrize("node", [None, on(""), on("gce://project/zone/name"), on("kind://docker/kind/kind-worker")])
def test_r26_elsewhere_nobody_is_asked_and_nothing_is_said(node):
    clouds = Clouds()
    clouds.run(lambda: node)
    assert (clouds.asked, clouds.notes) == ([], [])


def test_a_node_that_comes_late_or_becomes_another_instance_is_noticed():
    nodes = iter([None, OURS, OURS, on("aws:///us-west-2a/i-2")])
    clouds = Clouds()
    clouds.run(lambda: next(nodes, OURS))
    assert [instance.name for instance in clouds.asked] == ["i-1", "i-2"]


def test_r26_failures_wait_longer_each_time_and_are_told_once():
    clouds = Clouds(*[Attempt("RequestLimitExceeded")] * 9)
    clouds.run(lambda: OURS)
    assert clouds.waits[:9] == [FIRST, FIRST * 2, FIRST * 4, FIRST * 8, FIRST * 16, FIRST * 32, FIRST * 64, MOST, MOST]
    assert [note.reason for note in clouds.notes] == ["SourceDestCheckNotDisabled", "SourceDestCheckDisabled"]
    assert "i-1 in us-west-2" in clouds.notes[0].message


def test_r26_a_missing_right_is_told_once_and_tried_again_after_an_hour():
    clouds = Clouds(*[Attempt("UnauthorizedOperation", denied=True)] * 3)
    clouds.run(lambda: OURS)
    assert clouds.waits[:3] == [DENIED] * 3
    assert [note.reason for note in clouds.notes if not note.quiet] == ["SourceDestCheckNotDisabled"]
