"""Networks from PyTorch and scikit-learn, and back to PyTorch: methods of ``ReLUNetwork``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from opflow.interface.extras import install
from opflow.machine.arrays import to_host

if TYPE_CHECKING:
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from torch import nn

    from opflow.relu.network import ReLUNetwork

#: what would do in the place of a module, by what its name or its file has in it
_INSTEAD = {
    "BatchNorm": "torch.nn.utils.fusion.fuse_linear_bn_eval joins it with the Linear before it",
    "Softmax": "leave it out, objective='cross-entropy' takes logits",
    "Sigmoid": "after the last Linear leave it out, objective='cross-entropy' takes logits",
    "PReLU": "LeakyReLU with its slope would do",
    "MultiheadAttention": "it is no layer of a chain",
    "activation": "ReLU, LeakyReLU or Identity would do",
    "": "Linear, ReLU, LeakyReLU, Identity, Flatten, Dropout and Sequential of them are taken",
}


def from_torch(
    cls: type[ReLUNetwork], module: nn.Module, *, readout_rate: float | str | None = "auto"
) -> ReLUNetwork:
    """The network of a ``torch.nn.Sequential``, with its slopes, biases and what is trained.

    Parameters
    ----------
    module : torch.nn.Sequential
        Of ``Linear``, ``ReLU``, ``LeakyReLU``, ``Identity``, ``Flatten()``, ``Dropout`` in
        evaluation mode, and ``Sequential`` of them.  The last of two or more ``Linear`` is the
        readout; one that no activation follows has linear units, slope 1.
    readout_rate : float, "auto" or None, default "auto"
        As of :class:`ReLUNetwork`; "auto" is 1 if the last ``Linear`` requires gradients, else
        None.

    Raises
    ------
    TypeError, ValueError
        Naming the part of the module that has no place in a network, and what would do.

    Notes
    -----
    Parameters are copied to host memory, from any device (:meth:`to` brings them to one), in
    float64 or float32, to which halves are converted exactly.  A layer that requires no gradients
    has rate 0, others rate 1: with all layers frozen, the kernel is 0.  ``Flatten`` is the
    caller's: a network takes rows, ``X.reshape(len(X), -1)``.

    Examples
    --------
    >>> import torch, opflow as of
    >>> from torch.nn import LeakyReLU, Linear, Sequential
    >>> net = of.ReLUNetwork.from_torch(Sequential(Linear(3, 8), LeakyReLU(0.1), Linear(8, 2)))
    >>> net.widths, net.slopes, net.readout_rate
    ((3, 8), (0.1,), 1.0)
    """
    names, layers, slopes = zip(*_layers(module), strict=True)
    if readout_rate == "auto":
        readout_rate = 1.0 if _trained(names[-1], layers[-1]) else None
    elif isinstance(readout_rate, str):
        raise ValueError(f"readout_rate must be a number, 'auto' or None, not {readout_rate!r}")
    *weights, readout = [_array(layer.weight) for layer in layers]
    *biases, output_bias = [_array(layer.bias) for layer in layers]
    return cls(
        weights,
        readout,
        biases=biases,
        rates=[float(_trained(*layer)) for layer in zip(names[:-1], layers[:-1], strict=True)],
        slope=slopes[:-1],
        readout_rate=readout_rate,
        output_bias=output_bias,
    )


def to_torch(self: ReLUNetwork) -> nn.Sequential:
    """The network as a ``torch.nn.Sequential``: its numbers, bit for bit, in host memory.

    Returns
    -------
    torch.nn.Sequential
        ``Linear`` and ``ReLU``, ``LeakyReLU`` or, of linear units, ``Identity`` in turn.

    Notes
    -----
    A layer of rate 0 and a fixed readout require no gradients; a module has no place for other
    rates: step × ``rates`` are the learning rates of the optimiser's parameter groups.
    :meth:`from_torch` gives the network back, with rates of 1 in their place.

    Examples
    --------
    >>> import torch, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> module = net.to_torch()
    >>> [type(part).__name__ for part in module], module[2].weight.requires_grad
    (['Linear', 'ReLU', 'Linear'], False)
    >>> groups = [{"params": module[0].parameters(), "lr": 0.1 * net.rates[0]}]
    >>> optimiser = torch.optim.SGD(groups)
    """
    torch = _torch("to_torch")
    nn = torch.nn
    kinds = {0.0: nn.ReLU, 1.0: nn.Identity}
    hidden = zip(self.weights, self.biases, self.rates, self.slopes, strict=True)
    module = nn.Sequential()
    for W, b, rate, slope in [*hidden, (self.readout, self.output_bias, self.readout_rate, None)]:
        # of the device "meta": it draws no numbers
        layer = nn.Linear(*W.shape[::-1], bias=b is not None, device="meta")
        arrays = {"weight": W} if b is None else {"weight": W, "bias": b}
        tensors = {name: torch.from_numpy(np.array(to_host(a))) for name, a in arrays.items()}
        layer.load_state_dict(tensors, assign=True)
        module.append(layer.requires_grad_(bool(rate)))
        if slope is not None:
            module.append(kinds[slope]() if slope in kinds else nn.LeakyReLU(slope))
    return module


def from_sklearn(cls: type[ReLUNetwork], estimator: MLPRegressor | MLPClassifier) -> ReLUNetwork:
    """The network of a multilayer perceptron of scikit-learn, all of it trained, at rate 1.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPRegressor or MLPClassifier
        Fitted, with activation "relu" or "identity" (slope 1).

    Notes
    -----
    Outputs are those before the estimator's own output activation: logits of a classifier (one of
    two classes, ``classes_[1]`` where it is positive), values of a regressor, or their logarithms
    with ``loss="poisson"``.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> from sklearn.neural_network import MLPRegressor
    >>> model = MLPRegressor(solver="lbfgs", random_state=0).fit(np.eye(3), [1, 4, 9])
    >>> of.ReLUNetwork.from_sklearn(model)(np.eye(3)).round(1).ravel().tolist()
    [1.0, 4.0, 9.0]
    """
    try:
        from sklearn import neural_network
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:
        raise ImportError(f"from_sklearn needs scikit-learn: {install('sklearn')}") from error
    if not isinstance(estimator, neural_network.MLPRegressor | neural_network.MLPClassifier):
        wanted = "a fitted MLPRegressor or MLPClassifier is expected (of a Pipeline, its last step)"
        raise TypeError(f"estimator is {type(estimator).__name__}: {wanted}")
    check_is_fitted(estimator, "coefs_", msg="estimator is not fitted: %(name)s.fit(X, y) does it")
    slopes = {"relu": 0.0, "identity": 1.0}
    if estimator.activation not in slopes:
        given = f"estimator has activation={estimator.activation!r}"
        raise ValueError(f"{given}: 'relu' or 'identity' would do")
    *weights, readout = [np.array(coef.T, order="C") for coef in estimator.coefs_]
    *biases, output_bias = [np.array(intercept) for intercept in estimator.intercepts_]
    return cls(
        weights,
        readout,
        biases=biases,
        slope=slopes[estimator.activation],
        readout_rate=1.0,
        output_bias=output_bias,
    )


def _torch(caller: str) -> Any:
    """The module ``torch``, or an error that says what needs it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{caller} needs torch: {install('torch')}") from error
    return torch


def _layers(module: nn.Module) -> list[tuple[str, Any, float]]:
    """Where the linear layers of a module are, these layers, and the slopes that follow them."""
    nn = _torch("from_torch").nn
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Sequential, not {type(module).__name__}")
    layers: list[tuple[str, Any, float]] = []
    held: dict[int, str] = {}
    last = ""
    for path, part in module.named_modules(remove_duplicate=False):
        name = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f"module.{path}".rstrip("."))
        kind = type(part)
        what = f"{name} is {kind.__name__}"
        if kind is nn.Linear:
            for own, parameter in part.named_parameters():
                if own not in ("weight", "bias"):
                    raise TypeError(f"{name} computes its weight of {own}: a plain Linear would do")
                here = f"{name}.{own}"
                other = held.setdefault(parameter.data_ptr() or id(parameter), here)
                if other != here:
                    raise TypeError(f"{here} is tied to {other}: a copy of it would do")
            layers.append((name, part, 1.0))
        elif kind in (nn.ReLU, nn.LeakyReLU):
            if not layers:
                raise TypeError(f"{what}, before the first Linear: apply it to the inputs")
            at, layer, slope = layers[-1]
            if slope > 0:  # numbers that another slope has made positive or 0 stay as they are
                slope *= getattr(part, "negative_slope", 0.0)
            layers[-1] = (at, layer, slope)
            last = what
        elif kind is nn.Dropout:
            if part.training and part.p > 0:
                raise ValueError(f"{what} in training mode, which is random: call module.eval()")
        elif kind is nn.Flatten:
            if (part.start_dim, part.end_dim) != (1, -1):
                raise ValueError(f"{what}({part.extra_repr()}): Flatten() would do")
        elif kind is not nn.Identity and kind.forward is not nn.Sequential.forward:
            known = f"{kind.__name__} {kind.__module__}"
            raise TypeError(f"{what}: {next(_INSTEAD[k] for k in _INSTEAD if k in known)}")
        if part._forward_hooks or part._forward_pre_hooks:
            raise TypeError(
                f"{what} with forward hooks, which change what it computes: remove them"
            )
    if len(layers) < 2:
        what = "no hidden layer: a Sequential with two Linear or more is expected"
        raise TypeError(f"module has {len(layers)} Linear and {what}")
    if layers[-1][2] != 1:
        raise TypeError(f"{last}, after the last Linear: the readout is linear, leave it out")
    return layers


def _trained(name: str, layer: Any) -> bool:
    """Whether a layer requires gradients: its weight and its bias, or neither."""
    required = {parameter.requires_grad for parameter in layer.parameters()}
    if len(required) > 1:
        frozen = "bias" if layer.weight.requires_grad else "weight"
        remedy = "requires_grad_(True) of it trains both, requires_grad_(False) neither"
        raise ValueError(f"only the {frozen} of {name} is frozen: {remedy}")
    return required == {True}


def _array(parameter: Any) -> Any:
    """A copy in host memory, halves as float32; None of None."""
    if parameter is None:
        return None
    tensor = parameter.detach().cpu()
    if tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    return np.array(tensor.numpy())
