"""Rows streamed to the device: the same numbers, X moved once a pass, and no race."""

import itertools

import cupy
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given

import opflow as of
from opflow.dynamics.storage.fingerprint import fingerprint
from opflow.machine.arrays import module_name, to_host
from opflow.machine.streams import prefetched
from opflow.relu.jacobian import ROUTES
from tests.device.counting import STAND_IN, transfers
from tests.device.suite.sides import agree, problem, put
from tests.device.suite.test_dynamics import RUNS as DEVICE_RUNS
from tests.operators.battery import (
    CHECKS,
    Case,
    OnDisk,
    Setting,
    face_split,
    gram,
    settings_drawn,
    small_blocks,
    use,
)

use(cupy)
counted = pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")


def memory_map(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def data_set(X, folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X)


SOURCES = {"array": lambda X, folder: X, "memory map": memory_map, "hdf5": data_set}


# -- the rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_come_out_on_the_device(source, dtype, tmp_path) -> None:
    X = np.arange(12, dtype=dtype).reshape(6, 2)
    rows = of.Streamed(SOURCES[source](X, tmp_path))
    assert (rows.shape, rows.dtype, module_name(rows)) == (X.shape, X.dtype, "cupy")
    assert repr(rows).startswith("<Streamed 6x2 float")
    for index in (slice(0, 3), slice(None), slice(4, 4), slice(-2, None), np.array([0, 3, 5])):
        agree(rows[index], X[index])
    matrix = of.RowMatrix(rows)
    for index in ([5, 0, 0, 3], [1, 2], [2]):
        agree(matrix.rows(np.array(index)), X[index])
        agree(matrix.rows(cupy.asarray(np.array(index))), X[index])


@pytest.mark.parametrize("lengths", [[4, 3, 3], [10], [1] * 10, [2, 5, 3]])
def test_the_next_rows_move_while_one_block_is_used(lengths) -> None:
    X = np.random.default_rng(0).standard_normal((10, 3))
    edges = [0, *itertools.accumulate(lengths)]
    slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
    rows = of.Streamed(X)
    for _ in range(2):
        with transfers() as made:
            for s in prefetched(slices, rows):
                block = rows[s]
                if STAND_IN:
                    from tests.device.flights import under_way

                    assert under_way() == (s is not slices[-1])
                agree(block, X[s])
        if STAND_IN:
            made = [t for t in made if t.kind == "to device"]
            assert [t.entries for t in made] == [3 * n for n in lengths]


@counted
def test_a_pass_that_is_left_early_waits_for_what_moves() -> None:
    from tests.device.flights import under_way

    rows = of.Streamed(np.ones((6, 2)))
    for s in prefetched([slice(0, 2), slice(2, 4), slice(4, 6)], rows):
        rows[s]
        assert under_way() == 1
        break
    del s
    assert under_way() == 0
    with transfers() as made:  # what moved ahead is not taken for rows of another pass
        agree(rows[slice(2, 3)], np.ones((1, 2)))
    assert [t.entries for t in made if t.kind == "to device"] == [2]


def test_rows_other_than_those_announced_are_still_those_asked_for() -> None:
    X = np.arange(12.0).reshape(6, 2)
    rows = of.Streamed(X)
    for s in prefetched([slice(0, 2), slice(2, 4), slice(4, 6)], rows):
        agree(rows[s], X[s])
        agree(rows[slice(1, 2)], X[1:2])


def test_a_copy_is_made_of_what_the_rows_are_now() -> None:
    X = np.zeros((4, 2))
    rows = of.Streamed(X)
    assert float(rows[0:2].sum()) == 0
    X[:] = 1
    assert float(rows[0:2].sum()) == 4


def test_errors() -> None:
    for X, message in [
        (sp.csr_matrix(np.eye(2)), "a dense matrix that is read by rows, not csr_matrix"),
        (of.Identity(3), "not Identity"),
        ([[1.0]], "not list"),
        (cupy.ones((2, 2)), "on the device already"),
        (of.Streamed(np.eye(2)), "on the device already"),
        (np.eye(2, dtype=int), "X is int64, read by rows, where float64 is needed"),
    ]:
        with pytest.raises(TypeError, match=message):
            of.Streamed(X)
    with pytest.raises(ValueError, match=r"two-dimensional \(samples, features\), not \(3,\)"):
        of.Streamed(np.ones(3))


def test_without_it_rows_on_the_host_are_an_error_that_names_it(tmp_path) -> None:
    net, X, _ = problem()
    there = net.to("gpu")
    for make in (*SOURCES.values(), lambda X, folder: OnDisk(X)):
        with pytest.raises(TypeError, match=r"do not mix: .* on the host .*of\.Streamed\(X\)"):
            there.fields(make(X, tmp_path))
    with pytest.raises(TypeError, match=r"Streamed of shape \(11, 5\) is on the device"):
        net.fields(of.Streamed(X))
    X[3, 1] = np.nan
    with transfers() as made, pytest.raises(ValueError, match="X contains NaN"):
        there.fields(of.Streamed(X))
    assert not made  # looked at where they are


# -- operators --------------------------------------------------------------------------------


def of_rows(s: Setting) -> Case:
    F = to_host(s.normal(s.N, s.p))
    return Case(of.RowMatrix(of.Streamed(F)), lambda F: F, cupy.asarray(F))


def gram_of_rows(s: Setting) -> Case:
    F = to_host(s.normal(s.N, s.p))
    return Case(of.Gram(of.RowMatrix(of.Streamed(F))), gram, cupy.asarray(F), psd=True)


def jacobian_of_rows(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), to_host(s.normal(s.N, s.q))
    op = of.KhatriRao(A, of.RowMatrix(of.Streamed(B)))
    return Case(op, face_split, A, cupy.asarray(B))


def square_of_rows(s: Setting) -> Case:
    F = to_host(s.normal(s.N, s.p))
    X = of.RowMatrix(of.Streamed(F))
    return Case(of.KhatriRao(X, X), face_split, cupy.asarray(F), cupy.asarray(F))


def function_of_rows(s: Setting) -> Case:
    X = to_host(s.normal(s.N, s.p))
    op = of.FunctionGram(lambda A, B: (A @ B.T) ** 2, of.Streamed(X))
    return Case(op, lambda X: gram(X) ** 2, cupy.asarray(X), psd=True)


ROWS = [of_rows, gram_of_rows, jacobian_of_rows, square_of_rows, function_of_rows]


@pytest.mark.parametrize("check", sorted(
    set(CHECKS) - {"converts_to_scipy", "composes_with_scipy", "survives_pickle"}))  # fmt: skip
@pytest.mark.parametrize("factory", ROWS, ids=lambda f: f.__name__)
@given(setting=settings_drawn)
def test_operator(factory, check: str, setting: Setting) -> None:
    with small_blocks(setting.workspace):
        CHECKS[check](factory(setting), setting.rng)


# -- networks ---------------------------------------------------------------------------------

CASES = [
    {"depth": depth, "outputs": outputs, "bias": bias, "dtype": dtype}
    for depth, outputs, bias, dtype in itertools.product(
        (1, 3), (1, 2), (False, True), (np.float64, np.float32)
    )
    if dtype == np.float64 or bias
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))


@each_case
@pytest.mark.parametrize("storage", ["cached", "packed", "recomputed"])
def test_fields_and_kernels_are_those_of_the_host(case, storage) -> None:
    net, X, _ = problem(**case)
    rng = np.random.default_rng(1)
    v = rng.standard_normal((11 * net.outputs, 2)).astype(net.dtype)
    with small_blocks(100):
        host = net.fields(X, storage=storage)
        device = net.to("gpu").fields(of.Streamed(X), storage=storage)
        agree(device.network(device.inputs), net(X))
        for name in ("activations", "preactivations", "gates", "conjugates"):
            for got, want in zip(getattr(device, name), getattr(host, name), strict=True):
                if not isinstance(got, of.Streamed):
                    agree(got, want)
        agree(device.outputs, host.outputs)
        for route in ROUTES:
            K, D = (of.collective_kernel(f, route=route) for f in (host, device))
            agree(D @ put(v), K @ v)
            agree(D.todense(), K.todense())
            agree(D.diagonal(), K.diagonal())
        J, D = of.jacobian(host), of.jacobian(device)
        agree(D.T @ put(v), J.T @ v)
        other = net.to("gpu").fields(put(X))
        agree(of.cross_kernel(other, device) @ put(v), of.cross_kernel(host, host) @ v)


@each_case
def test_the_hierarchy_and_the_moving_kernel(case) -> None:
    net, X, y = problem(**case)
    host, device = net.fields(X), net.to("gpu").fields(of.Streamed(X))
    v = np.random.default_rng(1).standard_normal((y.size, 2)).astype(net.dtype)
    with small_blocks(200):
        for pair in [
            (of.kernel_velocity(device, put(y)), of.kernel_velocity(host, y)),
            (of.hierarchy.hidden_velocity(device, 1), of.hierarchy.hidden_velocity(host, 1)),
        ]:
            agree(pair[0] @ put(v[: pair[0].shape[1]]), pair[1] @ v)
        got, want = (of.hierarchy.field_velocities(f) for f in (device, host))
        u = np.random.default_rng(2).standard_normal((want.shape[0], 2)).astype(net.dtype)
        agree(got.T @ put(u), want.T @ u)
        agree(of.features.agop(device, 1).todense(), of.features.agop(host, 1).todense())


@pytest.fixture
def ahead(monkeypatch):
    """Of every block asked for, whether one was on its way."""
    asked, get = [], of.Streamed.__getitem__

    def spy(self, index):
        asked.append(self._coming is not None)
        return get(self, index)

    monkeypatch.setattr(of.Streamed, "__getitem__", spy)
    return asked


@counted
@pytest.mark.parametrize("k", [1, 2])
def test_rows_of_either_side_of_a_khatri_rao_product_move_once(k, ahead) -> None:
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((8 * k, 3)), rng.standard_normal((8, 3))
    op = of.KhatriRao(of.RowMatrix(of.Streamed(A)), put(B))
    with small_blocks(200):
        for product in (lambda: op @ put(np.ones(9)), lambda: op.T @ put(np.ones(8 * k))):
            ahead.clear()
            with transfers() as made:
                product()
            assert sum(t.entries for t in made if t.site.startswith("opflow")) == A.size
            assert k > 1 or (len(ahead) > 1 and ahead.count(False) == 1)


@counted
@pytest.mark.parametrize("depth, outputs", [(1, 1), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("storage", ["cached", "recomputed"])
def test_a_product_with_a_kernel_moves_the_inputs_once_each_way_and_ahead(
    depth, outputs, route, storage, ahead
) -> None:
    net, X, y = problem(depth=depth, outputs=outputs)
    fields = net.to("gpu").fields(of.Streamed(X), storage=storage)
    v = put(y.reshape(-1))
    with small_blocks(400):
        K = of.collective_kernel(fields, route=route)
        K @ v
        for product, passes in [(lambda: K @ v, 2), (lambda: of.jacobian(fields).T @ v, 1)]:
            ahead.clear()
            with transfers() as made:
                product()
            assert ahead.count(False) == passes  # the first block of each
            assert {t.kind for t in made} == {"to device"}
            assert len(made) > passes  # in blocks
            assert sum(t.entries for t in made) == passes * X.size


@counted
@pytest.mark.parametrize("storage, passes", [("cached", 0), ("packed", 1), ("recomputed", 1)])
def test_what_is_held_does_not_need_the_inputs_again(storage, passes) -> None:
    net, X, _ = problem(depth=2)
    rows = of.Streamed(X)
    with transfers() as made:
        fields = net.to("gpu").fields(rows, storage=storage)
    of_network = sum(t.entries for t in made if "network" in t.site)
    moved = sum(t.entries for t in made if "streams" in t.site)
    assert moved == (0 if storage == "recomputed" else X.size)
    assert of_network <= net.parameters + net.readout.size
    for name in ("outputs", "conjugates"):
        with transfers() as made:
            getattr(fields, name)
        assert sum(t.entries for t in made) == (X.size if storage == "recomputed" else 0)
    with transfers() as made:
        fields.gates  # noqa: B018
    assert sum(t.entries for t in made) == passes * X.size


# -- runs -------------------------------------------------------------------------------------

OF_BOTH = ("descent", "momentum", "batches", "flow", "exponential", "linearised", "eliminated")
RUNS = {name: DEVICE_RUNS[name] for name in OF_BOTH} | {
    "kernel": {"method": of.GradientDescent(0.01), "gram": lambda A, B: (A @ B.T) ** 2},
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("case", CASES[::2], ids=lambda c: "-".join(map(str, c.values())))
def test_trajectories_are_those_of_the_host(run, case) -> None:
    net, X, y = problem(**case)
    new = problem(seed=5)[1].astype(net.dtype)
    with small_blocks(200):
        host = of.train(net, X, y, **RUNS[run], steps=4)
        device = of.train(net.to("gpu"), of.Streamed(X), put(y), **RUNS[run], steps=4)
        predictions = host.predict(new), device.predict(of.Streamed(new))
    tolerance = 1e5 * float(np.finfo(net.dtype).eps)
    np.testing.assert_allclose(device.losses, host.losses, rtol=tolerance)
    agree(device.residual, host.residual, factor=1e5)
    agree(predictions[1], predictions[0], factor=1e5)
    for got, want in zip(device.network.weights, host.network.weights, strict=True):
        agree(got, want, factor=1e5)


def test_the_truncated_flow_needs_its_inputs_whole() -> None:
    net, X, y = problem()
    with pytest.raises(ValueError, match="needs X as an array or a sparse matrix"):
        of.train(net.to("gpu"), of.Streamed(X), put(y), method=of.TruncatedFlow(1), steps=1)


@counted
def test_a_step_moves_the_inputs_once_and_brings_one_number() -> None:
    net, X, y = problem(depth=2, outputs=2, bias=True)
    there = net.to("gpu"), of.Streamed(X), put(y)

    def spent(steps):
        with small_blocks(400), transfers() as made:
            of.train(*there, method=of.GradientDescent(0.01), steps=steps, every=100,
                     eliminate=False)  # fmt: skip
        down = [t.entries for t in made if t.kind == "to device"]
        return np.array([sum(down), sum(t.kind == "scalar" for t in made),
                         sum(t.kind == "to host" for t in made)])  # fmt: skip

    assert (spent(13) - spent(3)).tolist() == [10 * X.size, 10, 0]


@counted
def test_a_step_on_a_batch_moves_its_rows() -> None:
    net, X, y = problem(depth=2)
    there = net.to("gpu"), of.Streamed(X), put(y)

    def spent(steps):
        with transfers() as made:
            of.train(*there, **RUNS["batches"], steps=steps, every=100)
        return sum(t.entries for t in made if t.kind == "to device")

    assert spent(13) - spent(3) == 10 * (4 * X.shape[1] + 4)  # and the numbers of y's rows


def test_a_run_on_streamed_inputs_is_known_by_what_is_on_the_host() -> None:
    X = np.random.default_rng(0).standard_normal((20, 3))
    with transfers() as made:
        assert fingerprint(of.Streamed(X)) == fingerprint(X)
    assert not made


@pytest.mark.parametrize("onto", ["streamed", "host", "device"])
def test_a_run_goes_on_wherever_its_inputs_are(onto, tmp_path) -> None:
    net, X, y = problem(bias=True)
    places = {"streamed": (net.to("gpu"), of.Streamed(X), put(y)), "host": (net, X, y),
              "device": (net.to("gpu"), put(X), put(y))}  # fmt: skip
    path, options = tmp_path / "run.npz", {"method": of.GradientDescent(0.01)}
    whole = of.train(net, X, y, steps=6, **options)
    of.train(*places["streamed"], steps=3, checkpoint=path, **options)
    end = of.train(*places[onto], steps=6, checkpoint=path, resume=True, **options)
    np.testing.assert_allclose(end.losses, whole.losses, rtol=1e-10)


def test_the_spectrum_of_a_kernel_on_streamed_rows() -> None:
    net, X, _ = problem(depth=2, samples=40)
    host = of.collective_kernel(net.fields(X))
    device = of.collective_kernel(net.to("gpu").fields(of.Streamed(X)))
    with small_blocks(1000):
        got, want = of.spectral.eigsh(device, 3), of.spectral.eigsh(host, 3)
    np.testing.assert_allclose(got.eigenvalues, want.eigenvalues, rtol=1e-10)
