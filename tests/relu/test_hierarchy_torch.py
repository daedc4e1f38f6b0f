"""Every velocity and every member of the hierarchy against automatic differentiation, to 1e-10."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import opflow as of
from opflow.dynamics.observe import balances
from tests import examples
from tests.relu.reference import problems, rich, trained

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

PROBLEMS = problems(max_depth=5, max_outputs=3)
TOLERANCE = 1e-10


def near(got, want, scale=0.0):
    got, want = np.asarray(got), np.asarray(want.detach() if hasattr(want, "detach") else want)
    size = max(np.abs(want).max(initial=0), scale)
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= TOLERANCE * size + 1e-300


def units(h, slope):
    """The activation; its derivative at 0 is the slope, as that of torch is."""
    return torch.nn.functional.leaky_relu(h, slope)


class Autodiff:
    """The network as a function of its parameters, and the flow's direction among them."""

    def __init__(self, network, X, y):
        self.net, self.X, self.y = network, torch.from_numpy(X), torch.from_numpy(y)
        self.parameters = tuple(torch.from_numpy(p) for p in network.parameter_list())
        self.rates = network.parameter_rates()
        loss = torch.func.grad(lambda *p: 0.5 * ((self.outputs(*p) - self.y) ** 2).sum(),
                               argnums=tuple(range(len(self.parameters))))  # fmt: skip
        self.velocity = tuple(
            -rate * g for rate, g in zip(self.rates, loss(*self.parameters), strict=True)
        )

    def layers(self, parameters):
        """Weights and bias of each layer and of the readout, and the slope of its units."""
        net = self.net
        parameters = iter(parameters)
        layers = [(next(parameters), None if b is None else next(parameters))
                  for _, b in net.layers()]  # fmt: skip
        if net.readout_rate is None:
            c = net.output_bias
            c = None if c is None else torch.from_numpy(c)
            layers.append((torch.from_numpy(net.readout), c))
        return [(W, b, slope) for (W, b), slope in zip(layers, (*net.slopes, 1.0), strict=True)]

    def above(self, a, layers):
        """Outputs from the activations `a` of the layer below `layers`."""
        for W, b, slope in layers:
            a = units(a @ W.T if b is None else a @ W.T + b, slope)
        return a

    def outputs(self, *parameters):
        return self.above(self.X, self.layers(parameters))

    def hidden(self, *parameters):
        a, out = self.X, []
        for W, b, slope in self.layers(parameters)[:-1]:
            out.append(a @ W.T if b is None else a @ W.T + b)
            a = units(out[-1], slope)
        return out

    def conjugate(self, *parameters):
        """ψ^ℓ = ∂f/∂a^ℓ, each (N, k, n_ℓ)."""
        layers, out = self.layers(parameters), []
        for i, h in enumerate(self.hidden(*parameters)):
            one = torch.func.jacrev(lambda a, i=i: self.above(a, layers[i + 1 :]))
            out.append(torch.func.vmap(one)(units(h, layers[i][2])))
        return out

    def kernel(self, *parameters):
        J = torch.func.jacrev(self.outputs, argnums=tuple(range(len(parameters))))(*parameters)
        size = self.X.shape[0] * self.net.outputs
        parts = [r * j.reshape(size, -1) @ j.reshape(size, -1).T
                 for r, j in zip(self.rates, J, strict=True)]  # fmt: skip
        return sum(parts)

    def along_the_flow(self, function):
        """d/dt of `function` of the parameters."""
        return torch.func.jvp(function, self.parameters, self.velocity)[1]


def drawn(problem):
    network, X = problem
    fields = network.fields(X)
    y = np.random.default_rng(1).standard_normal((len(X), network.outputs))
    return network, X, fields, fields.outputs - y, Autodiff(network, X, y)


@settings(max_examples=examples(80))
@given(PROBLEMS)
@example(rich(5, 2))
@example(trained(5, 2))
@example(rich(3, 3))
@example(rich(4, 1))
@example(trained(3, 1))
def test_hidden_and_conjugate_velocities(problem):
    network, _, fields, r, autodiff = drawn(problem)
    hidden, conjugate = of.hierarchy.split(
        fields, -(of.hierarchy.field_velocities(fields) @ r.ravel())
    )
    dh, dpsi = autodiff.along_the_flow(autodiff.hidden), autodiff.along_the_flow(autodiff.conjugate)
    for i in range(network.depth):
        near(hidden[i], dh[i])
        near(conjugate[i].reshape(dpsi[i].shape), dpsi[i])
        H = of.hierarchy.hidden_velocity(fields, i + 1)
        near(-(H @ r.ravel()).reshape(dh[i].shape), dh[i])
        Psi = of.hierarchy.conjugate_velocity(fields, i + 1)
        near(-(Psi @ r.ravel()).reshape(dpsi[i].shape), dpsi[i])


@settings(max_examples=examples(60))
@given(PROBLEMS, st.data())
def test_members_are_products_of_layer_jacobians(problem, data):
    network, X, fields, _, autodiff = drawn(problem)
    lower = data.draw(st.integers(1, network.depth))
    upper = data.draw(st.integers(lower, network.depth))
    mu, nu = (data.draw(st.integers(0, len(X) - 1)) for _ in range(2))
    layers = autodiff.layers(autodiff.parameters)

    def to_activation(a):  # a^lower -> a^upper
        for W, b, slope in layers[lower:upper]:
            a = units(W @ a if b is None else W @ a + b, slope)
        return a

    def to_hidden(h):  # h^lower -> h^upper
        for (_, _, slope), (W, b, _) in zip(layers[lower - 1 :], layers[lower:upper], strict=False):
            a = units(h, slope)
            h = W @ a if b is None else W @ a + b
        return h

    jacobian = torch.func.jacrev
    J = [jacobian(to_activation)(torch.tensor(fields.activations[lower][s]))
         for s in (mu, nu)]  # fmt: skip
    G = [jacobian(to_hidden)(torch.tensor(fields.preactivations[lower - 1][s]))
         for s in (mu, nu)]  # fmt: skip
    B = of.hierarchy.pullback(fields, lower, upper, mu, nu)
    near(B.todense(), J[0].T @ J[1], float((J[0].abs().T @ J[1].abs()).max()))
    F = of.hierarchy.pushforward(fields, upper, lower, mu, nu)
    near(F.todense(), G[0] @ G[1].T, float((G[0].abs() @ G[1].abs().T).max()))


@settings(max_examples=examples(60))
@given(PROBLEMS)
@example(rich(5, 2))
@example(trained(5, 2))
@example(rich(3, 3))
@example(rich(4, 1))
@example(trained(3, 1))
def test_kernel_velocity(problem):
    _, _, fields, r, autodiff = drawn(problem)
    want = autodiff.along_the_flow(autodiff.kernel)
    dK = of.kernel_velocity(fields, r)
    # cancellation between layers is bounded by the parts
    scale = max(np.abs(part.todense()).max(initial=0)
                for layer in of.layer_kernel_velocities(fields, r) for part in layer)  # fmt: skip
    near(dK.todense(), want, scale)
    near(dK @ np.eye(len(want)), want, scale)


@settings(max_examples=examples(60))
@given(PROBLEMS)
@example(rich(5, 2))
@example(trained(5, 2))
@example(rich(3, 3))
@example(rich(4, 1))
@example(trained(3, 1))
def test_weight_grams_close_in_the_fields(problem):
    network, _, fields, r, autodiff = drawn(problem)
    grams = autodiff.along_the_flow(
        lambda *p: [(W.T @ W, W @ W.T) for W, _, _ in autodiff.layers(p)][: network.depth]
    )
    for layer, (inner, outer) in enumerate(grams, start=1):
        W = network.weights[layer - 1]
        move = autodiff.layers(autodiff.velocity)[layer - 1][0]
        scale = float(move.abs().max()) * np.abs(W).max() * max(W.shape)
        for side, want in (("input", inner), ("output", outer)):
            near(of.weight_gram_velocity(fields, layer, r, side).todense(), want, scale)


@settings(max_examples=examples(40))
@given(PROBLEMS)
@example(rich(5, 2))
@example(trained(5, 2))
@example(rich(3, 3))
@example(rich(4, 1))
@example(trained(3, 1))
def test_what_the_balancedness_observer_watches_is_conserved(problem):
    network, _, _, _, autodiff = drawn(problem)
    observed = balances(network)[0]
    rates = network.layer_rates()
    assert len(observed) == len(rates) - 1
    for i in range(len(rates) - 1):

        def balance(*p, i=i):
            layers = autodiff.layers(p)
            W, b, _ = layers[i]
            incoming = (W**2).sum(1) + (0 if b is None else b**2)
            outgoing = (layers[i + 1][0] ** 2).sum(0)
            return outgoing / rates[i + 1] - incoming / rates[i]

        near(observed[i], balance(*autodiff.parameters))
        layers, moves = autodiff.layers(autodiff.parameters), autodiff.layers(autodiff.velocity)
        size = max(
            float((w.abs().max() * m.abs().max()) * max(w.shape))
            for (w, *_), (m, *_) in zip(layers[i : i + 2], moves[i : i + 2], strict=True)
        ) / min(rates)
        if layers[i][1] is not None:
            size += 2 * float(layers[i][1].abs().max() * moves[i][1].abs().max())
        assert autodiff.along_the_flow(balance).abs().max() <= TOLERANCE * size + 1e-300
