"""One validation: every fault of a command line, at once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import pytest

from kube_router.config.faults import Fault, report
from kube_router.config.options import Options
from kube_router.config.validate import parse
from kube_router.kit.bgp import LONGEST_KEY

PEERS = "--peer-router-ips=10.0.0.1,10.0.0.2"
ASNS = "--peer-router-asns=65001,65002"
NO_FILES: Mapping[str, str] = {}


def faults_of(line: str, files: Mapping[str, str] = NO_FILES) -> list[str]:
    result = parse(line.split(), {}, reader(files))
    return [] if isinstance(result, Options) else [str(fault) for fault in result]


def accepted(line: str, environ: Mapping[str, str] = NO_FILES, files: Mapping[str, str] = NO_FILES) -> Options:
    result = parse(line.split(), environ, reader(files))
    assert isinstance(result, Options), result
    return result


def reader(files: Mapping[str, str]) -> Callable[[str], str]:
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return read


def test_a_mistyped_name_a_bad_duration_and_a_bad_number_are_all_named() -> None:
    result = parse(["--run-firewal=true", "--bgp-holdtime=x", "--cluster-asn=9999999999"], {}, open)
    assert isinstance(result, tuple)
    assert report(result).splitlines() == [
        "kube-router: not started, 3 faults:",
        "  --run-firewal=true: unknown flag; did you mean --run-firewall?",
        "  --bgp-holdtime=x: not a duration; give numbers with units (ns us ms s m h), such as 1m30s",
        "  --cluster-asn=9999999999: not accepted; give a private AS number, 64512..65535 or 4200000000..4294967294, or 0 for 64512",
        "Flags are explained by kube-router --help.",
    ]


@pytest.mark.parametrize(
    ("flag", "bad", "good"),
    [
        ("cache-sync-timeout", "0s -1s", "1ns 1m"),
        ("injected-routes-sync-period", "0 -1s", "1s"),
        ("iptables-sync-period", "0s -5m", "5m"),
        ("ipvs-sync-period", "0s -5m", "5m"),
        ("loadbalancer-sync-period", "0s -5m", "5m"),
        ("routes-sync-period", "0s -5m", "5m"),
        ("ipvs-graceful-period", "-1s", "0s 30s"),
        ("bgp-holdtime", "0s 2.9s 65536s 20h", "3s 65535s 1m30s"),
        ("bgp-port", "0 65536", "1 65535"),
        ("bfd-port", "0 65536", "1 65535"),
        ("bfd-detection-multiplier", "0 256", "1 255"),
        ("bfd-desired-min-tx-interval", "0 4294968", "1 4294967"),
        ("bfd-required-min-rx-interval", "0 4294968", "1 4294967"),
        ("cluster-asn", "1 64511 65536 4199999999 4294967295", "0 64512 65535 4200000000 4294967294"),
        ("overlay-encap", "gre IPIP", "ipip"),
        ("overlay-type", "ful Subnet", "subnet"),
        ("overlay-encap-port", "0 1023", "1024 65535"),
        ("service-udp-timeout", "-1s 500ms 2147484s", "0s"),
        ("log-format", "yaml", "text json"),
        ("iptables-backend", "nftables", "auto legacy nft"),
        ("metrics-path", "metrics /a?b /a#b", "/ /metrics /a/b"),
        ("health-addr", "10.0.0.256 :80 a_b:1 10.0.0.1:80", "10.0.0.1 ::1 [::1] localhost fe80::1%eth0"),
        ("metrics-addr", "[10.0.0.1 http://x", "0.0.0.0 node-1.example.org"),
        ("gobgp-admin-address", "localhost 10.0.0.1:1", "127.0.0.1 ::"),
        ("gobgp-api", "/run/x unix:x unix:/// 10.0.0.1 10.0.0.1:0 fd00::1:50051 [fd00::1] host:65536",
         "unix:///run/x 10.0.0.1:50051 [fd00::1]:50051 gobgp:1"),
        ("hostname-override", "Node1 -a a..b", "node1 node-1.example.org"),
        ("master", "ftp://x https://", "https://10.0.0.1:6443 10.0.0.1:8080 https://a:1,https://b:1 https://a/prefix"),
        ("runtime-endpoint", "/run/x.sock tcp://1 unix://x", ""),
        ("v", "x -1 2.0", "0 2 4 10"),
        ("service-node-port-range", "x", "1-2 30000:32767 30000-32767"),
    ],
)  # fmt: skip
def test_a_value_is_accepted_within_its_bounds_and_refused_beyond(flag: str, bad: str, good: str) -> None:
    for text in bad.split():
        (fault,) = faults_of(f"--{flag}={text}")
        assert fault.startswith(f"--{flag}={text}: ")
        assert "; give " in fault
    for text in good.split():
        accepted(f"--{flag}={text}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--service-cluster-ip-range=10.96.0.0",
         "failed to parse --service-cluster-ip-range parameter: '10.96.0.0': invalid CIDR address: 10.96.0.0"),
        ("--service-external-ip-range=10.0.0.0/33",
         "failed to parse --service-external-ip-range parameter: '10.0.0.0/33': invalid CIDR address: 10.0.0.0/33"),
        ("--loadbalancer-ip-range=x/8", "failed to parse --loadbalancer-ip-range parameter: 'x/8': invalid CIDR address: x/8"),
        ("--service-cluster-ip-range=fd00::/108",
         "IPv6 CIDR fd00::/108 specified in --service-cluster-ip-range while IPv6 is disabled"),
        ("--enable-ipv6 --enable-ipv4=false --service-cluster-ip-range=fd00::/108 --loadbalancer-ip-range=10.0.0.0/8 "
         "--router-id=1.1.1.1 --run-router=false",
         "IPv4 CIDR 10.0.0.0/8 specified in --loadbalancer-ip-range while IPv4 is disabled"),
        ("--service-cluster-ip-range=10.0.0.0/8,11.0.0.0/8,12.0.0.0/8",
         "too many CIDRs provided in --service-cluster-ip-range parameter, only two addresses are allowed at once for "
         "dual-stack"),
        ("--service-node-port-range=30000", "failed to parse node port range given: '30000' please see specification in help text"),
        ("--service-node-port-range=1-2-3", "failed to parse node port range given: '1-2-3' please see specification in help text"),
        ("--service-node-port-range=200-100", "port 1 is greater than or equal to port 2 in range given: '200-100'"),
        ("--service-node-port-range=100:100", "port 1 is greater than or equal to port 2 in range given: '100:100'"),
        ("--service-node-port-range=65536-65537",
         "could not parse first port number from range given: '65536-65537'"),
        ("--service-node-port-range=1-99999999999",
         "could not parse second port number from range given: '1-99999999999'"),
        ("--excluded-cidrs=10.0.0.0/255.0.0.0", "invalid CIDR address: 10.0.0.0/255.0.0.0"),
        ("--datapath-network=10.1.0.0/16,eth1", "invalid CIDR address: eth1"),
        ("--pod-egress-excluded-cidrs=10.1", "invalid CIDR address: 10.1"),
        ("--excluded-cidrs=::ffff:10.0.0.0/104", "invalid CIDR address: ::ffff:10.0.0.0/104"),
    ],
)  # fmt: skip
def test_faults_of_ranges_are_told_in_the_words_that_users_search_for(line: str, expected: str) -> None:
    (fault,) = faults_of(line)
    assert f": {expected}; " in fault


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("--enable-ipv4=false --service-cluster-ip-range=", ["--enable-ipv4", "--service-cluster-ip-range"]),
        ("--gobgp-admin-port=0", ["--gobgp-admin-port"]),
        ("--gobgp-admin-port=0 --gobgp-api=unix:///run/x", []),
        ("--gobgp-admin-port=0 --run-router=false", []),
        ("--metrics-port=20244", ["--metrics-port"]),
        ("--metrics-port=20244 --metrics-addr=10.0.0.1", ["--metrics-port"]),
        ("--metrics-port=20244 --metrics-addr=10.0.0.1 --health-addr=10.0.0.2", []),
        ("--metrics-port=65535 --health-port=65535", []),
        ("--metrics-port=0 --health-port=0", []),
        ("--bgp-graceful-restart-time=0s", []),
        ("--bgp-graceful-restart --bgp-graceful-restart-time=0s", ["--bgp-graceful-restart-time"]),
        ("--bgp-graceful-restart --bgp-graceful-restart-time=4096s", ["--bgp-graceful-restart-time"]),
        ("--bgp-graceful-restart --bgp-graceful-restart-time=4095s", []),
        ("--bgp-graceful-restart --bgp-graceful-restart-deferral-time=18h1s", ["--bgp-graceful-restart-deferral-time"]),
        ("--bgp-graceful-restart --bgp-graceful-restart-deferral-time=18h", []),
        ("--peer-router-asns=65001", ["--peer-router-asns"]),
        ("--peer-router-ports=179", ["--peer-router-ports"]),
        ("--peer-router-passwords=YQ==", ["--peer-router-passwords"]),
        (f"{PEERS} --peer-router-asns=65001", ["--peer-router-asns"]),
        (f"{PEERS} {ASNS} --peer-router-ports=1", ["--peer-router-ports"]),
        (f"{PEERS} {ASNS} --peer-router-ports=0,65536", ["--peer-router-ports"]),
        (f"{PEERS} --peer-router-asns=23456,64000", ["--peer-router-asns"]),
        (f"{PEERS} {ASNS} --peer-router-passwords=YQ==", ["--peer-router-passwords"]),
        (f"{PEERS} {ASNS} --peer-router-passwords=a,b", ["--peer-router-passwords"]),
        (f"{PEERS} {ASNS} --peer-router-passwords=YQ==, --peer-router-ports=1,2", []),
        (f"--peer-router-ips=fd00::1,FD00:0::1 {ASNS}", ["--peer-router-ips"]),
        ("--peer-router-ips=x --peer-router-asns=1", ["--peer-router-ips"]),
        ("--enable-ipv6=x --loadbalancer-ip-range=fd00::/64", ["--enable-ipv6"]),
    ],
)
def test_flags_are_weighed_against_each_other(line: str, flags: list[str]) -> None:
    assert [fault.partition("=")[0].partition(":")[0] for fault in faults_of(line)] == flags


def test_with_help_or_version_only_the_syntax_counts() -> None:
    assert accepted("--help --bgp-holdtime=1s").help
    assert accepted("-V --peer-router-ips=10.0.0.1").version
    assert faults_of("--help --bgp-holdtime=x")


def test_ranges_come_out_canonical_and_once() -> None:
    options = accepted("--enable-ipv6 --service-cluster-ip-range=10.96.7.1/12,FD00:0::1/108 --excluded-cidrs=10.1.0.0/8,10.0.0.0/8")
    assert options.service_cluster_ip_range == ("10.96.0.0/12", "fd00::/108")
    assert options.excluded_cidrs == ("10.0.0.0/8",)


def test_the_node_name_is_that_of_the_flag_else_of_the_environment_else_left_open() -> None:
    assert accepted("--hostname-override=a", {"NODE_NAME": "b"}).node_name == "a"
    assert accepted("", {"NODE_NAME": "b"}).node_name == "b"
    assert accepted("").node_name == ""


def test_the_environment_says_where_the_cni_file_is_and_which_pod_this_is() -> None:
    environ = {"KUBE_ROUTER_CNI_CONF_FILE": "/x.conflist", "POD_NAME": "p", "POD_NAMESPACE": "n"}
    options = accepted("", environ)
    assert (options.cni_conf_file, options.pod_name, options.pod_namespace) == ("/x.conflist", "p", "n")
    assert accepted("").cni_conf_file == "/etc/cni/net.d/10-kuberouter.conf"


def passwords(line: str, files: Mapping[str, str] = NO_FILES) -> list[str]:
    """Passwords of the two peers."""
    options = accepted(f"{PEERS} {ASNS} {line}", {}, files)
    return [password.reveal() for password in options.peer_router_passwords]


def test_passwords_are_decoded_and_may_be_absent_for_a_peer() -> None:
    assert passwords("--peer-router-passwords=c2VjcmV0,") == ["secret", ""]
    assert passwords("") == []


def test_passwords_come_from_the_file_unless_the_flag_gives_them() -> None:
    files = {"/p": "YQ==,\nYg==\n"}
    assert passwords("--peer-router-passwords-file=/p", files) == ["a", "b"]
    assert passwords("--peer-router-passwords-file=/p --peer-router-passwords=Yw==,ZA==", files) == ["c", "d"]


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("--peer-router-passwords-file=/none", {},
         "--peer-router-passwords-file=/none: cannot be read: No such file or directory; give a readable file"),
        ("--peer-router-passwords-file=/p", {"/p": "YQ==, Yg=="},
         "--peer-router-passwords-file: item 2 is not base64 of a text; give passwords in base64, separated by commas"),
        ("--peer-router-passwords=YQ==,/w==", {},
         "--peer-router-passwords: item 2 is not base64 of a text; give passwords in base64, separated by commas"),
        ("--peer-router-passwords=YQ==," + base64.b64encode(b"x" * (LONGEST_KEY + 1)).decode(), {},
         "--peer-router-passwords: item 2 is longer than the 80 bytes of a TCP MD5 key; give passwords in base64, separated by "
         "commas"),
    ],
)  # fmt: skip
def test_a_password_that_cannot_be_used_is_named_by_its_place(line: str, files: dict[str, str], expected: str) -> None:
    assert faults_of(f"{PEERS} {ASNS} {line}", files) == [expected]


def test_a_passwords_file_that_is_no_text_is_refused() -> None:
    def read(path: str) -> str:
        return b"\xff".decode()

    result = parse(["--peer-router-passwords-file=/p"], {}, read)
    assert isinstance(result, tuple)
    assert str(result[0]) == "--peer-router-passwords-file=/p: cannot be read: not a text; give a readable file"


def test_a_fault_is_cut_and_printable_whatever_the_value() -> None:
    text = str(Fault("--a", "x" * 1000 + "\n\x1b", "bad\n"))
    assert len(text) < 150
    assert text.isprintable()
