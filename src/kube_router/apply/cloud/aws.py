"""EC2's source/destination check, switched off for one instance, so that the network lets packets of its pods through.

    python -m kube_router.apply.cloud.aws INSTANCE REGION

A program of its own: the SDK needs a hundred megabytes for one small call, which a daemon must not keep, and a call that hangs can be
ended. It says in one line of JSON what went wrong, and nothing when all is well. Credentials come from where the SDK looks for them
(environment, files, web identity, instance profile); the right that it needs is ec2:ModifyInstanceAttribute.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

# Error codes of EC2 that no repetition cures: somebody has to grant a right or correct something first.
DENIED: Final = frozenset({"UnauthorizedOperation", "AccessDenied", "AuthFailure", "OptInRequired"})
OTHERWISE: Final = "or switch the check off by hand and give --disable-source-dest-check=false"


class Failed(Exception):
    """The check is not off. `denied`: only a change of rights helps; else it may go by itself."""

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


def switch_off(instance: str, region: str) -> None:
    """Switch the check off; repeated by the SDK where EC2 asks for it. Raises Failed."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as fault:
        raise Failed(f"boto3 is not installed here; install kube-router[aws], {OTHERWISE}", denied=True) from fault
    settings = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
    try:
        client: Any = boto3.client("ec2", region_name=region, config=settings)
        client.modify_instance_attribute(InstanceId=instance, SourceDestCheck={"Value": False})
    except ClientError as fault:
        code = fault.response.get("Error", {}).get("Code", "")
        if code in DENIED:
            raise Failed(f"{fault}; allow ec2:ModifyInstanceAttribute, {OTHERWISE}", denied=True) from fault
        raise Failed(str(fault)) from fault
    except BotoCoreError as fault:  # no credentials, no endpoint, no connection
        raise Failed(str(fault)) from fault


def main(arguments: Sequence[str]) -> int:
    """Status 0 when the check is off, 1 when not, 2 when misused."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m kube_router.apply.cloud.aws INSTANCE REGION\n")
        return 2
    try:
        switch_off(arguments[0], arguments[1])
    except Failed as failure:
        sys.stdout.write(json.dumps({"message": str(failure), "denied": failure.denied}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
