"""Pictures show what they were given, on axes that say what it is."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import opflow as of
from opflow.operators.rows import workspace_limit
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


class Density:
    """A density of known shape: ρ(λ) = λ on [1, 10], with a band of a tenth."""

    order = 1000

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
    text = "20 [15, 25] of 1,000 eigenvalues are zero"
    x, y = line(ax, text)
    np.testing.assert_array_equal(x, found.grid())
    np.testing.assert_array_equal(y, x)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    assert np.isclose(corners[:, 1].max(), 11) and np.isclose(corners[:, 1].min(), 0.9)
    assert legend(ax) == [text, "95 % band"] and titled(ax)
    assert ax.get_xscale() == ("log" if log else "linear")
    assert ax.get_ylabel() == ("density per decade" if log else "density")


def test_cumulative_density_draws_its_own_band_and_takes_a_grid():
    ax = plot.density({"start": Density(False), "end": Density(False)}, cumulative=True,
                      grid=[2.0, 4.0])  # fmt: skip
    np.testing.assert_array_equal(line(ax, "end"), ([2, 4], [0.2, 0.4]))
    assert {c.get_paths()[0].vertices[:, 1].max() for c in ax.collections} == {0.8}
    assert ax.get_ylim() == (0, 1.02) and legend(ax) == ["start", "end"]


def test_a_density_says_how_many_eigenvalues_may_be_zero():
    assert legend(plot.density(Density(True, Estimate(0, 0, 3, how="x"))))[0].startswith(
        "at most 3"
    )


def test_densities_on_different_axes_are_refused():
    with pytest.raises(ValueError, match="same axis"):
        plot.density({"a": Density(False), "b": Density(True)})


def test_power_law_is_fitted_over_the_stated_ranks_only():
    rank = np.arange(1, 101)
    values = np.where(rank <= 10, 5.0, 5.0 * (rank / 10.0) ** -1.5)
    exponent, factor = plot.power_law(values[::-1], (10, 100))
    assert np.isclose(exponent, -1.5) and np.isclose(factor, 5 * 10**1.5)
    ax = plot.eigenvalues({"start": values, "end": 2 * values}, fit=(10, 100))
    assert legend(ax) == ["start", "ranks 10–100: rank^−1.50", "end", "ranks 10–100: rank^−1.50"]
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
    run = SimpleNamespace(
        times=np.arange(3.0), losses=np.array([4.0, 2.0, 1.0]), residual=np.zeros((2, 1)),
        observations={"held_out_loss": [3.0, 2.0, 1.5], "accuracy": [0.1, 0.2, 0.5]},
    )  # fmt: skip
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
    with pytest.raises(ImportError, match=r"opflow\[plot\]"):
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
