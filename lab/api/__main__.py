"""Run the API server as a process: ``python -m lab.api --port 8080 --load cluster.json``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.api.kinds import Json
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store


def read_objects(text: str, *, name: str) -> Iterator[Json]:
    """The objects of a JSON or YAML text; a ``List`` gives its items."""
    if name.endswith((".yaml", ".yml")):
        import yaml  # only here: it is slow to import

        documents = [document for document in yaml.safe_load_all(text) if document]
    else:
        documents = [json.loads(text)]
    for document in documents:
        if document.get("kind", "").endswith("List"):
            yield from document["items"]
        else:
            yield document


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.api", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--load", type=Path, action="append", default=[], help="objects to start with, JSON or YAML")
    parser.add_argument("--bookmark-every", type=float, default=30.0, metavar="SECONDS")
    options = parser.parse_args(arguments)
    # blocked before the server's thread starts, so that only sigwait sees them
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    store = Store()
    loaded = sum(Objects(store).load(read_objects(path.read_text(), name=path.name)) for path in options.load)
    server = ApiServer(store, bookmark_every=options.bookmark_every).start()
    port = server.listen(lambda: listening_socket(options.port, host=options.host))
    print(f"serving {loaded} objects on http://{options.host}:{port}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
