"""Everything public that PyLops leaves on an operator is right, or says what to call instead."""

import numpy as np
import pylops
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import opflow as of

F = np.random.default_rng(0).standard_normal((6, 4))
OPERATORS = {
    "square": of.Gram(F) + of.Identity(6),
    "tall": of.Matrix(F),
    "jacobian": of.jacobian(of.ReLUNetwork.random([3, 4], seed=0).fields(F[:, :3])),
}
NO_OPERATOR = (np.ndarray, np.generic, float, int)


def _same(found, wanted):
    if not isinstance(found, NO_OPERATOR) and not sp.issparse(found):
        assert isinstance(found, of.Operator)
    found = found.todense() if hasattr(found, "todense") else found
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-10)


#: what each name gives for an operator and its matrix
VALUES = {
    "H": lambda K, A: _same(K.H, A.T),
    "T": lambda K, A: _same(K.T, A.T),
    "adjoint": lambda K, A: _same(K.adjoint(), A.T),
    "transpose": lambda K, A: _same(K.transpose(), A.T),
    "conj": lambda K, A: _same(K.conj(), A),
    "toreal": lambda K, A: _same(K.toreal(), A),
    "toimag": lambda K, A: _same(K.toimag(), 0 * A),
    "apply_columns": lambda K, A: _same(K.apply_columns([0, 2]), A[:, [0, 2]]),
    "todense": lambda K, A: _same(K.todense(), A),
    "tosparse": lambda K, A: _same(K.tosparse(), A),
    "dot": lambda K, A: _same(K.dot(np.ones(A.shape[1])), A.sum(axis=1)),
    "matvec": lambda K, A: _same(K.matvec(np.ones(A.shape[1])), A.sum(axis=1)),
    "rmatvec": lambda K, A: _same(K.rmatvec(np.ones(len(A))), A.sum(axis=0)),
    "matmat": lambda K, A: _same(K.matmat(np.eye(A.shape[1])), A),
    "rmatmat": lambda K, A: _same(K.rmatmat(np.eye(len(A))), A.T),
    "div": lambda K, A: _same(
        K.div(A.sum(axis=1), niter=200), np.linalg.lstsq(A, A.sum(axis=1), rcond=None)[0]
    ),
    "shape": lambda K, A: _same(np.array(K.shape), A.shape),
    "dtype": lambda K, A: _same(np.zeros(1, K.dtype).itemsize, 8),
    "dims": lambda K, A: _same(int(np.prod(K.dims)), A.shape[1]),
    "dimsd": lambda K, A: _same(int(np.prod(K.dimsd)), len(A)),
}
#: descriptions and counters, which PyLops sets and reads
ALONE = {
    "clinear", "explicit", "forceflat", "name", "matvec_count", "rmatvec_count", "matmat_count",
    "rmatmat_count", "reset_count",
}  # fmt: skip
INSTEAD = {"cond": "condition_number", "eigs": "eigsh"}
SQUARE = {"trace": lambda K, A: _same(K.trace(), np.trace(A))}
PUBLIC = {
    name
    for name in (*dir(pylops.LinearOperator), *dir(pylops.FirstDerivative(3)))
    if not name.startswith("_")
} & set(dir(OPERATORS["square"]))


def test_every_name_is_in_the_table():
    known = {*VALUES, *ALONE, *INSTEAD, *SQUARE}
    assert {n for n in dir(pylops.LinearOperator) if not n.startswith("_")} <= known
    assert known >= PUBLIC


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("name", VALUES)
def test_what_pylops_offers_is_right(name, kind):
    K = OPERATORS[kind]
    VALUES[name](K, K @ np.eye(K.shape[1]))


def test_the_trace_is_exact():
    K = OPERATORS["square"]
    SQUARE["trace"](K, K @ np.eye(6))


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_better_elsewhere_says_where(name):
    with pytest.raises(NotImplementedError, match=INSTEAD[name]) as caught:
        getattr(OPERATORS["square"], name)()
    assert hasattr(of.spectral, INSTEAD[name]) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_descriptions_and_counters_are_there(name):
    found = getattr(OPERATORS["square"], name)
    assert found() is None if name == "reset_count" else not callable(found)


A = np.asarray(OPERATORS["square"])
KEYS = {
    "row": 2,
    "last row": -1,
    "numpy integer": np.int8(3),
    "entry": (1, 4),
    "corner": (slice(3), slice(3)),
    "rows of columns": ([1, 2], slice(1, 5)),
    "column": (slice(None), -2),
    "pairs": ([0, 1, 1], [5, 4, 4]),
    "grid": np.ix_([3, 0], [1, 1, 5]),
    "mask": np.arange(6) > 3,
    "mask of entries": A > 1,
    "backwards": (slice(None, None, -1), slice(4, None, -2)),
    "ellipsis": (..., 1),
    "everything": ...,
    "new axis": (None, 1),
    "nothing": [],
    "empty slice": slice(2, 2),
    "array of two axes": np.array([[0, 1], [5, 0]]),
}


@pytest.mark.parametrize("key", KEYS)
def test_entries_are_those_that_numpy_would_give(key):
    for K in (OPERATORS["square"], OPERATORS["square"].T @ OPERATORS["square"]):
        found, wanted = K[KEYS[key]], K.todense()[KEYS[key]]
        assert type(found) is type(wanted) and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("key", [6, (0, -7), (0, 0, 0), "a", 1.5, [True, False]])
def test_what_is_outside_or_no_index_is_an_index_error(key):
    with pytest.raises(IndexError):
        OPERATORS["square"][key]


def test_large_blocks_are_checked_before_anything_is_formed():
    huge = of.Identity(10**7)
    for key in (slice(None), (slice(None), slice(10**6)), (slice(10**6), slice(10**6))):
        with pytest.raises(MemoryError, match="keep the operator lazy"):
            huge[key]
    np.testing.assert_array_equal(huge[5, 5:8], [1.0, 0.0, 0.0])
    assert huge[10**6, 10**6] == 1.0


def test_entries_may_be_written_to():
    data = np.eye(3)
    of.Matrix(data)[:2][0, 0] = 5.0
    assert data[0, 0] == 1.0


def test_an_operator_is_a_sequence_of_its_rows():
    np.testing.assert_allclose(np.array(list(OPERATORS["square"])), A)


def test_scipy_does_not_form_an_operator_unasked():
    K = OPERATORS["square"]
    of_scipy = spla.aslinearoperator(np.eye(6))
    for product in (lambda: of_scipy @ K, lambda: of_scipy * K, lambda: of_scipy.dot(K)):
        with pytest.raises(TypeError, match=r"as_operator\(scipy_op\) @ op, which stays lazy"):
            product()
    lazy = of.as_operator(of_scipy) @ K
    assert isinstance(lazy, of.Operator) and isinstance(K @ of_scipy, of.Operator)
    np.testing.assert_allclose(lazy.todense(), np.asarray(K))
    assert spla.aslinearoperator(K).shape == K.shape
