"""A method of one's own: what a run and its checkpoints ask of it."""

from dataclasses import dataclass

import numpy as np
import pytest

import opflow as of
from opflow.dynamics.methods.method import Method, ParameterIntegrator


@dataclass(frozen=True)
class Midpoint(Method):
    """The explicit midpoint rule."""

    size: float = 0.1

    name = "midpoint"
    stepwise = True

    def start(self, state, share):
        return MidpointSteps(state, share, self.size)


class MidpointSteps(ParameterIntegrator):
    def __init__(self, state, share, size):
        super().__init__(state, share)
        self.size = size

    def advance(self, remaining):
        half = self.state.moved(self.velocity, 0.5 * self.size * self.share)
        self.products += 1
        slope = half.loss_and_velocity(np.empty_like(self.state.targets))[1]
        self.state = self.state.moved(slope, self.size * self.share)
        return self.size


def problem(k=2):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([4, 8, 6], outputs=k, bias=True, slope=1.0, seed=1)
    return net, rng.standard_normal((20, 4)), rng.standard_normal((20, k))


@pytest.mark.parametrize("eliminate", [False, True])
def test_a_method_that_only_advances_is_a_run_with_all_that_belongs_to_it(eliminate, tmp_path):
    net, X, y = problem()
    how = {"loss": "mean", "eliminate": eliminate, "observe": [of.observe.Snapshots([5])]}
    full = of.train(net, X, y, method=Midpoint(), steps=12, **how)
    assert full.products == 1 + 2 * 12 and full.times[-1] == pytest.approx(1.2)
    state = of.Checkpoint(tmp_path / "run.npz", steps=2)
    for steps in (5, 12):
        run = of.train(net, X, y, method=Midpoint(), steps=steps, checkpoint=state, resume=True,
                       **how)  # fmt: skip
    for name in ("losses", "residual", "products", "times"):
        np.testing.assert_array_equal(getattr(run, name), getattr(full, name))
    with pytest.raises(ValueError, match=r"its method is Midpoint\(size=0.1\), loss='mean', not"):
        of.train(net, X, y, method=Midpoint(0.2), steps=12, checkpoint=state, resume=True, **how)


def test_its_steps_have_the_order_that_they_should():
    net, X, y = problem()
    flow = of.train(net, X, y, method=of.GradientDescent(1e-5), until=0.1, every=10**4, loss="mean")
    errors = []
    for size in (0.1, 0.05):
        run = of.train(net, X, y, method=Midpoint(size), until=0.1, loss="mean")
        errors.append(abs(run.residual - flow.residual).max())
    assert 3 < errors[0] / errors[1] < 5


def test_weight_decay_is_an_option_of_any_method_that_has_the_number():
    @dataclass(frozen=True)
    class Decaying(Midpoint):
        weight_decay: float = 0.0

    net, X, y = problem()
    dead = net.replace([0 * W + 1 for W in net.weights])
    dead = of.ReLUNetwork(dead.weights, 0 * net.readout)
    run = of.train(dead, X, 0 * y, method=Decaying(0.1, 0.5), steps=4, loss="mean")
    np.testing.assert_allclose(run.network.weights[0], (1 - 0.05 + 0.05**2 / 2) ** 4, rtol=1e-12)
