"""Bad input is refused at construction, and the message names the argument."""

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of

F, W, g = np.ones((4, 3)), np.ones((4, 3)), np.ones((4, 3), dtype=bool)

BAD_DTYPES = {
    "complex": (np.ones((4, 3), dtype=complex), "complex128.*complex"),
    "longdouble": (np.ones((4, 3), dtype=np.longdouble), "longdouble|float128"),
    "object": (np.full((4, 3), None), "object.*missing values"),
    "text": (np.full((4, 3), "a"), "<U1.*text"),
    "dates": (np.full((4, 3), "2020-01-01", dtype="M8[D]"), "datetime64.*dates"),
    "sparse complex": (sp.csr_matrix(np.ones((4, 3), dtype=complex)), "complex128"),
}
COUNTS = np.arange(12).reshape(4, 3) % 5
EXACT = {
    "int": COUNTS,
    "uint8": COUNTS.astype(np.uint8),
    "bool": COUNTS > 1,
    "objects": COUNTS.astype(object),
    "sparse int": sp.csr_matrix(COUNTS),
    "sparse bool": sp.coo_array(COUNTS > 1),
    "lists": COUNTS.tolist(),
}
MAKERS = [
    (of.Matrix, "data"),
    (of.Weight, "W"),
    (of.Gram, "data"),
    (lambda x: of.KhatriRao(x, F), "data"),
    (lambda x: of.KhatriRao(F, x), "data"),
    (lambda x: of.Hadamard(F, x), "data"),
    (lambda x: of.SampleLift(x, 2), "data"),
    (lambda x: of.FeatureLift(x, 2), "data"),
    (lambda x: of.pullback(of.Identity(4), x), "data"),
    (lambda x: of.WeightGram(x, [True] * 4), "data"),
]


@pytest.mark.parametrize("data", BAD_DTYPES)
@pytest.mark.parametrize(
    "make, name",
    [*MAKERS, (lambda x: of.Matrix(F) + x, "data"), (lambda x: of.Gram(F, x), "weights")],
)
def test_data_must_be_real_floats(make, name, data):
    value, reason = BAD_DTYPES[data]
    with pytest.raises(TypeError, match=f"{name} must be float32 or float64, not .*({reason})"):
        make(value)


@pytest.mark.parametrize("data", EXACT)
@pytest.mark.parametrize("make", [make for make, _ in MAKERS])
def test_what_is_exact_in_float64_is_converted(make, data):
    value = EXACT[data]
    plain = np.asarray(value.toarray() if sp.issparse(value) else value, dtype=np.float64)
    op = make(value)
    assert op.dtype == np.float64
    np.testing.assert_array_equal(op.todense(), make(plain).todense())


@pytest.mark.parametrize("gates", [np.ones((4, 3)), np.ones((4, 3), dtype=int), [[0.0]], [[1, 0]]])
@pytest.mark.parametrize("make, name", [
    (of.PackedGates, "gates"),
    (of.CoActivation, "gates"),
    (of.Mask, "gates"),
    (lambda x: of.WeightGram(W, x), "gates"),
    (lambda x: of.WeightGram(W, g[:, 0], x), "gates2"),
])  # fmt: skip
def test_gates_must_be_boolean(make, name, gates):
    with pytest.raises(TypeError, match=f"{name} must be boolean, not"):
        make(gates)


@pytest.mark.parametrize("make, match", [
    (lambda: of.Matrix(np.ones(3)), r"data must be .*not of shape \(3,\)"),
    (lambda: of.Matrix(np.ones((2, 2, 2))), r"data must be .*\(2, 2, 2\)"),
    (lambda: of.Matrix(np.ones((0, 3))), r"data must be .*\(0, 3\)"),
    (lambda: of.Matrix(np.ones((3, 0))), r"data must be .*\(3, 0\)"),
    (lambda: of.Weight(np.ones((0, 3))), r"W must be .*\(0, 3\)"),
    (lambda: of.Weight(np.ones(3)), r"W must be .*\(3,\)"),
    (lambda: of.Gram(np.ones((3, 0))), r"data must be .*\(3, 0\)"),
    (lambda: of.Gram(F, np.ones(4)), r"weights has shape \(4,\).*3 columns"),
    (lambda: of.Gram(F, np.ones((3, 1))), r"weights has shape \(3, 1\)"),
    (lambda: of.Gram(F, np.array([1, np.inf, 1])), "weights contains"),
    (lambda: of.CoActivation(np.ones((0, 3), dtype=bool)), r"gates .*\(0, 3\)"),
    (lambda: of.CoActivation(np.ones((3, 0), dtype=bool)), r"gates .*\(3, 0\)"),
    (lambda: of.CoActivation(np.ones(3, dtype=bool)), r"gates .*\(3,\)"),
    (lambda: of.CoActivation(g, np.ones(4)), r"weights has shape \(4,\)"),
    (lambda: of.Mask(np.ones(0, dtype=bool)), "gates must not be empty"),
    (lambda: of.Identity(0), "n must be at least 1, not 0"),
    (lambda: of.Identity(-2), "n must be at least 1, not -2"),
    (lambda: of.WeightGram(W, [True] * 3), r"gates has shape \(3,\).*4 output units"),
    (lambda: of.WeightGram(W, [True] * 4, [True] * 5), r"gates2 has shape \(5,\)"),
    (lambda: of.SampleLift(W, 0), "samples must be at least 1, not 0"),
    (lambda: of.FeatureLift(W, 0), "features must be at least 1, not 0"),
    (lambda: of.KhatriRao(np.ones((0, 2)), F), r"\(0, 2\)"),
    (lambda: of.KhatriRao(np.ones((4, 0)), F), r"\(4, 0\)"),
    (lambda: of.Matrix(F, symmetric=True), r"\(4, 3\) cannot be symmetric"),
    (lambda: of.pullback(of.Identity(3), F), r"\(3, 3\)"),
    (lambda: of.pushforward(of.Identity(4), F), r"\(4, 4\)"),
])  # fmt: skip
def test_shapes_are_checked_and_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("make, match", [
    (lambda: of.CoActivation(g, np.ones(3), dtype=np.int64), "int64"),
    (lambda: of.Identity(3, dtype=np.int64), "int64"),
    (lambda: of.Mask(g, dtype=np.uint8), "uint8"),
    (lambda: of.Mask(g).astype(np.float16), "float16"),
    (lambda: of.PackedGates(g, dtype=object), "object"),
    (lambda: of.CoActivation(g, dtype=np.float16), "float16"),
    (lambda: of.as_operator("matrix"), "str"),
    (lambda: of.as_operator(None), "NoneType"),
    (lambda: of.Gram(None), "NoneType"),
    (lambda: of.KhatriRao(F, 3), "int"),
    (lambda: of.describe(F), "ndarray"),
])  # fmt: skip
def test_types_are_checked_and_named(make, match):
    with pytest.raises(TypeError, match=match):
        make()


@pytest.mark.parametrize("x", [np.array(["a"] * 3), np.array([None] * 3)])
def test_an_operand_must_be_numeric(x):
    with pytest.raises(TypeError, match="the operand must be float32 or float64"):
        of.Matrix(F) @ x
