"""What may be held by default is half of what is free where the data are."""

import numpy as np
import pytest

import opflow as of
from opflow.cli.estimate import estimate
from opflow.cli.run_report import analyse
from opflow.machine import workspace
from opflow.machine.workspace import (
    free_memory,
    parse_memory,
    row_slices,
    workspace_bytes,
    workspace_limit,
)
from opflow.operators import khatri_rao
from opflow.relu import passes
from tests.device.counting import STAND_IN
from tests.device.suite.sides import problem, put

S = of.spectral


@pytest.fixture
def device(monkeypatch):
    """Set what the device has: free by CUDA; free, used and allowed by CuPy's pool."""
    if not STAND_IN:
        pytest.skip("a device has the memory it has")
    from tests.device import flights, standin

    def has(free, pool=0, used=0, limit=0) -> None:
        monkeypatch.setattr(standin.Device, "mem_info", (free, 1 << 40))
        for name, value in {"free": pool, "used": used, "limit": limit}.items():
            monkeypatch.setattr(flights.POOL, name, value)

    return has


def test_free_on_the_device_is_what_cuda_and_the_pool_have_within_its_limit(device) -> None:
    device(1000, pool=200, used=300)
    assert free_memory("cupy") == 1200
    assert parse_memory(None, "cupy") == 600
    assert parse_memory("1KiB", "cupy") == 1024
    device(1000, pool=200, used=300, limit=800)
    assert free_memory("cupy") == 500
    device(1000, pool=200, used=300, limit=10_000)
    assert free_memory("cupy") == 1200
    assert free_memory() == free_memory("numpy") > 1e6


ASKS = {
    "todense": lambda K, net, X, y: K.todense(),
    "candidates": lambda K, net, X, y: of.candidates(K, 10),
    "materialise": lambda K, net, X, y: of.materialise(K, products=10),
    "explain": lambda K, net, X, y: of.materialise(K, explain=True),
    "dense": lambda K, net, X, y: of.materialise(K, how="dense"),
    "gram": lambda K, net, X, y: of.materialise(K, how="gram"),
    "eigsh": lambda K, net, X, y: S.eigsh(K, 2, method="lanczos"),
    "eigh": lambda K, net, X, y: S.eigh(K),
    "train": lambda K, net, X, y: of.train(net, X, y, steps=1),
    "plan": lambda K, net, X, y: of.train(net, X, y, steps=1, explain=True),
    "estimate": lambda K, net, X, y: estimate(11, net.widths, 1, net.dtype, X=X),
    "analyse": lambda K, net, X, y: analyse(net, X, seconds=1.0),
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("where", ["numpy", "cupy", "streamed"])
def test_every_default_looks_where_the_data_are(ask, where, monkeypatch) -> None:
    net, X, y = problem(depth=2)
    if where != "numpy":
        net, X, y = net.to("gpu"), put(X) if where == "cupy" else of.Streamed(X), put(y)
    K = of.collective_kernel(net.fields(X), route="cached")
    asked = []
    monkeypatch.setattr(workspace, "free_memory", lambda where="numpy": asked.append(where) or 1e9)
    ASKS[ask](K, net, X, y)
    assert set(asked) == {"numpy" if where == "numpy" else "cupy"}


@pytest.mark.parametrize("streamed", [False, True])
def test_what_does_not_fit_on_the_device_is_refused_before_it_is_made(streamed, device) -> None:
    net, X, y = problem(depth=2, samples=200)
    there = net.to("gpu"), of.Streamed(X) if streamed else put(X), put(y)
    K = of.collective_kernel(there[0].fields(there[1]))
    device(2 * 200 * 200 * 8 - 2)
    with pytest.raises(MemoryError, match="a dense 200 x 200 float64 matrix takes"):
        K.todense()
    with pytest.raises(MemoryError, match="all eigenpairs of order 200 take"):
        S.eigh(K)
    with pytest.raises(MemoryError, match=r"memory allows 312 KiB but the run needs at least"):
        of.train(*there, steps=1)
    host = of.collective_kernel(net.fields(X))
    assert isinstance(host.todense(), np.ndarray)  # the host's memory is another


MIB = 1 << 20


def test_the_workspace_on_a_device_follows_its_free_memory(device, monkeypatch) -> None:
    monkeypatch.setattr(workspace, "DEVICE_WORKSPACE", 256 * MIB)
    for free, most in ((100, 8), (300, 8), (600, 16), (5_000, 128), (8_192, 256), (80_000, 256)):
        device(free * MIB)
        assert workspace_bytes("cupy") == most * MIB
        assert workspace_bytes() == workspace_bytes(None) == 8 * MIB
    with workspace_limit(40 * MIB):
        assert workspace_bytes("cupy") == 40 * MIB and workspace_bytes() == 8 * MIB
    assert len(row_slices(1000, MIB)) == 125
    assert len(row_slices(1000, MIB, where="cupy")) == 4
    monkeypatch.setattr(workspace, "free_memory", lambda where: pytest.fail("the device was asked"))
    assert row_slices(10, MIB / 2, where="cupy") == [slice(0, 10)]


@pytest.mark.parametrize("streamed", [False, True])
def test_blocks_on_a_device_are_large_and_results_the_same(streamed, device, monkeypatch) -> None:
    monkeypatch.setattr(workspace, "WORKSPACE", 4_000)
    net, X, y = problem(depth=2, samples=300)
    there = net.to("gpu"), of.Streamed(X) if streamed else put(X), put(y)
    lengths: list[int] = []
    sliced = workspace.row_slices

    def counted(n, bytes_per_row, workspace=None, where="numpy"):
        found = sliced(n, bytes_per_row, workspace, where)
        lengths.append(len(found))
        return found

    for module in (khatri_rao, passes):
        monkeypatch.setattr(module, "row_slices", counted)
    device(8 << 30)
    results = []
    for most in (0, 1 << 20):
        monkeypatch.setattr(workspace, "DEVICE_WORKSPACE", most)
        lengths.clear()
        K = of.collective_kernel(there[0].fields(there[1]))
        run = of.train(*there, steps=2, eliminate=False)
        results.append([K @ there[2], K.todense(), run.residual])
        assert (max(lengths) > 1) == (most == 0)
    for small, large in zip(*results, strict=True):
        np.testing.assert_allclose(small.get(), large.get(), rtol=1e-10, atol=1e-12)
