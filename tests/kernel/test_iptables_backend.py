"""Which backend is chosen on a real kernel, and that the other one is left clean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_backend import choose, clean_other
from kube_router.apply.kernel.iptables_tools import installed
from kube_router.codec.rules import ACCEPT, jump, rule
from kube_router.kit.errors import Rejected
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey

pytestmark = [pytest.mark.needs("root", "netns", "iptables_legacy", "iptables_nft"), pytest.mark.usefixtures("netns")]


def restore(tool: str, text: str) -> None:
    subprocess.run([tool, "--noflush"], input=text, text=True, check=True)


HINTED = "*mangle\n:{} - [0:0]\nCOMMIT\n"
TWO_RULES = "*filter\n-A INPUT -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n"
ONE_RULE = "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n"


@pytest.mark.parametrize(
    ("loaded", "backend", "reason"),
    [
        pytest.param({}, "nft", "0 nft, 0 legacy", id="nothing anywhere"),
        pytest.param({"iptables-nft": HINTED.format("KUBE-KUBELET-CANARY")}, "nft", "KUBE-KUBELET-CANARY", id="canary in nft"),
        pytest.param({"ip6tables-nft": HINTED.format("KUBE-IPTABLES-HINT")}, "nft", "KUBE-IPTABLES-HINT", id="hint in nft, IPv6 only"),
        pytest.param({"iptables-legacy": HINTED.format("KUBE-IPTABLES-HINT")}, "legacy", "KUBE-IPTABLES-HINT", id="hint in legacy"),
        pytest.param({"ip6tables-legacy": HINTED.format("KUBE-KUBELET-CANARY")}, "legacy", "CANARY", id="canary in legacy, IPv6 only"),
        pytest.param(
            {"iptables-nft": TWO_RULES, "iptables-legacy": HINTED.format("KUBE-KUBELET-CANARY")}, "legacy", "CANARY", id="hint before rules"
        ),
        pytest.param(
            {"iptables-nft": HINTED.format("KUBE-IPTABLES-HINT"), "iptables-legacy": HINTED.format("KUBE-IPTABLES-HINT") + TWO_RULES},
            "nft", "KUBE-IPTABLES-HINT", id="hints in both",
        ),
        pytest.param({"iptables-legacy": ONE_RULE}, "legacy", "0 nft, 1 legacy", id="rules in legacy only"),
        pytest.param({"iptables-nft": TWO_RULES, "iptables-legacy": ONE_RULE}, "nft", "2 nft, 1 legacy", id="more rules in nft"),
        pytest.param({"iptables-nft": ONE_RULE, "ip6tables-legacy": TWO_RULES}, "legacy", "1 nft, 2 legacy", id="more rules in legacy"),
        pytest.param({"iptables-nft": ONE_RULE, "iptables-legacy": ONE_RULE}, "nft", "1 nft, 1 legacy", id="as many in both"),
    ],
)  # fmt: skip
def test_the_backend_is_the_one_that_the_node_uses(loaded: dict[str, str], backend: str, reason: str) -> None:
    for stem, text in loaded.items():
        restore(f"{stem}-restore", text)
    choice = choose(Commands())
    assert choice.backend == backend
    assert reason in choice.reason
    assert choice.other is not None
    assert choice.other.backend != backend


@pytest.mark.parametrize("preference", ["nft", "legacy"])
def test_a_preference_decides_whatever_the_node_uses(preference: str) -> None:
    restore("iptables-legacy-restore" if preference == "nft" else "iptables-nft-restore", HINTED.format("KUBE-IPTABLES-HINT"))
    assert choose(Commands(), preference).backend == preference


def test_looking_makes_the_kernel_load_no_legacy_table() -> None:
    names = Path("/proc/thread-self/net/ip_tables_names")
    assert names.read_text() == ""
    choose(Commands())
    clean_other(Commands(), choose(Commands(), "nft"))
    assert names.read_text() == ""


@pytest.mark.parametrize("preference", ["nft", "legacy"])
def test_the_other_backend_is_cleaned_of_ours_and_of_nothing_else(preference: str) -> None:
    choice = choose(Commands(), preference)
    assert choice.other is not None
    other = IptablesTarget(choice.other)
    state: State = {
        ChainKey(4, "filter", "KUBE-ROUTER-FORWARD"): Chain((rule(jump("KUBE-POD-FW-X")),)),
        ChainKey(4, "filter", "KUBE-POD-FW-X"): Chain((rule(ACCEPT),)),
        ChainKey(6, "nat", "KUBE-ROUTER-MASQ"): Chain((rule(ACCEPT),)),
        JumpKey(4, "filter", "FORWARD", "KUBE-ROUTER-FORWARD"): Jump(),
        JumpKey(6, "nat", "POSTROUTING", "KUBE-ROUTER-MASQ"): Jump(first=False),
    }
    restore(choice.other.restore[4], "*filter\n:FOREIGN - [0:0]\n-A FORWARD -j FOREIGN\nCOMMIT\n")
    other.apply([Change(key, None, value) for key, value in state.items()])
    assert clean_other(Commands(), choice) == len(state)
    assert other.observe({}) == {}
    left = subprocess.run([choice.other.save[4], "-t", "filter"], text=True, capture_output=True, check=True).stdout
    assert [line for line in left.splitlines() if line.startswith("-A")] == ["-A FORWARD -j FOREIGN"]
    assert clean_other(Commands(), choice) == 0


def in_a_folder(folder: Path, links: dict[str, str]) -> Commands:
    """Commands that find these tools and no others."""
    for name, tool in links.items():
        (folder / name).symlink_to(tool)

    class Here(Commands):
        def find(self, tool: str) -> str | None:
            path = folder / tool
            return str(path) if path.exists() else None

    return Here()


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
def test_plain_names_alone_are_told_apart_by_their_version(tmp_path: Path, flavour: str) -> None:
    multi = f"/usr/sbin/xtables-{flavour}-multi"
    assert os.path.exists(multi)
    plain = {f"{stem}-{what}": multi for stem in ("iptables", "ip6tables") for what in ("save", "restore")}
    choice = choose(in_a_folder(tmp_path, plain))
    assert choice.backend == flavour
    assert choice.tools.restore == {4: "iptables-restore", 6: "ip6tables-restore"}
    assert choice.other is None
    assert "no other is installed" in choice.reason


def test_a_preference_that_is_not_installed_is_refused_by_name(tmp_path: Path) -> None:
    names = {"iptables-nft-save": "/usr/sbin/xtables-nft-multi", "iptables-nft-restore": "/usr/sbin/xtables-nft-multi"}
    commands = in_a_folder(tmp_path, names)
    assert installed(commands)["nft"].save == {4: "iptables-nft-save"}
    with pytest.raises(Rejected, match="legacy backend is not installed, but nft is"):
        choose(commands, "legacy")


def test_no_iptables_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="iptables is not installed"):
        choose(in_a_folder(tmp_path, {}))


def test_a_backend_that_the_kernel_refuses_leaves_the_other(tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'iptables: Failed to initialize nft: Protocol not supported' >&2\nexit 1\n")
    failing.chmod(0o755)
    legacy = "/usr/sbin/xtables-legacy-multi"
    links = {f"iptables-legacy-{what}": legacy for what in ("save", "restore")}
    links |= {f"iptables-nft-{what}": str(failing) for what in ("save", "restore")}
    commands = in_a_folder(tmp_path, links)
    choice = choose(commands)
    assert choice.backend == "legacy"
    assert "Protocol not supported" in choice.reason
    assert clean_other(commands, choice) == 0
