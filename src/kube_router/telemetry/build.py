"""Which version this is."""

from __future__ import annotations

import platform


def version() -> str:
    """Version of the installed package; "unknown" when it runs from a folder that was never installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("kube-router")
    except PackageNotFoundError:
        return "unknown"


def runtime() -> str:
    """The language and its version, such as python3.11.2."""
    return f"python{platform.python_version()}"
