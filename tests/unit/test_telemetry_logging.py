"""Log lines: readable as text, parsable as JSON, quiet by default, and never showing a secret."""

from __future__ import annotations

import io
import json
import logging as standard
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from kube_router.model.secret import REDACTED, Secret
from kube_router.telemetry import logging

NOON = 1_700_000_000.25
STAMP = "2023-11-14T22:13:20.250Z"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    logging.configure(verbosity=0, form="text")


def configured(stream: io.StringIO, *, form: logging.Format = "text", verbosity: int = 0) -> logging.Logger:
    logging.configure(verbosity=verbosity, form=form, stream=stream, clock=lambda: NOON)
    return logging.get_logger("proxy")


def test_a_text_line_has_time_level_part_event_and_fields(stream: io.StringIO) -> None:
    configured(stream).info("synced", services=3, took=0.1234567, name="a b", empty="", quoted='x"y')
    assert stream.getvalue() == (f'{STAMP} info    proxy: synced services=3 took=0.123457 name="a b" empty="" quoted="x\\"y"\n')


def test_a_json_line_has_the_same(stream: io.StringIO) -> None:
    configured(stream, form="json").warning("slow", took=1.5, who={"a": [1]})
    assert json.loads(stream.getvalue()) == {
        "time": STAMP, "level": "warning", "logger": "proxy", "event": "slow", "took": 1.5, "who": {"a": [1]}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, ["error", "warning", "info"]),
        (1, ["error", "warning", "info", "step"]),
        (2, ["error", "warning", "info", "step", "detail"]),
        (3, ["error", "warning", "info", "step", "detail", "debug"]),
        (4, ["error", "warning", "info", "step", "detail", "debug", "tick"]),
    ],
)
def test_each_verbosity_adds_its_lines(stream: io.StringIO, verbosity: int, shown: list[str]) -> None:
    log = configured(stream, form="json", verbosity=verbosity)
    for method in ("error", "warning", "info", "step", "detail", "debug", "tick"):
        getattr(log, method)(method)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == shown
    assert [log.enabled(level) for level in range(5)] == [level <= verbosity for level in range(5)]


def test_verbosity_can_change_while_running(stream: io.StringIO) -> None:
    log = configured(stream)
    log.step("before")
    logging.set_verbosity(1)
    log.step("after")
    assert stream.getvalue().count("\n") == 1
    assert "after" in stream.getvalue()


def test_bound_fields_come_with_each_line_and_leave_the_other_logger_alone(stream: io.StringIO) -> None:
    log = configured(stream)
    log.bind(node="n1").info("a", b=2)
    log.info("c")
    assert [line.split(": ", 1)[1] for line in stream.getvalue().splitlines()] == ["a node=n1 b=2", "c"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_field_may_have_any_name(stream: io.StringIO, form: logging.Format) -> None:
    configured(stream, form=form).info("x", event="e", level="l", time="t", logger="g", exc_info="i", exception="y", self=1)
    line = stream.getvalue()
    for field in ("event_", "level_", "time_", "logger_", "exc_info_", "exception_", "self"):
        assert field in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_object_name_cannot_forge_a_line(stream: io.StringIO, form: logging.Format) -> None:
    configured(stream, form=form).info("pod\nfake", name="a\nb\x1b[2J\u2028")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


class Peer(msgspec.Struct, frozen=True):
    address: str
    password: Secret


def fail_with(secret: Secret) -> None:
    raise RuntimeError(f"peer refused {secret}", secret, {"password": secret})


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_shows_nowhere_in_a_line_or_a_traceback(stream: io.StringIO, form: logging.Format) -> None:
    secret = Secret("hunter2")
    log = configured(stream, form=form, verbosity=4).bind(bound=secret)
    log.info(f"set {secret}", plain=secret, nested={"a": [secret, (secret,)]}, peer=Peer("10.0.0.1", secret))
    with pytest.raises(RuntimeError) as caught:
        fail_with(secret)
    log.exception("failed", caught.value, again=secret)
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) >= 8


def test_an_exception_comes_with_its_traceback(stream: io.StringIO) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 // 0
    configured(stream).exception("failed", caught.value, item="x")
    first, *trace = stream.getvalue().splitlines()
    assert first == f"{STAMP} error   proxy: failed item=x"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1].startswith("ZeroDivisionError: ")


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_does_not_stop_the_program() -> None:
    broken = Broken()
    configured(broken).error("still here")
    logging.configure(verbosity=0, form="text")
    assert broken.getvalue() == ""


TAKEN_OVER = """
import logging as standard, threading, warnings
from kube_router.telemetry import logging
logging.configure(verbosity={verbosity}, form="json")
logging.take_over()
library = standard.getLogger("some.library")
library.debug("object dump")
library.info("chatter")
library.warning("careful %s", "now")
try:
    raise ValueError("inner")
except ValueError:
    library.exception("library failed")
warnings.warn("old thing")
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
raise KeyError("the end")
"""


@pytest.mark.parametrize(("verbosity", "chatter"), [(0, False), (2, False), (3, True), (4, True)])
def test_libraries_warnings_and_uncaught_errors_come_in_the_same_shape(verbosity: int, chatter: bool) -> None:
    script = TAKEN_OVER.format(verbosity=verbosity)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert done.stdout == ""
    events = [(line["level"], line["logger"], line["event"]) for line in lines if line["logger"] != "py.warnings"]
    assert events == [
        *([("info", "some.library", "chatter")] if chatter else []),
        ("warning", "some.library", "careful now"),
        ("error", "some.library", "library failed"),
        ("error", "python", "uncaught exception"),
        ("error", "python", "uncaught exception"),
    ]
    assert [line["exception"].splitlines()[-1] for line in lines if "exception" in line] == [
        "ValueError: inner", "IndexError: list index out of range", "KeyError: 'the end'"
    ]  # fmt: skip
    assert any("old thing" in line["event"] for line in lines)


def test_making_a_logger_imports_nothing_heavy() -> None:
    script = (
        "import sys; from kube_router.telemetry.logging import get_logger; get_logger('x').debug('no');"
        "print(sorted({'structlog', 'logging', 'asyncio', 'rich'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60) == "[]\n"


def test_rich_can_still_be_imported_after_the_first_line() -> None:
    script = (
        "import sys; from kube_router.telemetry.logging import get_logger; get_logger('x').info('line');"
        "assert 'rich' not in sys.modules; import rich; print(rich.__name__)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True, stderr=subprocess.DEVNULL, timeout=60) == "rich\n"


def test_the_standard_library_module_is_not_shadowed() -> None:
    assert standard.getLogger is not logging.get_logger
