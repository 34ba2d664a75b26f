"""What is deployed agrees with the API's schemas, and with the program: flags, ports, paths, rights, packages, scripts."""

from __future__ import annotations

import copy
import ipaddress
import json
import re
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from kube_router.codec import cni
from kube_router.config.flag_table import BY_NAME
from kube_router.config.options import Options, defaults
from kube_router.config.validate import parse
from kube_router.model.objects import Kind
from kube_router.model.state.links import CniConfig
from kube_router.serve import endpoints
from kube_router.watch.sources import sources
from lab import setup

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
MANIFESTS: Final = sorted((REPOSITORY / "deploy").glob("*.yaml"))
PATCHES: Final = sorted((REPOSITORY / "deploy" / "patches").glob("*.yaml"))
DAEMONSET: Final = REPOSITORY / "deploy" / "daemonset.yaml"
API_VERSIONS: Final = ("1.29", "1.34", "1.37")  # oldest and newest that we say we run on, and one between
LISTED: Final = (Kind.NODE, Kind.POD, Kind.NAMESPACE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.NETWORK_POLICY)


def objects(manifest: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(manifest.read_text()) if document]


def one(kind: str) -> dict[str, Any]:
    found = [item for item in objects(DAEMONSET) if item["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one("DaemonSet")["spec"]["template"]["spec"]
    return spec


def containers() -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in (*pod()["initContainers"], *pod()["containers"])}


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Variables as the container would see them, those from the API with a made-up value."""
    values = {"NODE_NAME": "node1", "POD_NAME": "kube-router-abcde", "POD_NAMESPACE": "kube-system"}
    found = {}
    for variable in container["env"]:
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        value = one("ConfigMap")["data"][reference["key"]] if reference else values.get(variable["name"], "")
        found[variable["name"]] = variable.get("value", value)
    return found


def arguments(container: dict[str, Any]) -> list[str]:
    """Arguments as the container would get them: kubelet puts in $(VARIABLES)."""
    known = environment(container)
    return [re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], argument) for argument in container["args"]]


def options() -> Options:
    daemon = containers()["kube-router"]
    parsed = parse(arguments(daemon), environment(daemon), lambda path: "")
    assert isinstance(parsed, Options), f"the program refuses the manifest's arguments: {parsed}"
    return parsed


@pytest.mark.parametrize("version", API_VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: str(path.name))
def test_every_object_is_valid_to_the_api_server(manifest: Path, version: str) -> None:
    found = objects(manifest)
    assert found
    for item in found:
        kubernetes_validate.validate(item, version, strict=True)


def test_a_wrong_field_would_be_noticed() -> None:
    broken = one("DaemonSet") | {"spec": one("DaemonSet")["spec"] | {"updateStrategie": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, API_VERSIONS[0], strict=True)


def test_the_program_takes_the_manifests_arguments() -> None:
    given = options()
    assert (given.run_router, given.run_firewall, given.run_service_proxy) == (True, True, True)
    assert {argument.removeprefix("--").split("=")[0] for argument in containers()["kube-router"]["args"]} <= set(BY_NAME)


def test_daemon_and_speaker_meet_at_one_socket_in_a_shared_folder() -> None:
    listens = containers()["gobgpd"]["args"][containers()["gobgpd"]["args"].index("--api-hosts") + 1].split(",")
    assert options().gobgp_api in listens
    folder = str(Path(options().gobgp_api.removeprefix("unix://")).parent)
    mounts = [mount for name in ("kube-router", "gobgpd") for mount in containers()[name]["volumeMounts"]]
    mounted = [mount["name"] for mount in mounts if mount["mountPath"] == folder]
    assert len(mounted) == 2
    assert len(set(mounted)) == 1


def test_the_gobgp_command_finds_the_speaker_where_the_flags_default_says() -> None:
    default = defaults()
    listens = containers()["gobgpd"]["args"][1].split(",")
    assert f"{default.gobgp_admin_address}:{default.gobgp_admin_port}" in listens


def test_the_speaker_ends_as_the_daemons_flag_needs_it() -> None:
    (graceful,) = (entry["value"] for entry in containers()["gobgpd"]["env"] if entry["name"] == "GRACEFUL_RESTART")
    assert graceful == str(options().bgp_graceful_restart).lower()


def test_u099_nobody_but_this_node_can_reach_the_speakers_api() -> None:
    listens = containers()["gobgpd"]["args"][containers()["gobgpd"]["args"].index("--api-hosts") + 1].split(",")
    assert all(place.startswith("unix:///") or ipaddress.ip_address(place.rpartition(":")[0]).is_loopback for place in listens)
    assert "--pprof-disable" in containers()["gobgpd"]["args"]


def test_u076_the_daemon_looks_for_plugins_where_the_init_container_puts_them() -> None:
    folders = {mount["name"]: mount["mountPath"] for mount in containers()["install-cni"]["volumeMounts"]}
    seen = {mount["name"]: mount["mountPath"] for mount in containers()["kube-router"]["volumeMounts"]}
    assert seen["cni-plugins"] in options().cni_folders
    assert folders["cni-plugins"] == containers()["install-cni"]["args"][-1] == seen["cni-plugins"]


def test_what_is_to_survive_a_pod_is_kept_on_the_node() -> None:
    (state,) = (mount["name"] for mount in containers()["kube-router"]["volumeMounts"] if mount["mountPath"] == options().state_dir)
    assert "hostPath" in next(volume for volume in pod()["volumes"] if volume["name"] == state)


@pytest.mark.parametrize(("probe", "path"), [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")])
def test_probes_ask_what_the_program_serves(probe: str, path: str) -> None:
    asked = containers()["kube-router"][probe]["httpGet"]
    assert asked == {"path": path, "port": options().health_port}
    assert f'"{path}"' in Path(endpoints.__file__).read_text()


def test_a_slow_node_is_not_taken_for_a_dead_one() -> None:
    liveness = containers()["kube-router"]["livenessProbe"]
    startup = containers()["kube-router"]["startupProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60
    assert startup["periodSeconds"] * startup["failureThreshold"] >= options().cache_sync_timeout


def granted() -> set[tuple[str, str, str]]:
    """(group, resource, verb) of the ClusterRole."""
    rules = one("ClusterRole")["rules"]
    return {(group, res, verb) for rule in rules for group in rule["apiGroups"] for res in rule["resources"] for verb in rule["verbs"]}


def used() -> Iterator[tuple[str, str, str]]:
    """(group, resource, verb) that the program uses: what it lists and watches, Events, and annotations on its own Node."""
    for kind in LISTED:
        for source in sources(kind):
            parts = source.path.strip("/").split("/")
            group = "" if parts[0] == "api" else parts[1]
            yield from ((group, parts[-1], verb) for verb in ("list", "watch"))
    yield from (("", "events", verb) for verb in ("create", "patch"))
    yield ("", "nodes", "patch")  # apply/apiserver/annotations.py
    yield ("", "nodes", "get")  # watch/stream.py, before a first or an empty list is believed


def test_rights_are_exactly_those_that_the_program_uses() -> None:
    assert granted() == set(used())


def test_rights_are_bound_to_the_account_that_the_pod_runs_under() -> None:
    account, binding = one("ServiceAccount")["metadata"], one("ClusterRoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}]
    assert binding["roleRef"]["name"] == one("ClusterRole")["metadata"]["name"]
    assert pod()["serviceAccountName"] == account["name"]


def test_one_image_is_pinned_to_this_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    images = {(item["image"].rsplit(":", 1)[1], item["imagePullPolicy"]) for item in containers().values()}
    assert images == {(version, "IfNotPresent")}
    assert len({item["image"] for item in containers().values()}) == 1


def test_only_the_daemon_is_privileged_and_no_root_is_writable() -> None:
    contexts = {name: item["securityContext"] for name, item in containers().items()}
    assert [name for name, context in contexts.items() if context.get("privileged")] == ["kube-router"]
    assert all(context["readOnlyRootFilesystem"] for context in contexts.values())
    others = [context for name, context in contexts.items() if name != "kube-router"]
    assert all(context["capabilities"]["drop"] == ["ALL"] and context["allowPrivilegeEscalation"] is False for context in others)


def test_every_mounted_volume_exists_and_every_volume_is_mounted() -> None:
    mounted = {mount["name"] for item in containers().values() for mount in item["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod()["volumes"]}


def test_the_first_cni_configuration_becomes_the_one_that_the_daemon_would_write() -> None:
    template = one("ConfigMap")["data"]["cni-conf.json"]
    wish = CniConfig(("10.1.0.0/24", "fd00:1::/64"), 1480, "kube-bridge")
    assert json.loads(cni.edited(template, wish)) == json.loads(cni.fresh(wish, as_list=True))


def test_the_image_and_the_set_up_read_the_same_list_of_packages() -> None:
    script = REPOSITORY / "deploy" / "packages-of"
    for section in ("runtime", "image", "build", "lab"):
        said = subprocess.run([script, section, setup.PACKAGES], capture_output=True, text=True, check=True).stdout.split()
        assert said == setup.packages(section) != []
    assert set(re.findall(r"packages-of (\w+)", (REPOSITORY / "Dockerfile").read_text())) == {"runtime", "image", "build"}


def test_the_lock_fixes_every_dependency_once() -> None:
    lines = setup.LOCK.read_text().splitlines()
    locked = [re.fullmatch(r"([A-Za-z0-9._-]+)==\S+", line) for line in lines]
    assert all(locked), [line for line, match in zip(lines, locked, strict=True) if not match]
    names = [_canonical(match[1]) for match in locked if match]
    assert len(set(names)) == len(names)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {_canonical(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in wanted} <= set(names)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- patches for what needs more of a node ---------------------------------------------------------------------------


def patched(*patches: Path) -> dict[str, Any]:
    """The DaemonSet with JSON patches (RFC 6902: test and add) on it, as `kubectl patch --type=json` leaves it."""
    changed = copy.deepcopy(one("DaemonSet"))
    for operation in (step for patch in patches for step in yaml.safe_load(patch.read_text())):
        *way, last = operation["path"].removeprefix("/").split("/")
        place: Any = changed
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if operation["op"] == "test":
            assert place[last] == operation["value"], operation
        elif last == "-":
            place.append(operation["value"])
        else:
            place[last] = operation["value"]
    return changed


def test_patches_are_those_that_are_known() -> None:
    assert {path.name for path in PATCHES} == {"direct-server-return.yaml", "container-runtime.yaml"}


@pytest.mark.parametrize("version", API_VERSIONS)
def test_a_patched_daemon_set_is_valid_and_differs_in_the_daemon_alone(version: str) -> None:
    changed = patched(*PATCHES)
    kubernetes_validate.validate(changed, version, strict=True)
    before, after = pod(), changed["spec"]["template"]["spec"]
    assert {key for key in after if after[key] != before.get(key)} == {"hostPID", "containers", "volumes"}
    assert before["containers"][1:] == after["containers"][1:]
    mounted = {mount["name"] for item in (*after["initContainers"], *after["containers"]) for mount in item["volumeMounts"]}
    assert mounted == {volume["name"] for volume in after["volumes"]}


def test_the_daemon_sees_processes_of_the_node_only_where_direct_server_return_needs_it() -> None:
    assert "hostPID" not in pod()
    (patch,) = (path for path in PATCHES if path.name.startswith("direct"))
    assert patched(patch)["spec"]["template"]["spec"]["hostPID"] is True


def test_the_runtimes_socket_is_where_the_flag_says() -> None:
    (patch,) = (path for path in PATCHES if path.name.startswith("container-runtime"))
    daemon = patched(patch)["spec"]["template"]["spec"]["containers"][0]
    parsed = parse(arguments(daemon), environment(daemon), lambda path: "")
    assert isinstance(parsed, Options), f"the program refuses the patched arguments: {parsed}"
    socket_folder = str(Path(parsed.runtime_endpoint.removeprefix("unix://")).parent)
    assert socket_folder in {mount["mountPath"] for mount in daemon["volumeMounts"]}


# -- the scripts of the image ------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's folders, and a folder of plugins as the image has it."""
    (tmp_path / "image").mkdir()
    for plugin in ("bridge", "host-local", "loopback", "portmap"):
        (tmp_path / "image" / plugin).write_text(f"{plugin} of the image")
    (tmp_path / "template").write_text("of the ConfigMap")
    return tmp_path


def install(node: Path) -> None:
    script = REPOSITORY / "deploy" / "install-cni"
    paths = [node / "template", node / "net.d" / "10-kuberouter.conflist", node / "bin"]
    subprocess.run([script, *paths], env={"PATH": "/usr/bin:/bin", "CNI_PLUGINS": str(node / "image")}, check=True, capture_output=True)


def test_an_empty_node_gets_plugins_and_a_first_configuration(node: Path) -> None:
    install(node)
    assert (node / "net.d" / "10-kuberouter.conflist").read_text() == "of the ConfigMap"
    assert sorted(path.name for path in (node / "bin").iterdir()) == ["bridge", "host-local", "loopback", "portmap"]
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in (node / "bin").iterdir())


def test_u076_a_folder_that_cannot_be_written_is_named_and_nothing_half_done_is_left(node: Path) -> None:
    (node / "bin").write_text("not a folder")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        install(node)
    assert str(node / "bin") in failed.value.stderr.decode()
    assert not (node / "net.d" / "10-kuberouter.conflist").exists()


def test_what_a_node_has_already_stays_as_it_is(node: Path) -> None:
    (node / "bin").mkdir()
    (node / "net.d").mkdir()
    (node / "bin" / "bridge").write_text("of the node")
    (node / "bin" / "bridge").chmod(0o755)
    (node / "net.d" / "10-kuberouter.conflist").write_text("with the node's ranges")
    install(node)
    assert (node / "bin" / "bridge").read_text() == "of the node"
    assert (node / "bin" / "portmap").read_text() == "portmap of the image"
    assert (node / "net.d" / "10-kuberouter.conflist").read_text() == "with the node's ranges"


SPEAKER: Final = """\
#!/bin/sh
trap 'echo told to end >>"$1"; exit 0' TERM
echo started >>"$1"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("graceful", "words"), [({}, ""), ({"GRACEFUL_RESTART": "true"}, ""), ({"GRACEFUL_RESTART": "false"}, "told to end\n")]
)
def test_the_speaker_is_ended_without_a_word_to_its_peers_unless_there_is_no_graceful_restart(
    tmp_path: Path, graceful: Any, words: str
) -> None:
    fake, said = tmp_path / "gobgpd", tmp_path / "said"
    fake.write_text(SPEAKER)
    fake.chmod(0o755)
    said.touch()
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", **graceful}
    sidecar = subprocess.Popen([REPOSITORY / "deploy" / "gobgpd-sidecar", str(said)], env=environ)
    until = time.monotonic() + 30
    while said.read_text() != "started\n":
        assert sidecar.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    sidecar.terminate()
    assert sidecar.wait(10) == 0
    assert said.read_text() == f"started\n{words}"


@pytest.mark.parametrize("argument", ["--api-hosts={0},127.0.0.1:50051", "--api-hosts=127.0.0.1:50051,{0}", "{0}"])
def test_a_speaker_that_was_killed_is_started_over_the_socket_that_it_left(tmp_path: Path, argument: str) -> None:
    fake, left, other = tmp_path / "gobgpd", tmp_path / "gobgp.sock", tmp_path / "other.sock"
    fake.write_text(f"#!/bin/sh\ntest ! -e {left}\n")
    fake.chmod(0o755)
    for path in (left, other):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    command = [REPOSITORY / "deploy" / "gobgpd-sidecar", "--pprof-disable", argument.format(f"unix://{left}")]
    assert subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False).returncode == 0
    assert other.is_socket(), "only what its arguments name"


def test_a_speaker_that_ends_by_itself_ends_its_container(tmp_path: Path) -> None:
    fake = tmp_path / "gobgpd"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    done = subprocess.run([REPOSITORY / "deploy" / "gobgpd-sidecar"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == 3
