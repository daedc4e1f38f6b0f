"""Observers of the moving kernel, against dense references; decay of modes in the lazy regime."""

import pickle

import numpy as np
import pytest
import scipy.linalg

import opflow as of


def data(n=30, d=4, k=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.tanh(X @ rng.standard_normal((d, k)))


def lazy(net, size):
    """Twice the units with opposite readouts, f = 0, and a readout so large that none moves."""
    top = len(net.weights) - 1
    weights = [np.concatenate([net.weights[0], net.weights[0]]), *net.weights[1:]]
    if top:
        below = [np.kron(np.eye(2), W) for W in net.weights[1:]]
        weights = [weights[0], *below]
    readout = size * np.concatenate([net.readout, -net.readout], axis=1)
    return of.ReLUNetwork(weights, readout)


@pytest.mark.parametrize("widths", [[40], [30, 20]])
def test_modes_decay_as_exponentials_in_the_lazy_regime(widths):
    X, y = data()
    net = lazy(of.ReLUNetwork.random([4, *widths], seed=0), 1e6)
    K = of.collective_kernel(net.fields(X))
    top = of.observe.TopEigenpairs(8)
    times = np.linspace(0, 3, 7)[1:] / of.spectral.eigsh(K, 3).eigenvalues[-1]
    run = of.train(net, X, y, method=of.ExponentialFlow(tol=1e-10), times=times,
                   observe=[top, top.modes, top.angles])  # fmt: skip
    modes, values = run.observations["modes"], run.observations["eigenvalues"]
    expected = modes[0] * np.exp(-np.multiply.outer(run.times, values[0]))
    assert abs(modes[0]).min() > 1e-3 * np.linalg.norm(y)
    np.testing.assert_allclose(modes, expected, atol=1e-6 * np.linalg.norm(y))
    np.testing.assert_allclose(values, np.tile(values[0], (len(values), 1)), rtol=1e-6)
    assert run.observations["eigenvector_angles"].max() < 1e-3


def test_modes_depart_from_exponentials_where_the_kernel_moves():
    X, y = data()
    net = lazy(of.ReLUNetwork.random([4, 40], seed=0), 0.3)
    top = of.observe.TopEigenpairs(4)
    run = of.train(net, X, y, method=of.ExponentialFlow(tol=1e-6), times=[1.0, 2.0],
                   observe=[top, top.modes, top.angles])  # fmt: skip
    modes, values = run.observations["modes"], run.observations["eigenvalues"]
    expected = modes[0] * np.exp(-np.multiply.outer(run.times, values[0]))
    assert abs(modes - expected).max() > 1e-2 * np.linalg.norm(y)
    assert run.observations["eigenvector_angles"][-1].max() > 1e-2


@pytest.mark.parametrize("outputs", [1, 2])
def test_pairs_and_angles_are_those_of_the_dense_kernel(outputs):
    X, y = data(k=outputs)
    seen = []

    def dense(moment):
        seen.append((moment.kernel.todense(), moment.residual.ravel().copy()))
        return 0.0

    top = of.observe.TopEigenpairs(3)
    run = of.train(of.ReLUNetwork.random([4, 9, 8], outputs=outputs, seed=0), X, y, steps=6,
                   every=3, observe={"top": top, "angles": top.angles, "modes": top.modes,
                                     "dense": dense})  # fmt: skip
    first = np.linalg.eigh(seen[0][0])[1][:, :-4:-1]
    for i, (K, r) in enumerate(seen):
        values, vectors = np.linalg.eigh(K)
        np.testing.assert_allclose(run.observations["top"][i], values[:-4:-1], rtol=1e-10)
        angles = np.sort(scipy.linalg.subspace_angles(first, vectors[:, :-4:-1]))
        np.testing.assert_allclose(run.observations["angles"][i], angles, atol=1e-7)
        np.testing.assert_allclose(abs(run.observations["modes"][i]), abs(first.T @ r), atol=1e-8)


def test_tracking_takes_fewer_products_than_searching_anew():
    X, y = data(1300, d=30)
    net = of.ReLUNetwork.random([30, 60], seed=0)
    top, products = of.observe.TopEigenpairs(6, tol=1e-6), []
    of.train(
        net,
        X,
        y,
        steps=3,
        method=of.GradientDescent(1e-6),
        observe=[top, lambda m: products.append(top.pairs.products) or 0.0],
    )
    assert max(products[1:]) < 0.8 * products[0]


@pytest.mark.parametrize("eliminate", [False, True])
def test_sharpness_and_distance_on_either_route(eliminate):
    X, y = data(d=50)
    seen = []
    run = of.train(of.ReLUNetwork.random([50, 9, 8], seed=0), X, y, steps=8, eliminate=eliminate,
                   observe=[of.observe.Sharpness(tol=1e-10, steps=40),
                            of.observe.KernelDistance(probes=4000),
                            lambda m: seen.append(m.kernel.todense()) or 0.0])  # fmt: skip
    sharpness = [np.linalg.eigvalsh(K)[-1] for K in seen]
    np.testing.assert_allclose(run.observations["sharpness"], sharpness, rtol=1e-9)
    distance = [np.linalg.norm(K - seen[0]) / np.linalg.norm(seen[0]) for K in seen]
    assert distance[-1] > 1e-2
    np.testing.assert_allclose(run.observations["kernel_distance"], distance, rtol=0.1)


@pytest.mark.parametrize("options", [{}, {"eliminate": True}, {"loss": "mean"}], ids=str)
@pytest.mark.parametrize("objective", ["quadratic", "cross-entropy"])
def test_hessian_eigenvalues_are_those_of_the_dense_matrix(objective, options):
    X, y = data(d=50, k=2)
    if objective == "cross-entropy":
        y = y.argmax(axis=1)
    seen = []

    def dense(moment):
        H = of.hessian(moment.network.fields(X), y, objective).todense()
        seen.append(np.linalg.eigvalsh(H)[[-1, -2, 1, 0]])
        return 0.0

    run = of.train(of.ReLUNetwork.random([50, 9, 8], outputs=2, seed=0), X, y, steps=4,
                   objective=objective, **options,
                   observe=[of.observe.HessianEigenvalues(2, tol=1e-9), dense])  # fmt: skip
    share = 1 / 30 if "loss" in options else 1.0
    seen = share * np.array(seen)
    assert (seen[:, -1] < -1e-3 * seen[:, 0]).all()
    np.testing.assert_allclose(run.observations["hessian_eigenvalues"], seen, rtol=1e-6)


def test_hessian_eigenvalues_of_what_has_no_hessian_are_refused():
    X, y = data()
    net, ends = of.ReLUNetwork.random([4, 9, 8], seed=0), [of.observe.HessianEigenvalues()]
    with pytest.raises(ValueError, match="of a linearised model Sharpness"):
        of.train(net, X, y, times=[0.1], method=of.LinearisedFlow(), observe=ends)
    with pytest.raises(ValueError, match="it has no weights on X"):
        of.train(net, X, y, steps=1, gram=lambda A, B: A @ B.T, observe=ends)
    with pytest.raises(ValueError, match="know X as a Gram"):
        of.train(of.ReLUNetwork.random([30, 9, 8], seed=0), None, y, steps=1, gram=X @ X.T,
                 observe=ends)  # fmt: skip


def test_a_run_of_the_mean_loss_measures_what_it_descends():
    X, y = data()
    net = of.ReLUNetwork.random([4, 9], seed=0)
    run = of.train(net, X, y, steps=1, loss="mean",
                   observe=[of.observe.Sharpness()])  # fmt: skip
    top = np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[-1]
    assert run.observations["sharpness"][0] == pytest.approx(top / 30, rel=1e-3)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("eliminate", [False, True])
def test_alignments_are_those_of_the_dense_kernels(outputs, eliminate):
    X, y = data(d=50, k=outputs)
    seen = []

    def dense(moment):
        kernels = [moment.kernel, *moment.layer_kernels]
        seen.append(([K.todense() for K in kernels], moment.residual.ravel().copy()))
        return 0.0

    run = of.train(of.ReLUNetwork.random([50, 9, 8], outputs=outputs, seed=0), X, y, steps=4,
                   observe={"y": of.observe.Alignment(), "dense": dense,
                            "r": of.observe.Alignment(residual=True)},
                   eliminate=eliminate)  # fmt: skip
    for i, (kernels, r) in enumerate(seen):
        np.testing.assert_allclose(kernels[0], sum(kernels[1:]), atol=1e-12)
        for name, v in (("y", y.ravel()), ("r", r)):
            expected = [v @ K @ v / np.linalg.norm(K) / (v @ v) for K in kernels]
            np.testing.assert_allclose(run.observations[name][i], expected, rtol=1e-10)


@pytest.mark.parametrize("log", [False, True])
def test_the_spectrum_is_the_broadened_one_on_one_grid(log):
    X, y = data()
    seen = []
    spectrum = of.observe.Spectrum(points=60, log=log)
    run = of.train(of.ReLUNetwork.random([4, 9, 8], seed=0), X, y, steps=6, every=3,
                   observe=[spectrum, lambda m: seen.append(m.kernel.todense()) or 0.])  # fmt: skip
    place = np.log10 if log else np.asarray
    for values, K in zip(run.observations["spectrum"], seen, strict=True):
        eigenvalues = np.linalg.eigvalsh(K)
        eigenvalues = eigenvalues[eigenvalues > 1e-10 * eigenvalues[-1]]
        away = (place(spectrum.grid)[:, None] - place(eigenvalues)) / spectrum.width
        expected = np.exp(-0.5 * away**2).sum(axis=1) / (30 * spectrum.width * (2 * np.pi) ** 0.5)
        np.testing.assert_allclose(values, expected, atol=1e-6 * expected.max())
    own = of.observe.Spectrum([1.0, 2.0])
    run = of.train(of.ReLUNetwork.random([4, 9], seed=0), X, y, steps=1, observe=[own])
    assert run.observations["spectrum"].shape == (2, 2)


def test_a_resumed_run_observes_as_if_it_had_not_stopped(tmp_path):
    X, y = data()
    net = of.ReLUNetwork.random([4, 9, 8], seed=0)

    def observers():
        top = of.observe.TopEigenpairs(3)
        return [top, top.angles, top.modes, of.observe.KernelDistance(), of.observe.Sharpness(),
                of.observe.Spectrum(), of.observe.Alignment(),
                of.observe.HessianEigenvalues()]  # fmt: skip

    whole = of.train(net, X, y, steps=6, observe=observers())
    path = of.Checkpoint(tmp_path / "run.npz", steps=3)
    of.train(net, X, y, steps=3, observe=observers(), checkpoint=path)
    resumed = of.train(net, X, y, steps=6, observe=observers(), checkpoint=path, resume=True)
    assert set(whole.observations) == set(resumed.observations) and len(whole.observations) == 8
    for name, values in whole.observations.items():
        np.testing.assert_array_equal(resumed.observations[name], values, err_msg=name)


def test_observers_serve_one_run_after_another_and_pickle():
    top, spectrum = of.observe.TopEigenpairs(2), of.observe.Spectrum(points=20)
    for n in (30, 20):
        X, y = data(n)
        run = of.train(of.ReLUNetwork.random([4, 9], seed=0), X, y, steps=1,
                       observe=[top, top.angles, spectrum])  # fmt: skip
        assert run.observations["eigenvector_angles"][0].max() < 1e-7
    fresh = of.observe.Spectrum(points=20)
    alone = of.train(of.ReLUNetwork.random([4, 9], seed=0), X, y, steps=1, observe=[fresh])
    np.testing.assert_array_equal(run.observations["spectrum"], alone.observations["spectrum"])
    assert pickle.loads(pickle.dumps(top)).k == 2


def test_alignment_with_nothing_is_not_a_number():
    X, y = data()
    net = of.ReLUNetwork.random([4, 9], seed=0)
    cases = {"fitted": (net(X), {"residual": True}), "constant": (0 * y + 1, {"centred": True}),
             "zero": (0 * y, {})}  # fmt: skip
    for targets, options in cases.values():
        run = of.train(net, X, targets, steps=0, observe=[of.observe.Alignment(**options)])
        assert np.isnan(run.observations["alignment"]).all()


def test_observers_check_their_arguments():
    with pytest.raises(ValueError, match="k must be at least 1"):
        of.observe.TopEigenpairs(0)
    with pytest.raises(TypeError, match="probes must be an integer"):
        of.observe.KernelDistance(2.5)
    X, y = data(3)
    with pytest.raises(ValueError, match="k must be between 1 and 3, not 4"):
        of.train(of.ReLUNetwork.random([4, 9], seed=0), X, y, steps=1,
                 observe=[of.observe.TopEigenpairs(4)])  # fmt: skip
