"""Log lines on stderr: text for people, or JSON, through structlog; levels as kube-router's `-v` has them.

`log = get_logger("proxy")` costs nothing and may stand at module level: structlog is imported with the first line that is
written. Secrets hide themselves (`model/secret.py`): values are rendered by `str` and `repr` only, tracebacks without locals.
Debug lines of libraries are never taken over, since they print whole API objects.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    import logging

Format = Literal["text", "json"]

ALWAYS, STEP, DETAIL, DEBUG, TICK = range(5)
LIBRARY_INFO: Final = DEBUG
"""Verbosity from which on lines of level INFO of libraries are shown; their warnings always are."""
RESERVED: Final = frozenset({"time", "level", "logger", "event", "exception", "exc_info", "self", "method_name"})
"""Names a line or structlog's own call has taken; a field of such a name gets an underscore."""
Event = MutableMapping[str, Any]


class Logger:
    """Writes lines of one part of the program; immutable, `bind` makes one with more fields."""

    __slots__ = ("_fields", "name")

    def __init__(self, name: str, fields: Mapping[str, object] | None = None) -> None:
        self.name = name
        self._fields = dict(fields or {})

    def bind(self, **fields: object) -> Logger:
        """A logger that adds these fields to each line."""
        return Logger(self.name, self._fields | fields)

    def enabled(self, verbosity: int) -> bool:
        """Whether lines of this verbosity are written; ask before building a costly one."""
        return verbosity <= _output.verbosity

    def error(self, event: str, /, **fields: object) -> None:
        """Something failed that someone must look at."""
        self._write("error", ALWAYS, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something is wrong and is being coped with."""
        self._write("warning", ALWAYS, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Start, stop and what an operator wants to know without asking."""
        self._write("info", ALWAYS, event, fields)

    def step(self, event: str, /, **fields: object) -> None:
        """A pass of a controller, from -v 1."""
        self._write("info", STEP, event, fields)

    def detail(self, event: str, /, **fields: object) -> None:
        """One object, or a text handed to a tool, from -v 2."""
        self._write("info", DETAIL, event, fields)

    def debug(self, event: str, /, **fields: object) -> None:
        """Everything else, from -v 3."""
        self._write("debug", DEBUG, event, fields)

    def tick(self, event: str, /, **fields: object) -> None:
        """Turns of loops that do nothing, from -v 4."""
        self._write("debug", TICK, event, fields)

    def exception(self, event: str, error: BaseException, /, **fields: object) -> None:
        """An error with its traceback."""
        self._write("error", ALWAYS, event, fields, error)

    def _write(self, level: str, verbosity: int, event: str, fields: dict[str, object], error: BaseException | None = None) -> None:
        if verbosity <= _output.verbosity:
            _output.write(level, self.name, event, self._fields | fields, error)


def get_logger(name: str) -> Logger:
    """The logger of a part of the program, such as "proxy"."""
    return Logger(name)


def configure(*, verbosity: int, form: Format, stream: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
    """Say how all lines look from now on, and where they go: stderr when no stream is given."""
    _output.set(verbosity, form, stream, clock)


def set_verbosity(verbosity: int) -> None:
    """Change the verbosity of a running program."""
    _output.verbosity = verbosity


def take_over() -> None:
    """Send through here what would reach stderr in other shapes: library logs, warnings, uncaught exceptions."""
    import logging

    handler = _library_handler()
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    get_logger("python").exception("uncaught exception", (error or kind()).with_traceback(trace))


def _library_handler() -> logging.Handler:
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger = get_logger(record.name)
            error = record.exc_info[1] if record.exc_info else None
            if error is not None:
                logger.exception(record.getMessage(), error)
            elif record.levelno >= logging.ERROR:
                logger.error(record.getMessage())
            elif record.levelno >= logging.WARNING:
                logger.warning(record.getMessage())
            elif logger.enabled(LIBRARY_INFO):
                logger.info(record.getMessage())

    return Handler()


class _Output:
    """The one place that lines go to; made lazily, changed by `configure`."""

    def __init__(self) -> None:
        self.set(ALWAYS, "text", None, time.time)

    def set(self, verbosity: int, form: Format, stream: TextIO | None, clock: Callable[[], float]) -> None:
        self.verbosity = verbosity
        self._form: Format = form
        self._stream = stream
        self._clock = clock
        self._logger: Any = None

    def write(self, level: str, name: str, event: str, fields: Mapping[str, object], error: BaseException | None) -> None:
        if self._logger is None:
            self._logger = self._build()
        free = {f"{key}_" if key in RESERVED else key: value for key, value in fields.items()}
        self._logger.msg(event, time=_timestamp(self._clock()), level=level, logger=name, exc_info=error, **free)

    def _build(self) -> Any:
        with _absent("rich"):  # structlog would import it for its tracebacks, which we do not use: 60 ms of a start
            import structlog

        renderer = structlog.processors.JSONRenderer() if self._form == "json" else _text_line
        return structlog.wrap_logger(
            structlog.WriteLogger(_Unfailing(self._stream)),  # type: ignore[arg-type]
            processors=[structlog.processors.format_exc_info, renderer],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
        )


class _Unfailing:
    """A stream whose reader may go away: a full disk or a closed pipe must not stop the network."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            (self._stream or sys.stderr).write(text)
        except (OSError, ValueError):
            return

    def flush(self) -> None:
        try:
            (self._stream or sys.stderr).flush()
        except (OSError, ValueError):
            return


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Let imports of a module that is not loaded yet fail meanwhile."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def _timestamp(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def _text_line(_logger: object, _method: str, event: Event) -> str:
    exception = event.pop("exception", "")
    head = f"{event.pop('time')} {event.pop('level'):<7} {event.pop('logger')}: {_plain(str(event.pop('event')))}"
    fields = "".join(f" {key}={_field(value)}" for key, value in event.items())
    return head + fields + (f"\n{exception}" if exception else "")


def _field(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else str(value)
    bare = text.isprintable() and text and not any(char in text for char in ' "=')
    return text if bare else '"' + _plain(text).replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """One line without control characters: names of objects must not be able to forge lines."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


_output: Final = _Output()
