"""Jacobians and tangent kernels of a module, in memory that is stated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from opflow.machine.arrays import module_name
from opflow.machine.workspace import parse_memory
from opflow.operators import CrossGram, Gram, HStack, Operator
from opflow.operators.outputs import check_outputs, of_outputs
from opflow.operators.stack import VStack
from opflow.torch.held import held_jacobians, make_plan
from opflow.torch.model import BLOCK, Model, Outputs, block_of
from opflow.torch.recomputed import RecomputedJacobian


class Options(TypedDict, total=False):
    """What :func:`jacobian` takes besides the module and X."""

    parameters: Iterable[str] | None
    outputs: Outputs | None
    memory: float | str | None
    forward: Callable[[nn.Module, Any], Tensor] | None


def jacobian(
    module: nn.Module,
    X: Any,
    *,
    parameters: Iterable[str] | None = None,
    outputs: Outputs | None = None,
    memory: float | str | None = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
) -> Operator:
    r"""Return the Jacobian of a module's outputs with respect to its trained parameters.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, of float32 or float64; on the host or a CUDA device, where the operator
        is then.  It is copied: what is trained later does not change the operator.
    X : tensor or array (N, …), dict or tuple of them, or iterable
        On the module's device.  A dict is given to the module as keywords, a tuple as arguments.
        An iterable, such as a ``DataLoader`` without shuffling, gives batches in a fixed order and
        is read again by every product that recomputes; of a list ``[inputs, targets]`` the first
        part is taken, unless `forward` is given.
    parameters : iterable of str, optional
        Names of parameters or of modules; those that require gradients by default.
    outputs : {"all", "sum", "trace"} or int, optional
        Of the k outputs of a sample, whatever their shape: all (the default), their sum, the one of
        this number, or all with columns of their own, N rows whose Gram is the sum of the kernels
        of all outputs.
    memory : float or str, optional
        Bytes that may be held, such as ``"4GiB"``: half of what is free by default.  Samples that
        do not fit are recomputed by every product.
    forward : function, optional
        ``forward(module, batch)`` gives the outputs; for other ways to call the module.

    Returns
    -------
    Operator of shape (N·k, P)
        Rows: outputs flattened sample-major.  Columns: the parameters in the order of
        ``module.named_parameters()``, each in C order.

    Warns
    -----
    UserWarning
        Naming the parameters that no rule covers: a random product of the rules is compared with
        automatic differentiation first, on five samples.  For those the rows of J are held.

    See Also
    --------
    opflow.torch.kernel : ``J Jᵀ``, the neural tangent kernel.
    opflow.torch.linear_in : Registers rules for layers.
    opflow.torch.hessian : The Hessian of a loss.
    opflow.jacobian : The Jacobian of a ReLU network of opflow.

    Notes
    -----
    For a layer of weight W with outputs :math:`h_t = W a_t` at positions t,

    .. math:: \frac{\partial f_{\mu p}}{\partial W} = \sum_t \varphi_{\mu p t}\, a_{\mu t}^T,
              \qquad \varphi_{\mu p t} = \frac{\partial f_{\mu p}}{\partial h_{\mu t}},

    from hooks and one backward pass an output [1]_.  Of every layer the factors φ and a are held,
    or these rows where they are fewer numbers (biases, scales, small filters).  A product with J
    then costs what the layers cost, one with held rows 2·N·k·P_layer flops.

    A rule is known for ``Linear``, ``Conv1d`` to ``Conv3d``, ``Embedding``, ``EmbeddingBag``,
    ``LayerNorm``, ``GroupNorm``, ``BatchNorm`` in evaluation mode and ``MultiheadAttention``; more
    are registered with :func:`linear_in`.

    References
    ----------
    .. [1] I. Goodfellow, "Efficient per-example gradient computations", 2015,
       arXiv:1510.01799.

    Examples
    --------
    >>> import torch, opflow as of
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    >>> J = of.torch.jacobian(net, torch.randn(5, 3))
    >>> J.shape
    (10, 50)
    """
    return Network(module, X, parameters, outputs, memory, forward).jacobian()


def kernel(module: nn.Module, X: Any, **options: Unpack[Options]) -> Operator:
    r"""Return the empirical neural tangent kernel of a module.

    Parameters
    ----------
    module, X, **options
        As of :func:`jacobian`.

    Returns
    -------
    Operator
        Symmetric and PSD, of shape (N·k, N·k), or (N, N) for other `outputs` than "all".

    See Also
    --------
    opflow.torch.layer_kernels : The share of each layer.
    opflow.torch.cross_kernel : Between two sets of samples.
    opflow.torch.jacobian : J, and all options.
    opflow.collective_kernel : The kernel of a ReLU network of opflow.

    Notes
    -----
    :math:`K = J J^T` [1]_, no N × N array: a product is one with :math:`J^T` and one with J.

    References
    ----------
    .. [1] A. Jacot, F. Gabriel, C. Hongler, "Neural tangent kernel: Convergence and generalization
       in neural networks", 2018, arXiv:1806.07572.

    Examples
    --------
    >>> import torch, opflow as of
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 10))
    >>> of.torch.kernel(net, torch.randn(5, 1, 8, 8), outputs="trace").shape
    (5, 5)
    """
    return Gram(Network(module, X, **options).jacobian(), symbol="K")


def layer_kernels(module: nn.Module, X: Any, **options: Unpack[Options]) -> dict[str, Operator]:
    r"""Return the share of each layer in the kernel, which is their sum.

    Parameters
    ----------
    module, X, **options
        As of :func:`jacobian`.

    Returns
    -------
    dict of str to Operator
        By the names of ``module.named_modules()``, in the order of the parameters.  A parameter
        that several layers share counts for the first.

    See Also
    --------
    opflow.torch.kernel : Their sum.
    opflow.spectral.layer_shares : Their shares of the trace.
    opflow.layer_kernels : The same for a ReLU network of opflow.

    Examples
    --------
    >>> import torch, opflow as of
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> list(of.torch.layer_kernels(net, torch.randn(5, 3)))
    ['0', '2']
    """
    network = Network(module, X, **options)
    layers: dict[str, list[str]] = {}
    for name in network.model.trained:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return {
        layer: Gram(network.jacobian(names), symbol=f"K[{layer}]")
        for layer, names in layers.items()
    }


def cross_kernel(module: nn.Module, X_new: Any, X: Any, **options: Unpack[Options]) -> Operator:
    r"""Return the kernel between new points and others, ``J(X_new) J(X)ᵀ``.

    Parameters
    ----------
    module, X_new, X, **options
        As of :func:`jacobian`; `memory` is for each of the two sets.

    Returns
    -------
    Operator
        Of shape (M·k, N·k).

    See Also
    --------
    opflow.torch.kernel : The kernel of one set.
    opflow.spectral.kernel_regression : Predictions through it.
    opflow.cross_kernel : The same for a ReLU network of opflow.

    Examples
    --------
    >>> import torch, opflow as of
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> of.torch.cross_kernel(net, torch.randn(2, 3), torch.randn(5, 3)).shape
    (2, 5)
    """
    new, old = (Network(module, data, **options).jacobian() for data in (X_new, X))
    return CrossGram(new, old, symbol="K(X*, X)")


class Network:
    """A module on its samples: what is held of the first of them, what is recomputed of others."""

    def __init__(
        self,
        module: nn.Module,
        X: Any,
        parameters: Iterable[str] | None = None,
        outputs: Outputs | None = None,
        memory: float | str | None = None,
        forward: Callable[..., Any] | None = None,
    ) -> None:
        with torch.inference_mode(False):  # of which copies have no derivatives
            self.outputs = check_outputs("all" if outputs is None else outputs)
            self.model = Model(module, parameters, self.outputs, forward)
            self.samples = self.model.samples(X)
            self.plan = make_plan(self.model, self.samples)
            each = max(self.plan.numbers, 1) * self.model.dtype.itemsize
            budget = parse_memory(memory, module_name(self.model.like))
            #: samples of a row block
            self.block = min(block_of(self.model, self.samples)[0], int(max(1, budget / 4 // each)))
            #: of how many samples the factors are held
            self.count = self.samples.size
            if self.count * each > budget:
                self.count = int(max(budget - 2 * BLOCK, 0) // each)
            if self.count:
                blocks = self.samples.blocks(0, self.count, self.block)
                self.held = held_jacobians(self.model, self.plan, blocks, self.count)

    def jacobian(self, names: Sequence[str] = ()) -> Operator:
        """J by these parameters, or all."""
        model = self.model.only(names or self.model.trained)
        parts: list[Operator] = []
        if self.count:
            parts.append(HStack([self.held[name] for name in model.trained], symbol="J"))
        if self.count < self.samples.size:
            plan = self.plan.only(model.trained)
            parts.append(RecomputedJacobian(model, self.samples, plan, self.count, self.block))
        J = parts[0] if len(parts) == 1 else VStack(parts, symbol="J")
        if self.outputs == "trace":
            return of_outputs(J, self.plan.outputs, "trace")
        return J
