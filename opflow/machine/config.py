"""``show_config``: versions, BLAS, the engine of gate products and the threads in use."""

from __future__ import annotations

import platform

import numpy as np
import pylops
import scipy
from threadpoolctl import threadpool_info

from opflow._version import __version__
from opflow.machine import gate_tables, threads


def show_config() -> None:
    """Print versions, BLAS, gate engine and threads, for a report of speed or of an error.

    See Also
    --------
    opflow.gate_options : Chooses the engine and the threads.
    opflow.gate_engines : Engines of gate products.
    opflow.machine_profile : The rates that choices are made by.

    Notes
    -----
    ``gate products`` names the engine in force and those that could be chosen with
    :func:`gate_options` or ``OPFLOW_GATES``; "blas" alone means that the extension was not built.
    ``threads`` is how many a product uses: BLAS's own number, unless :func:`gate_options` or
    ``OPFLOW_NUM_THREADS`` says otherwise.

    An idle thread of OpenBLAS keeps its core busy for a tenth of a second after a product of
    yours, which ours then lack: ``OPENBLAS_THREAD_TIMEOUT=4`` in the environment lets it go at
    once.

    Examples
    --------
    >>> import opflow as of
    >>> with of.gate_options("blas", threads=1):
    ...     of.show_config()  # doctest: +ELLIPSIS
    opflow         ...
    gate products  blas (of ...)
    threads        1
    ...
    """
    engines = ", ".join(gate_tables.gate_engines())
    blas = [
        f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads, "
        f"{pool.get('architecture') or 'unknown kernels'}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    rows = [
        ("opflow", __version__),
        ("gate products", f"{gate_tables.gate_engine()} (of {engines})"),
        ("threads", str(threads.count())),
        *(("BLAS", text) for text in blas),
        ("numpy", np.__version__),
        ("scipy", scipy.__version__),
        ("pylops", pylops.__version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    for name, value in rows:
        print(f"{name:13}  {value}")
