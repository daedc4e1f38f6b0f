"""torch.func, curvlinops, and full-batch steps of torch."""

from __future__ import annotations

from typing import Any

from benchmarks.suite.problems import Call, Problem, SetUp, clock


def _torch(p: Problem) -> tuple[Any, ...]:
    import torch

    torch.set_num_threads(p.threads)
    X, v, r = (torch.as_tensor(a, device=p.device) for a in (p.X, p.readout, p.r))
    weights = tuple(torch.as_tensor(W, device=p.device) for W in p.weights)

    def f(ws: Any) -> Any:
        a = X
        for W in ws:
            a = torch.relu(a @ W.T)
        return (a @ v.T)[:, 0]

    return torch, f, weights, r


def _result(p: Problem, x: Any) -> Any:
    return x.numpy() if p.device == "cpu" else x


def _columns(torch: Any, p: Problem, product: Call, r: Any, loop: bool) -> Call:
    if p.columns == 1:
        return lambda: _result(p, product(r[:, 0]))[:, None]
    if loop:
        return lambda: _result(p, torch.stack([product(s) for s in r.T], dim=1))
    block = torch.func.vmap(product, in_dims=1, out_dims=1, chunk_size=p.chunk)
    return lambda: _result(p, block(r))


def jvp_vjp(p: Problem) -> SetUp:
    torch, f, weights, r = _torch(p)

    def product(s: Any) -> Any:
        pulled = torch.func.vjp(f, weights)[1](s)[0]
        return torch.func.jvp(f, (weights,), (pulled,))[1]

    return lambda: _columns(torch, p, product, r, loop=False)


def linearize(p: Problem, loop: bool = False) -> SetUp:
    torch, f, weights, r = _torch(p)

    def set_up() -> Call:
        pull, push = torch.func.vjp(f, weights)[1], torch.func.linearize(f, weights)[1]
        return _columns(torch, p, lambda s: push(pull(s)[0]), r, loop)

    return set_up


def dense(p: Problem) -> SetUp:
    """The Jacobian contraction of torch.func: a Jacobian for each layer, then one contraction."""
    torch, _, weights, _ = _torch(p)
    X, v = (torch.as_tensor(a, device=p.device) for a in (p.X, p.readout))

    def one(ws: Any, x: Any) -> Any:
        for W in ws:
            x = torch.relu(W @ x)
        return (v @ x)[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one), (None, 0))

    def call() -> Any:
        return _result(p, sum(torch.einsum("nij,mij->nm", J, J) for J in jacobian(weights, X)))

    return lambda: call


def steps(p: Problem, compiled: bool = False) -> SetUp:
    torch, f, weights, _ = _torch(p)
    y = torch.as_tensor(p.y, device=p.device)
    ws = [W.clone().requires_grad_() for W in weights]

    def loss() -> Any:
        return 0.5 * ((f(ws) - y) ** 2).sum()

    def set_up() -> Call:
        if compiled:
            torch.compiler.reset()  # else the shapes of before make it compile for any shape
        forward = torch.compile(loss, backend=p.backend) if compiled else loss
        optimiser = torch.optim.SGD(ws, lr=p.step)

        def call(count: int) -> Any:
            seconds = []
            for _ in range(count):
                start = clock()
                optimiser.zero_grad()
                forward().backward()
                optimiser.step()
                seconds.append(clock() - start)
            with torch.no_grad():
                return _result(p, f(ws)), seconds

        return call

    return set_up


def curvlinops(p: Problem) -> SetUp:
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    torch, _, _, r = _torch(p)
    layers: list[Any] = []
    for W in (*p.weights, p.readout):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(W))
        layers += [linear, torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers[:-1])
    trained = list(module.parameters())[:-1]
    X = torch.from_numpy(p.X)
    data = [(X, torch.zeros(len(X), 1, dtype=X.dtype))]

    def set_up() -> Call:
        J, JT = (
            kind(module, trained, data, check_deterministic=False)
            for kind in (JacobianLinearOperator, TransposedJacobianLinearOperator)
        )
        s = r if p.columns > 1 else r[:, 0]
        return lambda: (J @ (JT @ s)).detach().numpy().reshape(p.r.shape)

    return set_up
