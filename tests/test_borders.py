"""Ways of giving data: each gives what the plain float64 array gives, or one clear sentence."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of

N, D = 8, 3
X = np.random.default_rng(0).integers(-9, 9, (N, D)).astype(np.float64)
Y = np.random.default_rng(1).integers(0, 2, N).astype(np.float64)
NET = of.ReLUNetwork.random([D, 6], seed=0)
NARROW = of.ReLUNetwork([NET.weights[0].astype("f")], NET.readout.astype("f"), rates=NET.rates)
K = of.Gram(np.random.default_rng(2).standard_normal((N, 4))) + of.Identity(N)
K32 = of.Gram(np.eye(N, dtype="f"))


def _torch(x):
    return pytest.importorskip("torch").from_numpy(x.copy())


def _frame(x):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x) if x.ndim == 2 else pandas.Series(x, index=range(50, 50 + len(x)))


def _mixed(x):
    """A table of booleans, integers and floats."""
    pandas = pytest.importorskip("pandas")
    if x.ndim == 1:
        return pandas.Series([int(n) if i % 2 else n for i, n in enumerate(x)], dtype=object)
    return pandas.DataFrame({"a": x[:, 0].astype(int), "b": x[:, 1] > 0, "c": x[:, 2]}).assign(
        b=lambda t: t["b"].astype(object)
    )


#: kinds of data that hold the very numbers of a float64 array
EXACT = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(">f8"),
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),
    "lists": lambda x: x.tolist(),
    "tuples of ints": lambda x: (
        tuple(map(tuple, x.astype(int).tolist())) if x.ndim == 2 else tuple(x.astype(int).tolist())
    ),
    "objects": lambda x: x.astype(object),
    "Fortran order": np.asfortranarray,
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "np.matrix or masked": lambda x: np.ma.masked_invalid(x),
    "pandas": _frame,
    "pandas of ints": lambda x: _frame(x.astype(int)),
    "torch": _torch,
    "torch float32": lambda x: _torch(x.astype(np.float32)),
    "torch with a gradient": lambda x: _torch(x).requires_grad_(),
}
SPARSE = {
    "csr": sp.csr_array,
    "coo of ints": lambda x: sp.coo_array(x.astype(int)),
    "csc of float32": lambda x: sp.csc_matrix(x.astype(np.float32)),
    "lil of booleans": lambda x: sp.lil_array(x > 0),
}
#: what takes samples, and what takes a vector; each gives an array
SAMPLES = {
    "net(X)": lambda x: NET(x),
    "fields": lambda x: NET.fields(x).outputs,
    "train": lambda x: of.train(NET, x, Y, steps=2).network(X),
    "predict": lambda x: of.train(NET, X, Y, steps=2).predict(x),
    "Gram": lambda x: of.Gram(x).todense(),
    "as_operator": lambda x: of.as_operator(x).todense(),
    "HeldOutLoss": lambda x: of.train(
        NET, X, Y, steps=1, observe=[of.observe.HeldOutLoss(x, Y)]
    ).observations["held_out_loss"],
}
VECTORS = {
    "train": lambda y: of.train(NET, X, y, steps=2).losses,
    "K @ y": lambda y: K @ y,
    "K.matvec": lambda y: K.matvec(y),
    "Gram(weights=)": lambda y: of.Gram(X.T, weights=y).todense(),
    "solve": lambda y: of.spectral.solve(K, y, 1.0).x,
    "expm": lambda y: of.spectral.expm(K, y, 0.5),
    "alignment": lambda y: float(of.spectral.alignment(K, y)),
    "projections": lambda y: of.spectral.projections(np.eye(N), y),
    "lanczos": lambda y: of.spectral.lanczos(K, 3, y)[0],
    "kernel_regression": lambda y: of.spectral.kernel_regression(K, y, 1.0).coefficients,
    "posterior": lambda y: of.spectral.posterior(K, y, 1.0).coefficients,
    "sqrtm": lambda y: of.spectral.sqrtm(K, y),
    "eigsh(start=)": lambda y: (
        of.spectral.eigsh(
            K, 2, start=np.array(y)[:, None] if isinstance(y, list | tuple) else y, method="lanczos"
        ).eigenvalues
    ),
    "HeldOutLoss": lambda y: of.train(
        NET, X, Y, steps=1, observe=[of.observe.HeldOutLoss(X, y)]
    ).observations["held_out_loss"],
    "kernel_velocity": lambda y: of.kernel_velocity(
        NET.fields(X), np.reshape(y, (N, 1)) if isinstance(y, list | tuple) else y
    ).todense(),
}


@pytest.mark.parametrize("kind", [*EXACT, "mixed columns"])
@pytest.mark.parametrize("entry", SAMPLES)
def test_samples_in_any_form_give_the_same(entry, kind):
    if kind == "mixed columns":
        data = _mixed(X)
        plain = np.column_stack([X[:, 0], X[:, 1] > 0, X[:, 2]])
    else:
        data, plain = EXACT[kind](X), X
    expected = SAMPLES[entry](plain)
    narrow = kind in ("float32", "float16", "torch float32")
    wide = not narrow or entry not in ("Gram", "as_operator")
    got = SAMPLES[entry](data)
    assert got.dtype == (expected.dtype if wide else np.float32)
    np.testing.assert_allclose(got, expected, rtol=1e-13 if wide else 1e-5)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("entry", VECTORS)
def test_vectors_in_any_form_give_the_same(entry, kind):
    got, expected = (np.asarray(VECTORS[entry](y)) for y in (EXACT[kind](Y), Y))
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("entry", SAMPLES)
def test_sparse_samples_of_any_dtype_give_the_same(entry, kind):
    data = SPARSE[kind](X)
    got, expected = SAMPLES[entry](data), SAMPLES[entry](data.toarray().astype(np.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-5 if got.dtype == "f" else 1e-12, atol=1e-13)


def test_booleans_are_zeros_and_ones():
    np.testing.assert_array_equal(K @ (Y > 0), K @ Y)
    np.testing.assert_array_equal(NET(X > 0), NET((X > 0).astype(float)))
    run = of.train(NET, X, Y > 0, steps=1)
    assert run.losses[0] == of.train(NET, X, Y, steps=1).losses[0]


@pytest.mark.parametrize("labels", [Y > 0, Y, Y.astype(np.uint8), Y.astype(int).tolist()])
def test_labels_are_whole_numbers_in_any_form(labels):
    wide = of.ReLUNetwork.random([D, 6], outputs=2, seed=0)
    observed = [of.observe.Accuracy(X, labels)]
    run = of.train(wide, X, np.eye(2)[Y.astype(int)], steps=1, observe=observed)
    assert run.observations["accuracy"][0] == np.mean(wide(X).argmax(axis=1) == Y)


#: what loses digits in float32: the argument, and the call
ROUNDED = {
    "net(X)": ("X", lambda: NARROW(X / 3)),
    "fields": ("X", lambda: NARROW.fields(X / 3)),
    "train X": ("X", lambda: of.train(NARROW, X / 3, Y, steps=1)),
    "train y": ("y", lambda: of.train(NARROW, X, Y / 3, steps=1)),
    "predict": ("X", lambda: of.train(NARROW, X, Y, steps=1).predict(X / 3)),
    "sparse": ("X", lambda: NARROW(sp.csr_array(X / 3))),
    "solve": ("b", lambda: of.spectral.solve(K32, Y / 3)),
    "expm": ("r", lambda: of.spectral.expm(K32, Y / 3, 1.0)),
    "alignment": ("y", lambda: of.spectral.alignment(K32, Y / 3)),
    "weights": ("weights", lambda: of.Gram(np.eye(N, dtype="f"), weights=Y / 3)),
    "integers in float32": ("the operand", lambda: K32 @ np.full(N, 2**24 + 1)),
    "integers in float64": ("data", lambda: of.Gram(np.full((2, 2), 2**53 + 1))),
    "Python integers": ("the operand", lambda: K @ np.full(N, 2**70 + 1, dtype=object)),
}


@pytest.mark.parametrize("entry", ROUNDED)
def test_lost_digits_are_said_once_with_the_argument_and_the_remedy(entry):
    name, call = ROUNDED[entry]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    texts = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert len(texts) == 1, texts
    assert texts[0].startswith(f"{name} is ") and " is rounded to the float" in texts[0]
    assert all(w.filename == __file__ for w in caught)


@pytest.mark.parametrize("call", [lambda: NARROW(X), lambda: of.train(NARROW, X, Y, steps=1)])
def test_float64_that_float32_holds_is_taken_without_a_word(call):
    call()  # warnings are errors here


def test_nothing_is_copied_that_is_right():
    assert of.as_operator(X).data is X
    assert of.observe.HeldOutLoss(X, Y[:, None]).targets.base is Y


#: what cannot be a number, and the sentence
REFUSED = {
    "text": (lambda x: x.astype(str), TypeError, "text"),
    "complex": (lambda x: x + 0j, TypeError, "complex"),
    "longdouble": (lambda x: x.astype(np.longdouble), TypeError, "no other precision"),
    "None": (lambda x: np.where(x > 99, x, None), TypeError, "missing values"),
    "dates": (lambda x: x.astype("M8[s]"), TypeError, "dates"),
    "NaN": (lambda x: x * np.nan, ValueError, "NaN"),
    "beyond float64": (lambda x: [10**400] * len(x), (TypeError, ValueError, OverflowError), None),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("entry", ["net", "train", "solve", "product"])
def test_what_is_no_number_is_one_sentence(entry, kind):
    make, error, words = REFUSED[kind]
    if entry == "product" and kind in ("complex", "NaN"):
        return  # complex vectors are multiplied by parts, and NaN goes through a product
    if entry == "net" and kind == "NaN":
        data, call = make(X), lambda x: NET(x)
    else:
        data = make(X if entry == "net" else Y)
        call = {
            "net": lambda x: NET(x),
            "train": lambda y: of.train(NET, X, y, steps=1),
            "solve": lambda y: of.spectral.solve(K, y),
            "product": lambda y: K @ y,
        }[entry]
    with pytest.raises(error, match=words) as caught:
        call(data)
    assert "\n" not in str(caught.value)


def test_numbers_beyond_float32_are_refused():
    with pytest.raises(ValueError, match="X has numbers beyond the range of float32"):
        NARROW(X * 1e300)


class Rows:
    """Rows on disk."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.read = data, data.shape, data.dtype, 0

    def __getitem__(self, index):
        self.read += 1
        return self.data[index]


def _mapped(tmp_path, data):
    mapped = np.memmap(tmp_path / "x.bin", dtype=data.dtype, mode="w+", shape=data.shape)
    mapped[:] = data
    return mapped


@pytest.mark.parametrize("dtype", ["f4", "i4", "f2", "?"])
@pytest.mark.parametrize("entry", ["net(X)", "fields", "train", "predict"])
def test_rows_on_disk_of_another_dtype_are_not_read_but_told_what_to_do(entry, dtype, tmp_path):
    rows = Rows(X.astype(dtype))
    remedy = r"X is .* read by rows, .* numpy\.asarray\(X\[:\], dtype='float64'\)"
    with pytest.raises(TypeError, match=remedy):
        SAMPLES[entry](rows)
    assert rows.read == 0
    mapped = _mapped(tmp_path, X.astype(dtype))
    with pytest.raises(TypeError, match=remedy):
        SAMPLES[entry](mapped)
    loaded = np.asarray(mapped[:], dtype="float64")
    np.testing.assert_array_equal(SAMPLES[entry](loaded), SAMPLES[entry](X.astype(dtype)))


def test_rows_of_integers_are_no_operator_but_told_what_to_do():
    with pytest.raises(TypeError, match="data is int64, read by rows"):
        of.Gram(Rows(X.astype(int)))


def test_an_operator_gives_entries_and_is_yet_no_rows_on_disk(tmp_path):
    op = of.as_operator(X)
    np.testing.assert_array_equal(NET(op), NET(X))
    first, other = (of.train(NET, of.as_operator(x), Y, steps=1) for x in (X, -X))
    assert first.losses[1] != other.losses[1]
    of.train(NET, op, Y, steps=1, checkpoint=tmp_path / "run")
    of.train(NET, op, Y, steps=2, checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="X"):
        of.train(NET, of.as_operator(X + 1), Y, steps=2, checkpoint=tmp_path / "run", resume=True)


def test_public_names_alone_are_listed():
    import opflow.plot
    from opflow.relu import hierarchy

    for module in (of.spectral, of.observe, hierarchy, opflow.plot):
        assert dir(module) == sorted(module.__all__)
