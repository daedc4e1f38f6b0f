r"""
One training run on one rank and on four
========================================

Samples are distributed over the ranks of an MPI communicator. A product with the kernel,
:math:`K r = J \sum_i J_i^T r_i`, sums one array as large as the weights over the ranks: 8 bytes
per weight, whatever the number of samples. Losses agree to rounding (``pip install '.[mpi]'``).
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

# %%
# Every rank runs this program on its own rows; only ``comm`` is added to the calls of a program for
# one process. ``COMM_SELF`` is one rank alone, ``COMM_WORLD`` all of them.

program = """
import json, numpy as np, opflow as of, opflow.distributed as distributed
from mpi4py import MPI
found, summed = {}, {}
for comm in (MPI.COMM_SELF, MPI.COMM_WORLD):
    for N in (10_000, 3000, 1000):
        X = np.random.default_rng(0).standard_normal((N, 10))[distributed.rows(N, comm)]
        y = np.sin(2 * X[:, 0]) * X[:, 1]
        net = of.ReLUNetwork.random([10, 64, 64], seed=0)
        K = of.collective_kernel(net.fields(X, comm=comm))
        before, image = K.space.bytes, K @ y  # bytes summed over the ranks so far
        summed[N] = K.space.bytes - before
    found[comm.size] = of.train(net, X, y, steps=60, comm=comm).losses.tolist()
if comm.rank == 0:
    print(json.dumps([found, list(summed), list(summed.values()), net.parameters]))
"""

# %%
# As on a cluster: ``mpiexec -n 4 python program.py``.

mpiexec = shutil.which(Path(sys.executable).with_name("mpiexec")) or shutil.which("mpiexec")
print("mpiexec found" if mpiexec else "mpiexec is missing, so one rank only: pip install '.[mpi]'")
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "program.py").write_text(program)
    command = [*([mpiexec, "-n", "4"] if mpiexec else []), sys.executable, "program.py"]
    losses, N, summed, weights = json.loads(subprocess.check_output(command, cwd=folder))
away = np.ptp([*losses.values()], axis=0).max() / losses["1"][-1]
print(f"ranks {' and '.join(losses)}: relative difference of losses up to {away:.0e}")
print(f"a product sums {summed[0]:,} bytes at N = {N[0]:,}; 8 per weight are {8 * weights:,}")

# %%
# Left: losses coincide. Right: bytes do not depend on N. Ranks on one computer show no speed.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ranks, line in losses.items():
    axes[0].plot(line, "-" if ranks == "1" else "k.", lw=3, label=f"ranks: {ranks}")
axes[1].loglog(N, summed, "o-", label="summed per product")
axes[1].loglog(N, np.multiply(N, 8), "k:", label="the residual itself")
axes[0].set(xlabel="step", ylabel="loss", title="The same run")
axes[1].set(xlabel="samples N", ylabel="bytes", title="Communication of a rank", ylim=(5e3, 3e5))
[ax.legend() for ax in axes]
plt.show()
