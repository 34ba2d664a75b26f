"""Files and sysctls that we share with their other owners."""

from __future__ import annotations

import json
import resource
import threading

from kube_router.apply.files.cni import CniFileTarget
from kube_router.apply.kernel.sysctls import SysctlTarget
from kube_router.model.state import Change
from kube_router.model.state.links import CniConfig, FileKey, Sysctl, SysctlKey

WISH = CniConfig(("10.233.64.0/24",), 1480)


def test_a_first_start_writes_a_whole_file_and_a_second_pass_nothing(tmp_path):
    path = tmp_path / "net.d" / "10-kuberouter.conflist"
    key, target = FileKey(str(path)), CniFileTarget()
    assert target.observe({key: WISH}) == {}
    assert target.apply([Change(key, None, WISH)]) == {}
    assert target.observe({key: WISH}) == {key: WISH}
    written = path.stat()
    assert oct(written.st_mode & 0o777) == "0o644"
    assert target.apply([Change(key, None, WISH)]) == {}
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_r29_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    key, target = FileKey(str(path)), CniFileTarget()
    target.apply([Change(key, None, WISH)])
    broken: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            text = path.read_text()
            try:
                json.loads(text)
            except ValueError:
                broken.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(100):
        target.apply([Change(key, None, CniConfig((f"10.{n}.0.0/24",), 1480))])
    done.set()
    reader.join()
    assert broken == []


def test_r29_a_disk_that_is_full_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    key, target = FileKey(str(path)), CniFileTarget()
    target.apply([Change(key, None, WISH)])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # a write beyond it fails, as one to a full disk does
    try:
        refused = target.apply([Change(key, None, CniConfig(("10.9.0.0/24",), 1480))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in refused[key]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert target.apply([Change(key, None, CniConfig(("10.9.0.0/24",), 1480))]) == {}


def test_r29_a_list_without_a_bridge_is_refused_by_name_and_stays(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    path.write_text('{"name": "theirs", "plugins": [{"type": "ptp"}]}')
    key, target = FileKey(str(path)), CniFileTarget()
    assert target.observe({key: WISH}) == {}
    assert 'no plugin of type "bridge"' in target.apply([Change(key, None, WISH)])[key]
    assert json.loads(path.read_text())["plugins"] == [{"type": "ptp"}]


def test_a_file_that_is_no_configuration_is_refused_and_stays(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    path.write_text("# mine\n")
    key, target = FileKey(str(path)), CniFileTarget()
    assert target.observe({key: WISH}) == {}
    refused = target.apply([Change(key, None, WISH)])
    assert str(path) in refused[key]
    assert "not JSON" in refused[key]
    assert path.read_text() == "# mine\n"


def test_a_file_that_is_no_text_is_refused_and_stays(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    path.write_bytes(b"{\xff}")
    key, target = FileKey(str(path)), CniFileTarget()
    assert target.observe({key: WISH}) == {}
    assert "not UTF-8" in target.apply([Change(key, None, WISH)])[key]
    assert path.read_bytes() == b"{\xff}"


def test_an_empty_file_is_filled(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    path.touch()
    key, target = FileKey(str(path)), CniFileTarget()
    assert target.apply([Change(key, None, WISH)]) == {}
    assert target.observe({key: WISH}) == {key: WISH}


def test_permissions_and_a_symbolic_link_are_kept(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real, path = tmp_path / "elsewhere" / "net.conf", tmp_path / "10-kuberouter.conflist"
    real.touch()
    real.chmod(0o640)
    path.symlink_to(real)
    key, target = FileKey(str(path)), CniFileTarget()
    assert target.apply([Change(key, None, WISH)]) == {}
    assert path.is_symlink()
    assert "plugins" in json.loads(real.read_text())
    assert oct(real.stat().st_mode & 0o777) == "0o640"


def sysctl_tree(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "rp_filter").write_text("1\n")
    (tmp_path / "net" / "conntrack").write_text("0\n")
    return SysctlTarget(tmp_path)


def test_sysctls_are_written_where_they_differ(tmp_path):
    target = sysctl_tree(tmp_path)
    key, wish = SysctlKey("net/conntrack"), Sysctl("1")
    assert target.observe({key: wish}) == {key: Sysctl("0")}
    assert target.apply([Change(key, None, wish)]) == {}
    assert target.observe({key: wish}) == {key: wish}
    assert (tmp_path / "net" / "conntrack").read_text() == "1"


def test_a_condition_on_the_present_value_is_kept(tmp_path):
    target = sysctl_tree(tmp_path)
    key, wish = SysctlKey("net/rp_filter"), Sysctl("2", only_if=("1",))
    target.apply([Change(key, None, wish)])
    assert (tmp_path / "net" / "rp_filter").read_text() == "2"
    (tmp_path / "net" / "rp_filter").write_text("0")
    assert target.observe({key: wish}) == {key: wish}
    target.apply([Change(key, None, wish)])
    assert (tmp_path / "net" / "rp_filter").read_text() == "0"


def test_a_sysctl_that_does_not_exist_is_refused_by_name_and_the_others_are_written(tmp_path):
    target = sysctl_tree(tmp_path)
    absent, present = SysctlKey("net/vs/conntrack"), SysctlKey("net/conntrack")
    refused = target.apply([Change(absent, None, Sysctl("1")), Change(present, None, Sysctl("1"))])
    assert list(refused) == [absent]
    assert "/proc/sys/net/vs/conntrack" in refused[absent]
    assert (tmp_path / "net" / "conntrack").read_text() == "1"


def test_sysctls_are_never_given_back(tmp_path):
    target = sysctl_tree(tmp_path)
    key = SysctlKey("net/conntrack")
    target.apply([Change(key, None, Sysctl("1"))])
    assert target.apply([Change(key, Sysctl("1"), None)]) == {}
    assert (tmp_path / "net" / "conntrack").read_text() == "1"
