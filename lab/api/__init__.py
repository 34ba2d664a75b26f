"""A Kubernetes API server small enough to live inside a test, with the behaviour that clients depend on.

What is here: the HTTP API's list, watch, create, update, patch and delete, with one global resource version, consistent
paging, bookmarks, "410 Gone", selectors, status sub-resources, graceful deletion of pods, and faults on demand. What is
refused: authentication, admission webhooks, server-side apply, protobuf, dry runs; asking for one is answered with an error.

    store.py     the objects and their history; usable in process, without HTTP
    routes.py    what a request asks for, and the answer
    watch.py     one watch: a cursor into the history
    wire.py      HTTP/1.1 on asyncio
    server.py    the server as a thread or (``python -m lab.api``) as a process
"""
