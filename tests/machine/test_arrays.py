"""Whatever users call an array goes through one door, and gives what the NumPy array gives."""

import importlib

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of

N, D = 12, 4


def _module(name):
    return pytest.importorskip(name)


def _torch_leaf(x):
    torch = _module("torch")
    x = torch.from_numpy(x.copy())
    return x.requires_grad_() if x.is_floating_point() else x


def _jax(x):
    jax = _module("jax")
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else _x64():
        return jax.numpy.asarray(x)


def _x64():
    return importlib.import_module("jax.experimental").enable_x64()


def _pandas(x):
    pandas = _module("pandas")
    return (pandas.Series if x.ndim == 1 else pandas.DataFrame)(x.copy())


def _mapped(x, tmp_path, order):
    np.asarray(x, dtype=x.dtype.newbyteorder(order)).tofile(tmp_path / "x")
    return np.memmap(tmp_path / "x", x.dtype.newbyteorder(order), "r", shape=x.shape)


KINDS = {
    "pandas": lambda x, _: _pandas(x),
    "torch": lambda x, _: _torch_leaf(x),
    "jax": lambda x, _: _jax(x),
    "list": lambda x, _: x.tolist(),
    "tuple": lambda x, _: tuple(map(tuple, x)) if x.ndim > 1 else tuple(x.tolist()),
    "masked, no mask": lambda x, _: np.ma.masked_invalid(x),
    "big-endian": lambda x, _: x.astype(x.dtype.newbyteorder(">")),
    "memory map": lambda x, tmp_path: _mapped(x, tmp_path, "="),
    "big-endian map": lambda x, tmp_path: _mapped(x, tmp_path, ">"),
    "read-only": lambda x, _: np.lib.stride_tricks.as_strided(x, writeable=False),
    "matrix": lambda x, _: x.view(np.matrix) if x.ndim == 2 else x,
}


@pytest.fixture(params=KINDS)
def as_kind(request, tmp_path):
    counter = iter(range(1000))

    def turned(x):
        folder = tmp_path / str(next(counter))
        folder.mkdir()
        return KINDS[request.param](x, folder)

    return turned


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def X(rng):
    return rng.standard_normal((N, D))


@pytest.fixture
def y(rng):
    return rng.standard_normal(N)


@pytest.fixture
def net():
    return of.ReLUNetwork.random([D, 6, 5], seed=1)


@pytest.fixture
def K(net, X):
    return of.collective_kernel(net.fields(X))


def same(got, wanted):
    if isinstance(wanted, tuple):
        for one, other in zip(got, wanted, strict=True):
            same(one, other)
    elif wanted is not None and not isinstance(wanted, bool | str):
        assert type(got) is type(wanted)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


DOORS = {
    "matvec": lambda K, X, y: K @ y,
    "matmat": lambda K, X, y: K @ X,
    "method": lambda K, X, y: K.rmatvec(y),
    "divided": lambda K, X, y: (K + of.Identity(N)) / y,
    "alignment": lambda K, X, y: float(of.spectral.alignment(K, y)),
    "expm": lambda K, X, y: of.spectral.expm(K, y, 0.3),
    "sqrtm": lambda K, X, y: of.spectral.sqrtm(K, y),
    "lanczos": lambda K, X, y: of.spectral.lanczos(K, 3, y),
    "solve": lambda K, X, y: of.spectral.solve(K, y, 1.0).x,
    "projections": lambda K, X, y: of.spectral.projections(np.eye(N), y),
    "spectral operand": lambda K, X, y: of.spectral.eigsh(of.Gram(X), 2).eigenvalues,
}


@pytest.mark.parametrize("door", DOORS)
def test_the_kind_of_array_changes_nothing(door, as_kind, K, X, y):
    call = DOORS[door]
    same(call(K, as_kind(X), as_kind(y)), call(K, X, y))


OPERANDS = {
    "matrix": lambda A, w: of.Matrix(A),
    "as_operator": lambda A, w: of.as_operator(A),
    "gram": lambda A, w: of.Gram(A),
    "weights": lambda A, w: of.Gram(np.ones((3, D)), weights=w),
    "scale": lambda A, w: of.ScaledGates(np.ones((3, D), dtype=bool), w),
    "khatri-rao": lambda A, w: of.KhatriRao(A, A),
    "blocks": lambda A, w: of.BlockDiagonal(A),
    "gram side": lambda A, w: of.GramSide(A, of.Matrix(np.eye(N), psd=True)),
    "function gram": lambda A, w: of.FunctionGram(lambda a, b: a @ b.T, A),
    "rows": lambda A, w: of.RowMatrix(A),
}


@pytest.mark.parametrize("operand", OPERANDS)
def test_operators_take_every_kind_of_array(operand, as_kind, X):
    make, w = OPERANDS[operand], np.arange(1.0, D + 1)
    same(make(as_kind(X), as_kind(w)).todense(), make(X, w).todense())


@pytest.mark.parametrize("combine", [
    lambda M, A: M + A, lambda M, A: M - A, lambda M, A: of.Hadamard(M, A), lambda M, A: M @ A.T,
])  # fmt: skip
def test_sums_and_products_take_other_libraries_arrays(combine, rng):
    A = rng.standard_normal((D, D))
    for kind in ("pandas", "torch", "jax", "big-endian"):
        other, M = KINDS[kind](A, None), of.Matrix(np.eye(D))
        got = combine(M, other)
        got = got.todense() if isinstance(got, of.Operator) else got
        wanted = combine(M, A)
        same(got, wanted.todense() if isinstance(wanted, of.Operator) else wanted)


def test_gates_take_every_kind_of_array(as_kind, X):
    gates = X > 0
    same(of.PackedGates(as_kind(gates)).todense(), gates.astype(float))
    same(of.Mask(as_kind(gates[0])).diagonal(), gates[0].astype(float))


def test_networks_take_every_kind_of_array(as_kind, net, X, y):
    same(net(as_kind(X)), net(X))
    other = of.ReLUNetwork([as_kind(W) for W in net.weights], as_kind(net.readout[0]),
                           biases=[as_kind(np.ones(len(W))) for W in net.weights])  # fmt: skip
    assert other.dtype == net.dtype
    assert other.dtype.isnative
    fields, wanted = net.fields(as_kind(X)), net.fields(X)
    same(fields.outputs, wanted.outputs)
    r = wanted.outputs[:, 0] - y
    same(of.kernel_velocity(fields, as_kind(r)) @ y, of.kernel_velocity(wanted, r) @ y)
    T = y[:, None]
    same(of.features.target_linearity(fields, as_kind(T), 1),
         of.features.target_linearity(wanted, T, 1))  # fmt: skip


def test_training_takes_every_kind_of_array(as_kind, net, X, y):
    def run(turned):
        held_out = of.observe.HeldOutLoss(turned(X), turned(y))
        return of.train(net, turned(X), turned(y), steps=3, observe=[held_out])

    got, wanted = run(as_kind), run(lambda x: x)
    same(got.losses, wanted.losses)
    same(got.observations["held_out_loss"], wanted.observations["held_out_loss"])


def test_labels_take_every_kind_of_array(as_kind, X):
    labels = np.arange(N) % 3
    network = of.ReLUNetwork.random([D, 6], outputs=3, seed=1)

    def accuracy(turned):
        observer = of.observe.Accuracy(turned(X), turned(labels))
        return of.train(network, X, np.eye(3)[labels], steps=1, observe=[observer])

    same(accuracy(as_kind).observations["accuracy"], accuracy(lambda x: x).observations["accuracy"])


MASKED = {
    "matvec": lambda K, X, y: K @ y,
    "data": lambda K, X, y: of.Matrix(X),
    "gram": lambda K, X, y: of.Gram(X),
    "weights": lambda K, X, y: of.Gram(np.ones((3, N)), weights=y),
    "scale": lambda K, X, y: of.ScaledGates(np.ones((3, N), dtype=bool), y),
    "gates": lambda K, X, y: of.PackedGates(X > 0),
    "mask": lambda K, X, y: of.Mask(y > 0),
    "blocks": lambda K, X, y: of.BlockDiagonal(X),
    "A": lambda K, X, y: of.KhatriRao(X[:, None], X.data),
    "X": lambda K, X, y: of.FunctionGram(lambda a, b: a @ b.T, X),
    "rows": lambda K, X, y: K.block(y > 0, slice(None)),
    "network": lambda K, X, y: of.ReLUNetwork.random([D, 6], seed=1)(X),
    "W": lambda K, X, y: of.ReLUNetwork([X], np.ones(N)),
    "fields": lambda K, X, y: of.ReLUNetwork.random([D, 6], seed=1).fields(X),
    "train X": lambda K, X, y: of.train(of.ReLUNetwork.random([D, 6]), X, y.data, steps=1),
    "train y": lambda K, X, y: of.train(of.ReLUNetwork.random([D, 6]), X.data, y, steps=1),
    "train gram": lambda K, X, y: of.train(
        of.ReLUNetwork.random([D, 6]), X.data, y.data, steps=1,
        gram=np.ma.masked_less(K.todense(), 0)),
    "held out": lambda K, X, y: of.observe.HeldOutLoss(X.data, y),
    "held out X": lambda K, X, y: of.observe.HeldOutLoss(X, y.data),
    "labels": lambda K, X, y: of.observe.Accuracy(X.data, y.astype(int)),
    "alignment": lambda K, X, y: of.spectral.alignment(K, y),
    "expm": lambda K, X, y: of.spectral.expm(K, y, 1.0),
    "lanczos": lambda K, X, y: of.spectral.lanczos(K, 2, y),
    "solve": lambda K, X, y: of.spectral.solve(K, y, 1.0),
    "projections": lambda K, X, y: of.spectral.projections(np.eye(N), y),
}  # fmt: skip


@pytest.mark.parametrize("door", MASKED)
def test_masked_entries_are_refused_by_name(door, K, X, y):
    masked_X, masked_y = np.ma.masked_less(X, 0), np.ma.masked_less(y, 0)
    with pytest.raises(ValueError, match=r"^[\w\[\] ]+ has masked entries"):
        MASKED[door](K, masked_X, masked_y)


def test_half_precision_of_other_libraries_is_refused(net, X):
    torch = _module("torch")
    with pytest.raises(TypeError, match=r"X .*BFloat16"):
        net(torch.ones(3, D, dtype=torch.bfloat16))


def test_half_precision_is_exact_in_single(net):
    torch = _module("torch")
    X = torch.arange(3.0 * D, dtype=torch.float16).reshape(3, D) / 8
    np.testing.assert_array_equal(net(X), net(X.numpy().astype(np.float64)))


def test_training_data_of_jax_and_torch_are_not_written_to(net, X, y):
    torch = _module("torch")
    inputs, targets = torch.from_numpy(X.copy()), torch.from_numpy(y.copy())
    of.train(net, inputs, targets, steps=2)
    np.testing.assert_array_equal(inputs.numpy(), X)
    np.testing.assert_array_equal(targets.numpy(), y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_big_endian_sparse_data_are_turned(dtype, X, rng):
    S = sp.csr_array(np.where(X > 0, X, 0).astype(dtype))
    big = sp.csr_array((S.data.astype(S.dtype.newbyteorder(">")), S.indices, S.indptr), S.shape)
    op = of.Matrix(big)
    assert op.dtype == np.dtype(dtype)
    assert op.dtype.isnative
    np.testing.assert_array_equal(op.todense(), S.toarray())


class Dataset:
    """What h5py gives: rows by slices and by increasing indices, of a dtype in either order."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, index):
        if not isinstance(index, slice):
            assert len(index)
        assert not isinstance(index, slice) or (index.step or 1) > 0
        return self._X[index]

    def __array__(self, *args, **options):
        raise AssertionError("read whole")


def test_big_endian_rows_are_turned_as_they_are_read(net, X, y):
    rows = Dataset(X.astype(">f8"))
    same(net(rows), net(X))
    same(of.RowMatrix(rows).todense(), X)
    got, wanted = (of.train(net, data, y, steps=3).losses for data in (rows, X))
    np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_a_big_endian_map_is_not_read_whole(net, X, tmp_path):
    mapped = _mapped(X, tmp_path, ">")
    fields = net.fields(mapped)
    assert fields.inputs is mapped
    same(fields.outputs, net.fields(X).outputs)
    np.testing.assert_allclose(
        of.collective_kernel(fields).todense(), of.collective_kernel(net.fields(X)).todense(),
        rtol=1e-13,
    )  # fmt: skip


def test_a_run_goes_on_with_the_same_data_in_the_other_byte_order(net, X, y, tmp_path):
    run = tmp_path / "run"
    of.train(net, _mapped(X, tmp_path, ">"), y, steps=2, checkpoint=run)
    of.train(net, X, y, steps=4, checkpoint=run, resume=True)


def test_pandas_says_what_is_missing_in_a_nullable_column(net, X):
    pandas = _module("pandas")
    y = pandas.Series([1.0, None] * (N // 2), dtype="Float64")
    with pytest.raises((TypeError, ValueError), match="y "):
        of.train(net, X, y, steps=1)
