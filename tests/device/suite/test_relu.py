"""Fields, kernels and the hierarchy on device arrays equal those on the host."""

import itertools

import cupy
import numpy as np
import pytest

import opflow as of
from opflow.machine.arrays import module_name, to_host
from opflow.machine.workspace import operator_module
from opflow.relu.jacobian import ROUTES
from tests.device.counting import transfers
from tests.device.suite.sides import agree, problem, put
from tests.operators.battery import small_blocks

CASES = [
    {"depth": depth, "outputs": outputs, "bias": bias, "sparse": sparse, "dtype": dtype}
    for depth, outputs, bias, sparse, dtype in itertools.product(
        (1, 2, 3), (1, 3), (False, True), (False, True), (np.float64, np.float32)
    )
    if dtype == np.float64 or (depth == 2 and bias)
]
#: all in many row blocks, some in one as well
in_blocks = pytest.mark.parametrize(
    "workspace, case",
    [
        pytest.param(size, case, id="-".join(map(str, (size, *case.values()))))
        for size in (100, 8 << 20)
        for case in CASES
        if size == 100 or (case["depth"] == 2 and case["dtype"] == np.float64)
    ],
)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))


def both(case, **options):
    net, X, y = problem(**case)
    return net.fields(X, **options), net.to("gpu").fields(put(X), **options), put(y), y


def same_products(device: of.Operator, host: of.Operator, entries: bool = True) -> None:
    """Products, adjoint products and, if `entries`, what blocks give, without a transfer."""
    rng = np.random.default_rng(1)
    assert device.shape == host.shape
    assert operator_module(device) in ("cupy", None)
    x, y = (rng.standard_normal((n, 2)).astype(host.dtype) for n in reversed(host.shape))
    X, Y = put(x), put(y)
    with transfers() as made:
        results = [device @ X, device.T @ Y, device @ X[:, 0]]
        if entries:
            results.append(device.todense())
        if entries and host.shape[0] == host.shape[1]:
            results.append(device.diagonal())
    assert not made
    wanted = [host @ x, host.T @ y, host @ x[:, 0]]
    if entries:
        wanted.append(host.todense())
    if entries and host.shape[0] == host.shape[1]:
        wanted.append(host.diagonal())
    for got, want in zip(results, wanted, strict=True):
        if operator_module(device) is None:
            got = put(to_host(got))
        agree(got, want)


@in_blocks
@pytest.mark.parametrize("storage", ["cached", "packed", "recomputed"])
def test_fields(case, storage, workspace) -> None:
    with small_blocks(workspace):
        host, device, _, _ = both(case, storage=storage)
        with transfers() as made:
            found = [*device.activations, *device.gates, *device.conjugates, *device.preactivations,
                     device.outputs]  # fmt: skip
        assert not made
        wanted = [*host.activations, *host.gates, *host.conjugates, *host.preactivations,
                  host.outputs]  # fmt: skip
        for got, want in zip(found, wanted, strict=True):
            agree(got, want)
        agree(device.network(device.inputs), host.network(host.inputs))


@in_blocks
def test_kernels(case, workspace) -> None:
    with small_blocks(workspace):
        host, device, _, _ = both(case)
        for route in ROUTES:
            same_products(of.collective_kernel(device, route=route),
                          of.collective_kernel(host, route=route))  # fmt: skip
            jacobians = [of.jacobian(fields, route=route) for fields in (device, host)]
            same_products(*jacobians)
            same_products(*(of.kfac(J) for J in jacobians))
            same_products(*(of.kfac(J, 0.5) for J in jacobians))
        y = np.ones((host.samples, host.network.outputs), dtype=host.network.dtype)
        hessians = of.hessian(device, put(y), "huber"), of.hessian(host, y, "huber")
        same_products(*hessians, entries=workspace > 100)  # each is a product of many small blocks
        for got, want in zip(of.layer_kernels(device), of.layer_kernels(host), strict=True):
            same_products(got, want)
        same_products(of.cross_kernel(device, device), of.cross_kernel(host, host))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_kernels_of_infinite_width(kernel, dtype) -> None:
    net, X, y = problem(bias=True, dtype=dtype)
    X[1], X[2], X[3] = X[0], -X[0], 0
    variances = [2.0, 1.0, 0.5]
    host = of.infinite_width(net, X, kernel=kernel, variances=variances)
    device = of.infinite_width(net.to("gpu"), put(X), kernel=kernel, variances=variances)
    for workspace in (100, 8 << 20):
        with small_blocks(workspace):
            same_products(device, host)
    if kernel == "ntk" and dtype == np.float64:
        run, same = (
            of.train(net.to(place), rows, targets, steps=3, gram=gram)
            for place, rows, targets, gram in (("gpu", put(X), put(y), device), ("cpu", X, y, host))
        )
        agree(run.predict(put(X[:2])), same.predict(X[:2]), 1e5)


@each_case
@pytest.mark.parametrize("storage", ["packed", "recomputed"])
def test_kernels_of_fields_held_in_part(case, storage) -> None:
    host, device, _, _ = both(case, storage=storage)
    same_products(of.collective_kernel(device), of.collective_kernel(host))


@each_case
@pytest.mark.parametrize("how", ["factored", "gram", "tiled", "dense", "packed"])
def test_kernels_evaluated(case, how) -> None:
    host, device, _, _ = both(case)
    same_products(
        of.materialise(of.collective_kernel(device, route="cached"), how=how),
        of.materialise(of.collective_kernel(host, route="cached"), how=how),
    )


def test_materialise_prices_device_operators_by_shape() -> None:
    host, device, _, _ = both({})
    K, D = of.collective_kernel(host), of.collective_kernel(device)
    assert of.candidates(D, 100) == of.candidates(K, 100)
    assert type(of.materialise(D, products=100)) is type(of.materialise(K, products=100))


def test_packed_competes_with_a_dense_matrix_that_fits_on_the_host_only() -> None:
    F = np.ones((3000, 3))
    ways = [{form.how for form in of.candidates(of.Gram(A), 9, 8, "1GB")} for A in (F, put(F))]
    assert ways[0] - ways[1] == {"packed"} and "dense" in ways[1]


@each_case
def test_the_hierarchy(case) -> None:
    host, device, _, _ = both(case)
    depth = host.network.depth
    for order in (0, 1, None):
        same_products(of.hierarchy.field_velocities(device, order),
                      of.hierarchy.field_velocities(host, order))  # fmt: skip
        for layer in range(1, depth + 1):
            same_products(of.hierarchy.hidden_velocity(device, layer, order),
                          of.hierarchy.hidden_velocity(host, layer, order))  # fmt: skip
            same_products(of.hierarchy.conjugate_velocity(device, layer, order),
                          of.hierarchy.conjugate_velocity(host, layer, order))  # fmt: skip
    if depth == 1:
        return
    for augmented in (False, True):
        same_products(of.hierarchy.pullback(device, 1, depth, 0, 1, augmented=augmented),
                      of.hierarchy.pullback(host, 1, depth, 0, 1, augmented=augmented))  # fmt: skip
    same_products(of.hierarchy.pushforward(device, depth, 1, 0, 1),
                  of.hierarchy.pushforward(host, depth, 1, 0, 1))  # fmt: skip
    for top in (None, 2):
        got, want = (of.hierarchy.members(f, [(0, 0), (0, 1)], top=top) for f in (device, host))
        tolerance = 1e3 * np.finfo(host.network.dtype).eps
        np.testing.assert_allclose(got.norms, want.norms, rtol=tolerance)
        np.testing.assert_allclose(got.traces, want.traces, atol=tolerance * want.norms.max())
    assert of.hierarchy.field_errors(device, device) == (0.0, 0.0)


def test_a_step_of_either_recursion_takes_arrays() -> None:
    rng = np.random.default_rng(0)
    B, J, J2 = rng.standard_normal((3, 3)), *rng.standard_normal((2, 3, 4))
    same_products(of.pullback(put(B), put(J), put(J2)), of.pullback(B, J, J2))
    same_products(of.pushforward(put(B), put(J.T), put(J2.T)), of.pushforward(B, J.T, J2.T))


@each_case
def test_motion_and_features(case) -> None:
    host, device, r, r_host = both(case)
    same_products(of.kernel_velocity(device, r), of.kernel_velocity(host, r_host))
    for got, want in zip(of.layer_kernel_velocities(device, r),
                         of.layer_kernel_velocities(host, r_host), strict=True):  # fmt: skip
        same_products(got.activations, want.activations)
        same_products(got.conjugates, want.conjugates)
    tolerance = 1e4 * float(np.finfo(host.network.dtype).eps)
    for layer in range(1, host.network.depth + 1):
        for side in ("input", "output"):
            same_products(of.weight_gram_velocity(device, layer, r, side),
                          of.weight_gram_velocity(host, layer, r_host, side))  # fmt: skip
        same_products(of.features.agop(device, layer), of.features.agop(host, layer))
        for centred in (False, True):
            got, want = (of.features.feature_ansatz(f, layer, centred=centred)
                         for f in (device, host))  # fmt: skip
            assert got == pytest.approx(want, rel=tolerance)
        got = of.features.target_linearity(device, r, layer)
        assert got == pytest.approx(
            of.features.target_linearity(host, r_host, layer), abs=tolerance
        )


def test_a_network_moves_on_request_and_back() -> None:
    net = problem(bias=True)[0]
    with transfers() as made:
        there = net.to("gpu")
    assert all(t.kind == "to device" for t in made)
    assert module_name(there.weights[0]) == module_name(there.readout) == "cupy"
    assert there.to("gpu").weights[0] is there.weights[0]
    back = there.to("cpu")
    for got, want in zip((*back.weights, *back.biases, back.readout),
                         (*net.weights, *net.biases, net.readout), strict=True):  # fmt: skip
        assert isinstance(got, np.ndarray)
        assert (got == want).all()
    assert (back.rates, back.widths) == (net.rates, net.widths)
    with pytest.raises(ValueError, match="'cpu' or 'gpu', not 'tpu'"):
        net.to("tpu")


@pytest.mark.parametrize("sparse", [False, True])
def test_operands_on_both_sides_are_an_error_that_says_which_is_where(sparse) -> None:
    net, X, y = problem(sparse=sparse)
    there, X_there = net.to("gpu"), put(X)
    device, host = "on the device (cupy)", "on the host (numpy)"
    F = of.Matrix(cupy.ones((3, 2)))
    for mix, first, second in [
        (lambda: there.fields(X), f"of shape (11, 5) is {host}", f"of shape (1, 6) is {device}"),
        (lambda: net.fields(X_there), f"of shape (11, 5) is {device}",
         f"of shape (1, 6) is {host}"),
        (lambda: F @ np.ones(2), f"Matrix of shape (3, 2) is {device}", f"of shape (2,) is {host}"),
        (lambda: F.T @ np.ones((3, 1)), f"is {device}", f"of shape (3, 1) is {host}"),
        (lambda: of.Matrix(np.ones((3, 2))) @ cupy.ones(2), f"Matrix of shape (3, 2) is {host}",
         f"of shape (2,) is {device}"),
        (lambda: F + np.ones((3, 2)), f"is {device}", f"of shape (3, 2) is {host}"),
        (lambda: of.Gram(F, np.ones(2)), f"is {device}", f"of shape (2,) is {host}"),
        (lambda: of.KhatriRao(F, np.ones((3, 2))), f"is {device}", f"is {host}"),
        (lambda: of.Hadamard(F, np.ones((3, 2))), f"is {device}", f"is {host}"),
        (lambda: of.Mask([True, False, True]) @ F, f"Mask of shape (3, 3) is {host}", device),
        (lambda: of.collective_kernel(there.fields(X_there)) @ y, f"is {device}", f"is {host}"),
        (lambda: of.Gram(np.ones((3, 2))).block(cupy.arange(2), [0]), f"is {host}", device),
        (lambda: of.train(there, X_there, y, steps=1), f"of shape (11, 1) is {host}", device),
        (lambda: of.ReLUNetwork(net.weights, there.readout), host, device),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match="host and device operands do not mix") as error:
            mix()
        assert first in str(error.value)
        assert second in str(error.value)


def test_operators_without_data_follow_those_with() -> None:
    F = cupy.ones((3, 2))
    for op in (of.Gram(F) + of.Identity(3), of.Gram(F) - 2 * of.Identity(3) + of.Zero(3),
               of.Hadamard(of.Gram(F), of.Identity(3)), of.Identity(3) + of.Gram(F),
               of.HStack([of.Identity(3), of.Matrix(F)])):  # fmt: skip
        with transfers() as made:
            assert module_name(op.todense()) == "cupy"
        assert not made
