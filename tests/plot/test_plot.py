"""Pictures show what they were given, on axes that say what it is."""

import io
import itertools
import sys

import numpy as np
import pytest

import opflow as of
from opflow.machine.workspace import workspace_limit
from opflow.spectral import Estimate

pytest.importorskip("matplotlib")
from opflow import plot


def line(ax, label):
    (found,) = (line for line in ax.lines if line.get_label() == label)
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def titled(ax):
    return bool(ax.get_xlabel() and ax.get_ylabel() and ax.get_title())


class Density(of.spectral.Density):
    """A density of known shape: ρ(λ) = λ on [1, 10], with a band of a tenth."""

    order, width = 1000, 0.1

    def __init__(self, log, null=None):
        self.log, self.null = log, Estimate(0.0) if null is None else null

    def __call__(self, grid):
        return grid.copy()

    def band(self, grid):
        return 0.9 * grid, 1.1 * grid

    def cdf(self, grid):
        return grid / 10

    def cdf_band(self, grid):
        return grid / 20, grid / 5

    def grid(self, points=400):
        return np.geomspace(1, 10, points) if self.log else np.linspace(1, 10, points)


@pytest.mark.parametrize("log", [False, True])
def test_density_draws_curve_and_band(log):
    found = Density(log, Estimate(20, 15, 25, how="x"))
    ax = plot.density(found)
    x, y = line(ax, "density")
    np.testing.assert_array_equal(x, found.grid())
    np.testing.assert_array_equal(y, x)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    assert np.isclose(corners[:, 1].max(), 11) and np.isclose(corners[:, 1].min(), 0.9)
    assert legend(ax) == ["density", "95 % band"] and titled(ax)
    assert ax.get_legend().get_title().get_text() == "20 [15, 25] of 1,000 eigenvalues are zero"
    assert ax.get_xscale() == ("log" if log else "linear")
    assert ax.get_ylabel() == ("density per decade" if log else "density")


def test_cumulative_density_draws_its_own_band_and_takes_a_grid():
    ax = plot.density({"start": Density(False), "end": Density(False)}, cumulative=True,
                      grid=[2.0, 4.0])  # fmt: skip
    np.testing.assert_array_equal(line(ax, "end"), ([2, 4], [0.2, 0.4]))
    assert {c.get_paths()[0].vertices[:, 1].max() for c in ax.collections} == {0.8}
    assert ax.get_ylim() == (0, 1.02) and legend(ax) == ["start", "end"]


def test_a_density_says_how_many_eigenvalues_may_be_zero():
    found = Density(True, Estimate(0, 0, 3, how="x"))
    text = plot.density({"start": found}).get_legend().get_title().get_text()
    assert text == "start: at most 3 of 1,000 eigenvalues are zero"


def test_densities_on_different_axes_are_refused():
    with pytest.raises(ValueError, match="same axis"):
        plot.density({"a": Density(False), "b": Density(True)})


def test_power_law_is_fitted_over_the_stated_ranks_only():
    rank = np.arange(1, 101)
    values = np.where(rank <= 10, 5.0, 5.0 * (rank / 10.0) ** -1.5)
    exponent, factor, r2 = plot.power_law(values[::-1], (10, 100))
    assert np.isclose(exponent, -1.5) and np.isclose(factor, 5 * 10**1.5) and np.isclose(r2, 1)
    ax = plot.eigenvalues({"start": values, "end": 2 * values}, fit=(10, 100))
    law = "rank^−1.50, ranks 10–100, R² 1.000"
    assert legend(ax) == ["start", f"start: {law}", "end", f"end: {law}"]
    np.testing.assert_array_equal(line(ax, "end"), (rank, 2 * values))
    ends = ax.lines[1]
    np.testing.assert_allclose(ends.get_ydata(), [5, 5 * 10**-1.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log") and titled(ax)


@pytest.mark.parametrize("fit", [(0, 5), (3, 3), (1, 11), (2, 10)])
def test_a_fit_needs_ranks_of_positive_eigenvalues(fit):
    with pytest.raises(ValueError, match=r"fit|rank"):
        plot.power_law([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], fit)


def test_eigenvalues_that_are_not_positive_are_left_out():
    ax = plot.eigenvalues({"K": np.array([-1.0, 4.0, 0.0, 2.0])})
    np.testing.assert_array_equal(line(ax, "K"), ([1, 2], [4, 2]))


def test_what_is_zero_is_drawn_without_a_warning(tmp_path, recwarn):
    drawn = {
        "eigenvalues": plot.eigenvalues({"start": np.zeros(3), "end": np.zeros(3)}),
        "one dead": plot.eigenvalues({"start": np.ones(3), "end": np.zeros(3)}),
        "shares": plot.layer_shares({"start": np.zeros(2), "end": np.zeros(2)}),
    }
    for name, ax in drawn.items():
        ax.figure.savefig(tmp_path / f"{name}.png")
    assert not recwarn.list
    assert legend(drawn["one dead"]) == ["start", "end: none is positive"]
    assert drawn["one dead"].get_yscale() == "log"
    assert drawn["shares"].get_ylim() == (0, 100)


def test_decay_marks_where_each_mode_first_departs():
    t, rates = np.linspace(0, 1, 101), np.array([4.0, 2.0, 1.0])
    exact = np.exp(-np.outer(t, rates)) * [3.0, -2.0, 1.0]
    real = exact.copy()
    real[60:, 1] *= 1.2
    real[30:, 2] *= 1.05  # not enough
    ax = plot.decay(t, real, rates)
    np.testing.assert_array_equal(line(ax, "mode 2, λ = 2"), (t, abs(real[:, 1])))
    np.testing.assert_allclose(line(ax, "departs by more than 10 %"), ([0.6], [abs(real[60, 1])]))
    dashed = [drawn for drawn in ax.lines if drawn.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[1].get_ydata(), abs(exact[:, 1]))
    assert ax.get_yscale() == "log" and ax.get_xscale() == "linear" and titled(ax)
    assert len(plot.decay(t, real, rates, tolerance=0.01).lines[-1].get_xdata()) == 2


def test_decay_follows_what_was_predicted_and_does_not_mark_rounding():
    t, rates = np.arange(200.0), np.array([0.9, 0.05])
    discrete = (1 - rates) ** t[:, None]
    noisy = discrete + 1e-16
    assert "departs" in " ".join(legend(plot.decay(t, noisy, rates)))
    ax = plot.decay(t, noisy, rates, predicted=discrete)
    assert "departs" not in " ".join(legend(ax)) and ax.get_xscale() == "log"
    assert ax.get_ylim()[0] > 1e-16


def test_decay_chooses_few_modes_or_those_asked_for():
    t, rates = np.linspace(0, 1, 5), np.arange(40.0, 0, -1)
    values = np.exp(-np.outer(t, rates))
    assert len(legend(plot.decay(t, values, rates))) <= 7
    assert legend(plot.decay(t, values, rates, modes=[40])) == ["mode 40, λ = 1", "predicted"]
    for bad in ({"coefficients": values[:, :3]}, {"predicted": values[:3]}, {"modes": [41]}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            plot.decay(**({"times": t, "coefficients": values, "eigenvalues": rates} | bad))


def kernel(n=90, outputs=1, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, 4))
    fields = of.ReLUNetwork.random([4, 12, 12], outputs=outputs, seed=seed).fields(X)
    return of.collective_kernel(fields)


def dense_means(K, cells):
    edges = -(-len(K) * np.arange(cells + 1) // cells)
    parts = [range(a, b) for a, b in itertools.pairwise(edges)]
    return np.array([[K[np.ix_(p, q)].mean() for q in parts] for p in parts])


@pytest.mark.parametrize("workspace", [8 << 20, 4000])  # one tile, and tiles that cut blocks
@pytest.mark.parametrize("cells", [1, 7, 90, 400])
def test_block_means_are_those_of_the_dense_kernel(cells, workspace):
    K, order = kernel(), np.random.default_rng(1).permutation(90)
    dense = K.todense()[np.ix_(order, order)]
    with workspace_limit(workspace):
        got = plot.block_means(K, order, cells=cells)
    want = dense_means(dense, cells) if cells < 90 else dense
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_block_means_over_outputs_are_of_the_diagonal_blocks():
    K = kernel(30, outputs=3)
    each = K.todense().reshape(30, 3, 30, 3)
    want = np.einsum("apbp->ab", each) / 3
    np.testing.assert_allclose(plot.block_means(K, outputs=3), want, atol=1e-13)
    np.testing.assert_allclose(
        plot.block_means(K, outputs=3, cells=4), dense_means(want, 4), atol=1e-13
    )


class Forbidden:
    """A kernel that hands out small blocks and refuses to be formed."""

    def __init__(self, op, most):
        self.largest, block = 0, op.block

        def seen(rows, cols):
            out = block(rows, cols)
            self.largest = max(self.largest, out.size)
            assert out.size <= most
            return out

        def formed(*args, **kwargs):
            raise AssertionError("formed")

        op.block, op.todense = seen, formed


def test_a_heat_map_never_forms_the_kernel():
    K = kernel(3000)
    watch = Forbidden(K, 3000 * 512)
    with workspace_limit(1 << 20):
        image = plot.heat_map(K, cells=50).images[0].get_array()
    assert image.shape == (50, 50) and 0 < watch.largest <= 3000 * 512 / 5


def test_heat_map_shows_exact_entries_of_small_kernels_in_the_order_given():
    K, order = kernel(20), np.arange(20)[::-1]
    ax = plot.heat_map(K, order=order)
    np.testing.assert_allclose(ax.images[0].get_array(), K.todense()[::-1, ::-1], atol=1e-13)
    assert ax.get_title() == "Kernel of 20 samples" and ax.get_xlabel() == "samples"
    (bar,) = (axes for axes in ax.figure.axes if axes is not ax)
    assert bar.get_ylabel() == "kernel"


def test_heat_map_puts_classes_side_by_side_and_names_them():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 0])
    ax = plot.heat_map(kernel(8), labels=labels)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"]
    np.testing.assert_array_equal(ax.get_xticks(), [2, 5, 7])
    with pytest.raises(ValueError, match="labels"):
        plot.heat_map(kernel(8), labels=labels[:5])


def test_heat_map_is_centred_where_entries_have_both_signs():
    image = plot.heat_map(of.Gram(np.random.default_rng(0).standard_normal((60, 3)))).images[0]
    assert image.get_cmap().name == "RdBu_r" and image.norm.vmin == -image.norm.vmax
    image = plot.heat_map(of.Gram(np.random.default_rng(0).random((60, 3)))).images[0]
    assert image.get_cmap().name == "cividis" and image.norm.vmin > 0


@pytest.mark.parametrize("samples", [60, 700])  # above 512 the others follow their landmarks
def test_clusters_come_out_in_one_piece(samples):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, samples)
    X = 3 * np.eye(4)[group] + 0.1 * rng.standard_normal((samples, 4))
    order = plot.clustered(of.Gram(X))
    assert sorted(order) == list(range(samples))
    assert np.count_nonzero(np.diff(group[order])) == 3


def test_clustering_takes_zero_rows_and_one_sample():
    X = np.zeros((5, 2))
    X[2] = 1
    assert sorted(plot.clustered(of.Gram(X))) == list(range(5))
    assert plot.clustered(of.Gram(np.ones((1, 2)))).tolist() == [0]
    assert plot.heat_map(of.Gram(np.ones((1, 2)))).images[0].get_array().tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"op": of.Matrix(np.arange(6.0).reshape(2, 3))}, ValueError, "square"),
        ({"op": of.Matrix(np.arange(9.0).reshape(3, 3))}, ValueError, "symmetric"),
        ({"order": [0, 3]}, ValueError, "order"),
        ({"order": [0.5]}, ValueError, "order"),
        ({"cells": 0}, ValueError, "cells"),
        ({"outputs": 2}, ValueError, "outputs"),
    ],
)
def test_what_cannot_be_drawn_is_said(change, error, word):
    given = {"op": of.Gram(np.ones((3, 1)))} | change
    with pytest.raises(error, match=word):
        plot.block_means(**given)


def test_hierarchy_norms_of_members_are_medians_against_distance():
    fields = of.ReLUNetwork.random([3, 8, 8, 8], seed=0).fields(np.eye(3))
    found = of.hierarchy.members(fields, [(0, 0), (1, 1), (2, 2)])
    ax = plot.hierarchy_norms({"μ = ν": found})
    x, y = line(ax, "μ = ν")
    np.testing.assert_array_equal(x, [1, 2])
    np.testing.assert_allclose(y, [np.median(found.norms[[0, 2]]), np.median(found.norms[1])])
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "operator norm" and titled(ax)
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(corners.max(), found.norms.max())
    with pytest.raises(ValueError, match="values"):
        plot.hierarchy_norms({"a": found, "b": [1.0, 2.0]})


def test_norms_by_layer_leave_zeros_out():
    ax = plot.hierarchy_norms({"activations move": [0.0, 2.0, 3.0]})
    np.testing.assert_array_equal(line(ax, "activations move"), ([2, 3], [2, 3]))
    assert ax.get_xlabel() == "layer"


def test_alignment_draws_a_line_a_kernel():
    values = {f"layer {i}": np.full(3, 0.1 * i) for i in range(1, 10)}
    ax = plot.alignment([0, 1, 2], values)
    np.testing.assert_array_equal(line(ax, "layer 9")[1], 0.9)
    assert len({str(drawn.get_color()) for drawn in ax.lines}) == 9
    assert ax.get_ylim()[0] == 0 and titled(ax)
    with pytest.raises(ValueError, match="shape"):
        plot.alignment([0, 1], values)


def test_sharpness_is_shown_against_two_over_the_step():
    values = np.array([[3.0, 1.0], [5.0, 2.0]])
    ax = plot.sharpness([0, 1], values, [0.5, 1.0])
    np.testing.assert_array_equal(line(ax, "λ_max(K)")[1], [3, 5])
    np.testing.assert_array_equal(line(ax, "2/step")[1], [4, 2])
    assert ax.get_ylim()[1] > 5 and len(ax.lines) == 3 and titled(ax)
    for bad in ((values[:, 0], 0.0), (values[:1], 1.0)):
        with pytest.raises(ValueError, match=r"step|values"):
            plot.sharpness([0, 1], *bad)


@pytest.mark.parametrize("colours", [1, 3])
def test_modes_are_pictures_centred_at_zero(colours):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6 * 4 * colours, 5))
    ax = plot.modes(vectors, (4, 6), [1234.0, 5.0, 1.0, 0.25, 1e-5])
    pictures = ax.child_axes
    titles = ["1: λ = 1230", "2: λ = 5", "3: λ = 1", "4: λ = 0.25", "5: λ = 1.00e-05"]
    assert [p.get_title() for p in pictures] == titles
    shown, want = pictures[1].images[0], vectors[:, 1].reshape(4, 6, -1)
    want = want if want.sum() > 0 else -want
    if colours == 1:
        np.testing.assert_allclose(shown.get_array(), want[..., 0])
        assert shown.norm.vmin == -shown.norm.vmax == -abs(want).max()
    else:
        grey = (np.asarray(shown.get_array()) - 0.5) * 2 * abs(want).max()
        np.testing.assert_allclose(grey, want, atol=1e-12)


def test_modes_fill_the_axes_they_are_given():
    from matplotlib.figure import Figure

    for size, columns in (((9, 3), 4), ((3, 9), 1), ((6, 6), 2)):
        ax = plot.modes(np.eye(6)[:, :4], (2, 3), None, Figure(figsize=size).add_subplot())
        assert len({round(p.get_position().x0, 6) for p in ax.child_axes}) == columns


def test_modes_say_what_does_not_fit():
    with pytest.raises(ValueError, match="vectors"):
        plot.modes(np.ones((7, 2)), (2, 3))
    with pytest.raises(ValueError, match="eigenvalues"):
        plot.modes(np.ones((6, 2)), (2, 3), [1.0])


def test_pictures_of_a_run_show_its_numbers():
    seen = {"held_out_loss": np.array([3.0, 2.0, 1.5]), "accuracy": np.array([0.1, 0.2, 0.5])}
    run = of.Trajectory(of.ReLUNetwork.random([2, 3]), np.zeros((2, 1)), np.arange(3.0),
                        np.array([4.0, 2.0, 1.0]), 2, seen)  # fmt: skip
    np.testing.assert_array_equal(plot.loss(run).lines[0].get_ydata(), run.losses)
    ax = plot.held_out(run)
    np.testing.assert_array_equal(line(ax, "training set")[1], [2, 1, 0.5])
    np.testing.assert_array_equal(line(plot.accuracy(run), "training set")[1], [10, 20, 50])
    shares = plot.layer_shares({"start": [0.25, 0.75], "end": [0.5, 0.5]})
    assert sorted(bar.get_height() for bar in shares.patches) == [25, 50, 50, 75]


def test_pictures_go_on_axes_that_are_given():
    from matplotlib.figure import Figure

    t = np.arange(3.0)
    for draw in (
        lambda ax: plot.density(Density(False), ax),
        lambda ax: plot.eigenvalues({"K": [2.0, 1.0]}, ax),
        lambda ax: plot.decay(t, np.ones((3, 1)), [1.0], None, ax),
        lambda ax: plot.heat_map(kernel(5), ax),
        lambda ax: plot.hierarchy_norms({"a": [1.0, 2.0]}, ax),
        lambda ax: plot.alignment(t, {"K": t}, ax),
        lambda ax: plot.sharpness(t, t, 1.0, ax),
        lambda ax: plot.modes(np.ones((6, 1)), (2, 3), None, ax),
    ):
        ax = Figure().add_subplot()
        assert draw(ax) is ax


def test_without_matplotlib_pictures_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install .*\[plot\]"):
        plot.eigenvalues({"K": [2.0, 1.0]})


def test_decay_of_a_constant_kernel_is_exponential_and_of_a_narrow_network_departs():
    X, y = np.random.default_rng(0).standard_normal((2, 20, 4))
    net = of.ReLUNetwork.random([4, 16], seed=0)
    pairs = of.spectral.eigsh(of.collective_kernel(net.fields(X)), 10)
    seen = {"u": lambda moment: pairs.eigenvectors.T @ moment.residual[:, 0]}
    end = 4 / pairs.eigenvalues[0]
    lazy = of.train(net, X, y[:, 0], until=end, steps=20, method=of.LinearisedFlow(), observe=seen)
    real = of.train(net, X, y[:, 0], until=end, method=of.GradientFlow(tol=1e-3), observe=seen)
    drawn = {}
    for name, run in (("lazy", lazy), ("real", real)):
        drawn[name] = plot.decay(run.times, run.observations["u"], pairs.eigenvalues)
    solid, dashed = (
        [np.asarray(shown.get_ydata()) for shown in drawn["lazy"].lines[i:-1:2]] for i in (0, 1)
    )
    for values, predicted in zip(solid, dashed, strict=True):
        np.testing.assert_allclose(values, predicted, atol=1e-6 * values[0])
    marked = "departs by more than 10 %"
    assert marked in legend(drawn["real"]) and marked not in legend(drawn["lazy"])


def test_a_fit_has_its_goodness_and_its_own_line():
    rank = np.arange(1, 101.0)
    noisy = rank**-1.0 * np.exp(0.5 * np.sin(7 * rank))
    x, y = np.log(rank[4:60]), np.log(np.sort(noisy)[::-1][4:60])
    _, _, r2 = plot.power_law(noisy, (5, 60))
    assert np.isclose(r2, np.corrcoef(x, y)[0, 1] ** 2) and r2 < 0.999
    ax = plot.eigenvalues({"start": noisy, "end": 1 / rank**2}, fit="auto")
    starts, ends = ax.lines[:2], ax.lines[2:]
    for points, law in (starts, ends):
        assert points.get_color() == law.get_color() and "R² " in law.get_label()
        assert law.get_xdata().tolist() == [25, 100]
    assert starts[0].get_color() != ends[0].get_color()
    assert starts[1].get_linestyle() != ends[1].get_linestyle()


def test_no_fit_goes_across_a_gap():
    from opflow.plot.spectra import fit_ranks

    rank = np.arange(1, 41.0)
    assert fit_ranks(rank**-1.5) == (10, 40)
    assert fit_ranks(np.where(rank <= 20, 1.0, 1e-3) / rank) == (10, 20)
    assert fit_ranks(np.where(rank <= 10, 1.0, 1e-3) / rank) is None
    assert fit_ranks(np.zeros(8)) is None and fit_ranks([1.0]) is None
    gap = np.where(rank <= 10, 1.0, 1e-3) / rank
    ax = plot.eigenvalues({"start": rank**-1.5, "end": gap}, fit="auto")
    assert [label for label in legend(ax) if "rank" in label] == [
        "start: rank^−1.50, ranks 10–40, R² 1.000"
    ]
    with pytest.raises(ValueError, match="'auto'"):
        plot.eigenvalues(gap, fit="all")


@pytest.fixture(scope="module")
def seen():
    """A run whose observers saw all that a picture takes, and what the library says of it."""
    X = np.random.default_rng(0).standard_normal((12, 3))
    y = X[:, :1] * X[:, 1:2]
    top = of.observe.TopEigenpairs(3)
    names = of.observe.Alignment(), of.observe.Sharpness(), of.observe.HeldOutLoss(X, y)
    net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    run = of.train(net, X, y, steps=5, observe=[top, top.modes, *names])
    fields = net.fields(X)
    K = of.collective_kernel(fields)
    members = of.hierarchy.members(fields, [(0, 0), (1, 1)])
    return {
        "run": run, "network": net, "fields": fields, "K": K, "X": X, "y": y, "members": members,
        "pairs": of.spectral.eigsh(K, 4), "density": of.spectral.density(K, log=True),
        "triplets": of.spectral.svds(of.jacobian(fields), 4), "layers": of.layer_kernels(fields),
        "regression": of.spectral.kernel_regression(K, y, 0.1),
    }  # fmt: skip


t = np.arange(1.0, 4.0)
#: function, and what it may be given: names of what the library says, or arrays
TAKES = [
    ("loss", "run"), ("loss", t), ("loss", {"a": t}), ("loss", {"a": "run"}),
    ("held_out", "run"), ("held_out", {"training set": t, "held out": 2 * t}),
    ("accuracy", t / 4), ("accuracy", {"held out": t / 4}),
    ("alignment", "run"), ("alignment", t, t), ("alignment", t, np.ones((3, 2))),
    ("alignment", t, {"a": t}),
    ("sharpness", "run"), ("sharpness", t, t, 1.0), ("sharpness", t, t),
    ("decay", "run"), ("decay", t, np.exp(-np.outer(t, [2, 1])), [2.0, 1.0]),
    ("projections", t), ("projections", {"start": t, "predicted": t}),
    ("eigenvalues", "pairs"), ("eigenvalues", "triplets"), ("eigenvalues", "K"),
    ("eigenvalues", "fields"), ("eigenvalues", "run"), ("eigenvalues", t),
    ("eigenvalues", {"start": "pairs", "end": t}), ("eigenvalues", t.tolist()),
    ("density", "density"), ("density", "K"), ("density", "fields"), ("density", np.diag(t)),
    ("density", {"a": "density"}),
    ("layer_shares", "fields"), ("layer_shares", "layers"), ("layer_shares", [0.25, 0.75]),
    ("layer_shares", {"start": "fields", "end": [0.5, 0.5]}),
    ("mode_shares", "fields"), ("mode_shares", np.ones((2, 3)) / 2),
    ("hierarchy_norms", "members"), ("hierarchy_norms", t), ("hierarchy_norms", {"a": "members"}),
    ("modes", "pairs", (3, 4)), ("modes", np.eye(12)[:, :2], (3, 4)),
    ("heat_map", "K"), ("heat_map", "fields"), ("heat_map", np.diag(t)),
    ("predicted", t, t + 1), ("predicted", "run", ("X", "y")), ("predicted", {"a": (t, t)}),
    ("residuals", t, t + 1), ("residuals", "run", ("X", "y")), ("residuals", {"a": (t, t)}),
    ("confusion", ["a", "b"], ["a", "a"]), ("confusion", [0, 1], [1, 1], ["x", "y"]),
    ("network", "network"),
]  # fmt: skip
IMAGES = ("heat_map", "confusion", "modes")


def looked_up(given, seen):
    if isinstance(given, dict):
        return {label: looked_up(value, seen) for label, value in given.items()}
    if isinstance(given, tuple):
        return tuple(looked_up(value, seen) for value in given)
    return seen[given] if isinstance(given, str) else given


def artists(ax, name):
    if name in IMAGES:
        return [image for each in (ax, *ax.child_axes) for image in each.images]
    return [*ax.patches, *(drawn for drawn in ax.lines if len(drawn.get_xdata()))]


@pytest.mark.parametrize("case", range(len(TAKES)), ids=[str(take[:2])[:50] for take in TAKES])
def test_a_picture_takes_what_the_library_gives(case, seen, tmp_path, recwarn):
    from matplotlib.figure import Figure

    name, *given = TAKES[case]
    given = [looked_up(value, seen) for value in given]
    ax = Figure(figsize=(3, 2)).add_subplot()
    style = {"cmap": "magma"} if name in IMAGES else {"lw": 3.25}
    assert getattr(plot, name)(*given, ax=ax, **style) is ax
    drawn = artists(ax, name)
    reached = [a for a in drawn if (a.get_cmap().name == "magma" if name in IMAGES
                                    else a.get_linewidth() == 3.25)]  # fmt: skip
    assert drawn and reached
    ax.figure.savefig(tmp_path / "picture.png", dpi=30)
    assert not [w for w in recwarn.list if "layout" not in str(w.message)]
    if name != "modes":
        assert ax.get_title() and (ax.get_ylabel() or name == "heat_map")


@pytest.mark.parametrize("name", [n for n in plot.__all__ if callable(getattr(plot, n))])
def test_what_is_no_such_thing_is_one_sentence(name):
    calls = {"predicted": 2, "residuals": 2, "power_law": 2, "modes": 2, "confusion": 2, "decay": 3,
             "sharpness": 2, "alignment": 2}  # fmt: skip
    for wrong in (object(), "words", None):
        given = [wrong] * calls.get(name, 1)
        if name in ("modes", "power_law"):
            given[1] = (1, 2)
        if name == "confusion":
            given[1] = [1, 2]
        with pytest.raises((TypeError, ValueError)) as raised:
            getattr(plot, name)(*given)
        text = str(raised.value)
        assert "\n" not in text and len(text.split()) > 4, text


def test_pictures_say_what_a_run_must_have_observed():
    X = np.eye(3)
    run = of.train(of.ReLUNetwork.random([3, 4], seed=0), X, X[:, 0], steps=1)
    for draw in (plot.held_out, plot.accuracy, plot.alignment, plot.sharpness, plot.decay,
                 plot.eigenvalues):  # fmt: skip
        with pytest.raises(ValueError, match=r"observe=\[.*of\.observe\."):
            draw(run)
    with pytest.raises(TypeError, match="ax must be"):
        plot.loss(run, ax=3)


def test_a_colour_means_one_thing():
    values = {"start": t, "end": t}
    eigenvalues = {drawn.get_label(): drawn.get_color() for drawn in plot.eigenvalues(values).lines}
    bars = plot.layer_shares(values).patches
    points = {drawn.get_label(): drawn.get_color() for drawn in plot.projections(values).lines}
    assert eigenvalues == points == {name: plot.ROLES[name] for name in ("start", "end")}
    import matplotlib.colors as colors

    assert [colors.to_hex(bar.get_facecolor()).upper() for bar in bars[::3]] == [
        plot.ROLES["start"], plot.ROLES["end"]
    ]  # fmt: skip
    both = {"training set": t, "held out": t}
    for ax in (plot.held_out(both), plot.accuracy(both), plot.predicted({k: (t, t) for k in both})):
        assert [drawn.get_color() for drawn in ax.lines[:2]] == [plot.ROLES[k] for k in both]
    layers = [
        colors.to_hex(drawn.get_color()) for drawn in plot.alignment(t, np.ones((3, 3))).lines
    ]
    shares = [
        colors.to_hex(bar.get_facecolor()) for bar in plot.mode_shares(np.ones((2, 1))).patches
    ]
    assert layers[1:] == shares and plot.ROLES["K"] == layers[0]
    assert len({*plot.ROLES.values(), *layers}) == len({*plot.ROLES.values()}) + 2


def test_values_that_say_nothing_do_not_set_the_limits():
    vanishing = np.exp(-np.array([300.0, 20.0, 3.0, 1.0]))
    start = np.array([3.0, 1.0, 2.0, 0.5])
    ax = plot.projections({"start": start, "end": 0.1 * start, "predicted": start * vanishing})
    bottom, top = ax.get_ylim()
    assert 0.001 < bottom < 0.05 and 3 < top < 30
    assert "predicted\n(2 of 4 below 0.005)" in legend(ax)
    every = plot.projections({"start": start, "predicted": start * 1e-200})
    assert "predicted\n(4 of 4 below 0.05)" in legend(every) and every.get_ylim()[1] < 30
    times = np.linspace(0, 1, 30)
    ax = plot.decay(times, 0.5 + 0.5 * np.exp(-np.outer(times, [900.0, 1.0])), [900.0, 1.0])
    assert ax.get_ylim()[0] > 0.01 and ax.dataLim.y0 > 0.01
    ax = plot.eigenvalues([1.0, 0.5, 1e-20, 1e-300])
    assert ax.dataLim.y0 >= 0.5 and len(ax.lines[0].get_xdata()) == 2
    assert plot.projections({"start": [0.0, 0.0]}).get_yscale() == "linear"


class Doubtful(Density):
    """Nothing is known below 3, where the curve has a spike of a thousand."""

    order, width = 18_000, 0.05

    def __call__(self, grid):
        return np.where(grid < 3, 1000.0, 1.0 / grid)

    def band(self, grid):
        half = np.where(grid < 3, 1e5, 0.1 / grid)
        return np.maximum(self(grid) - half, 0), self(grid) + half


def test_a_density_of_many_eigenvalues_shows_a_single_one_and_dots_what_is_not_known():
    ax = plot.density(Doubtful(True))
    known, doubtful = ax.lines
    grid, height = (np.asarray(part) for part in known.get_data())
    assert np.isfinite(height[grid >= 3]).all() and np.isnan(height[grid < 3]).all()
    assert doubtful.get_linestyle() == ":" and np.isfinite(doubtful.get_ydata()[grid < 3]).all()
    one = 1 / (18_000 * 0.05 * np.sqrt(2 * np.pi))
    assert ax.get_yscale() == "log" and 0 < ax.get_ylim()[0] < one
    few = of.spectral.density(np.diag(np.geomspace(1, 100, 20)), log=True)
    assert plot.density(few).get_yscale() == "linear"


def test_time_is_step_times_steps_with_the_steps_on_top(seen):
    method = of.GradientDescent(0.01)
    run = of.train(seen["network"], seen["X"], seen["y"], steps=5, method=method)
    ax = plot.loss(run)
    assert ax.get_xlabel().startswith("time = step × steps, step = ")
    (top,) = ax.child_axes
    ax.figure.savefig(io.BytesIO(), dpi=20)
    np.testing.assert_allclose(np.array(ax.get_xlim()) / run.step, top.get_xlim())
    assert top.get_xlabel() == "steps"
    flow = of.train(seen["network"], seen["X"], seen["y"], until=1.0, method=of.GradientFlow())
    ax = flow.plot()
    ax.set_xlim(flow.times[1], flow.times[-2])
    (top,) = ax.child_axes
    ax.figure.savefig(io.BytesIO(), dpi=20)
    np.testing.assert_allclose(top.get_xlim(), [flow.steps[1], flow.steps[-2]])
    assert ax.get_xlabel() == "time"
    ax = plot.loss({"descent": run, "flow": flow})
    assert ax.get_xlabel() == "time" and not ax.child_axes
    assert plot.loss(run.losses).get_xlabel() == "moment"


def test_predictions_against_the_truth_and_their_goodness():
    true = np.array([1.0, 2.0, 3.0, 6.0])
    off = np.array([0.5, -0.5, 0.5, -0.5])
    ax = plot.predicted({"training set": (true, true), "held out": (true, true + off)})
    np.testing.assert_array_equal(ax.lines[1].get_data(), [true, true + off])
    assert legend(ax) == ["training set\nR² 1, RMSE 0", "held out\nR² 0.929, RMSE 0.5"]
    assert ax.get_xlabel() == "true value" and ax.lines[2].get_xdata().tolist() == [1, 6]
    ax = plot.residuals(true[:, None], (true + off)[:, None])
    np.testing.assert_array_equal(ax.lines[0].get_data(), [true + off, off])
    with pytest.raises(ValueError, match="shape"):
        plot.predicted(true, true[:3])
    with pytest.raises(TypeError, match=r"predicted=\(X, y\)"):
        plot.predicted(of.train(of.ReLUNetwork.random([2, 3]), np.eye(2), true[:2], steps=1), true)


def test_confusion_counts_the_predictions_of_each_class():
    true, predicted = [0, 0, 0, 1, 2], [0, 0, 1, 1, 0]
    ax = plot.confusion(true, predicted, ["ant", "bee", "cat"])
    np.testing.assert_allclose(ax.images[0].get_array(), [[200 / 3, 100 / 3, 0], [0, 100, 0],
                                                          [100, 0, 0]])  # fmt: skip
    assert [text.get_text() for text in ax.texts] == ["2", "1", "", "", "1", "", "1", "", ""]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ant", "bee", "cat"]
    assert ax.get_title() == "Confusion matrix, 60 % right" and ax.get_ylabel() == "true class"
    one_hot = plot.confusion(np.eye(3)[true], np.eye(3)[predicted] - 0.3)
    np.testing.assert_array_equal(one_hot.images[0].get_array(), ax.images[0].get_array())
    many = plot.confusion(np.arange(90), np.arange(90))
    assert len(many.get_xticks()) <= 40 and not many.texts
    for wrong in ((["a"], ["b"], ["a"]), ([0], [3], ["x", "y"]), ([0], [0, 1]), ([], [])):
        with pytest.raises(ValueError, match=r"label"):
            plot.confusion(*wrong)


PICTURED = ("run", "network", "pairs", "density", "triplets", "regression")


def test_results_are_one_line_and_a_picture(seen):
    from matplotlib.figure import Figure

    for name in PICTURED:
        found, ax = seen[name], Figure().add_subplot()
        assert found.plot(ax=ax) is ax and ax.has_data()
        shown = found._repr_html_()
        assert shown.startswith("<pre>&lt;") and "data:image/png;base64,iVBORw0KGgo" in shown
    K = seen["K"]
    others = [of.spectral.solve(K, seen["y"], 0.1), of.spectral.diagonal(K), seen["members"],
              of.spectral.quadrature(K), seen["fields"], of.spectral.trace(K)]  # fmt: skip
    for found in (*others, *(seen[name] for name in PICTURED)):
        assert "\n" not in repr(found) and len(repr(found)) < 200, repr(found)
    moments = []
    of.train(seen["network"], seen["X"], seen["y"], steps=1, observe={"m": moments.append})
    assert repr(moments[0]).startswith("<Moment of step 0, time 0, loss ")


def test_a_notebook_has_the_text_where_there_is_no_picture(seen, monkeypatch):
    for name in PICTURED:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "matplotlib.figure", None)
            assert seen[name]._repr_html_().endswith("&gt;</pre>")
    with monkeypatch.context() as patched:
        patched.setattr(plot, "loss", lambda run: 1 / 0)
        assert "<img" not in seen["run"]._repr_html_()


def test_a_run_on_the_command_line_draws_its_answers_in_their_own_units(tmp_path):
    from dataclasses import replace

    from opflow.cli import run_report
    from opflow.data.load import DataSet
    from opflow.data.task import Task

    X = np.random.default_rng(0).standard_normal((20, 3))
    value = 100 + 50 * X[:, 0]
    tasks = {
        "values": Task(of.Standardiser.fit(value[:, None])),
        "labels": Task(of.Standardiser([0.5, 0.5], [1, 1]), np.array(["no", "yes"])),
    }
    answers = {"values": value, "labels": np.where(X[:, 0] > 0, "yes", "no")}
    drawn = {"values": ["predicted.png", "residuals.png"], "labels": ["confusion.png"]}
    for kind, task in tasks.items():
        y = task.encode(answers[kind])
        data, test = DataSet(X[:15], y[:15]), DataSet(X[15:], y[15:])
        net = of.ReLUNetwork.random([3, 16], outputs=y.shape[1], seed=0)
        run = replace(of.train(net, data.inputs, data.targets, steps=5), task=task)
        found = run_report.pictures(run, {}, data, test)
        assert list(found) == ["loss.png", *drawn[kind]]
        assert "predicted.png" not in run_report.pictures(run, {})
        ax = found[drawn[kind][0]]()
        if kind == "labels":
            assert ax.get_title().endswith("right (held out)")
            assert [text.get_text() for text in ax.get_xticklabels()] == ["no", "yes"]
            continue
        np.testing.assert_allclose(ax.lines[0].get_xdata(), value[:15])
        np.testing.assert_allclose(ax.lines[1].get_data(), [value[15:], run.predict(X[15:])])
    names, failed = run_report.write(tmp_path, found)
    assert names == list(found) and not failed


def test_the_loss_of_a_regression_is_in_its_own_units():
    run = of.Trajectory(of.ReLUNetwork.random([2, 3]), np.zeros((2, 1)), np.arange(2.0),
                        np.array([9.0, 1.0]), 2, {"loss": np.array([900.0, 100.0])})  # fmt: skip
    np.testing.assert_array_equal(plot.loss(run).lines[0].get_ydata(), [900.0, 100.0])
