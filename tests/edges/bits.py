"""The bits of results, and processes that compare them with those of their children."""

import hashlib
import os
import signal
import sys
import threading
from contextlib import contextmanager

import numpy as np

from opflow.machine import threads

from .catalogue import ENTRIES, Problem

#: seconds after which a child that waits for what its parent alone has is ended
PATIENCE = 120


@contextmanager
def spread_wide():
    """However small a product, its rows are spread over threads."""
    kept, threads.SHARE = threads.SHARE, 1e-9
    try:
        yield
    finally:
        threads.SHARE = kept


def digest(parts):
    """What tells the bits of one result from those of another."""
    found = hashlib.sha256()
    for name, part in parts.items():
        value = part.value if isinstance(part.value, str) else np.asarray(part.value)
        found.update(f"{name} {getattr(value, 'dtype', '')}".encode())
        found.update(value.encode() if isinstance(value, str) else value.tobytes())
    return found.hexdigest()


def digests(names):
    return {(name, kind): digest(ENTRIES[name](Problem(kind)))
            for name in names for kind in ENTRIES[name].kinds}  # fmt: skip


def in_child(names):
    """What the child of a fork finds; its threads of BLAS are those of its parent."""
    blas = [
        threads.count(),
        threads._blas._before if threads._blas._users else threads._blas._numbers(),
    ]
    receive, send = os.pipe()
    child = os.fork()
    if child:
        os.close(send)
        with os.fdopen(receive) as pipe:
            told = pipe.read()
        status = os.waitpid(child, 0)[1]
        return told or f"the child ended with status {status}"
    signal.alarm(PATIENCE)
    try:
        before = [threads.count(), threads._blas._numbers()]
        told = repr(digests(names))
        after = [threads.count(), threads._blas._numbers()]
        told = told if before == after == blas else f"BLAS had {blas}, {before}, then {after}"
    except BaseException as error:
        told = repr(error)
    os.write(send, told.encode())
    os._exit(0)


def everything():
    """One child that computes all that its parent has."""
    names = list(ENTRIES)
    wanted = repr(digests(names))
    return [] if (found := in_child(names)) == wanted else [wanted, found]


def amid():
    """Children made while other threads hold BLAS to one thread, and let go of it."""
    names, over, wrong = ["kernel_cached", "train_descent"], threading.Event(), []
    wanted = repr(digests(names))

    def busy():
        while not over.is_set():
            digests(names[:1])

    others = [threading.Thread(target=busy) for _ in range(2)]
    for thread in others:
        thread.start()
    for _ in range(10):
        if (found := in_child(names)) != wanted:
            wrong.append(found)
            break
    over.set()
    for thread in others:
        thread.join()
    return wrong


if __name__ == "__main__":
    with spread_wide():
        sys.exit("\n".join({"everything": everything, "amid": amid}[sys.argv[1]]()) or 0)
