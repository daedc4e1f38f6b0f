"""The data of a run, checked: inputs, targets, and a kernel in the place of the inputs' Gram."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from opflow.dynamics.measurement import OUTPUTS, Measured, Outputs
from opflow.dynamics.methods.method import Method
from opflow.evaluation import FunctionGram
from opflow.machine.arrays import Array, Data, check_real, is_array, namespace
from opflow.operators import Operator
from opflow.operators.measuring import measuring_operator
from opflow.operators.rules import as_operator, is_operator
from opflow.relu.inputs import check_inputs, is_whole
from opflow.relu.network import ReLUNetwork

#: the ratio of the widths of two features from which a run warns
UNLIKE = 1e3
#: the size of targets from which it does
LARGE = 1e2


def checked_X(X: Data, network: ReLUNetwork, gram: Data, empty: bool = False) -> Data:
    """The inputs, checked; None where a Gram stands for them."""
    if X is not None:
        return check_inputs(X, network, empty=empty)
    if not hasattr(gram, "shape"):
        raise ValueError("X is needed, unless gram= gives the kernel matrix of the samples")
    if gram.shape[0] != network.widths[0]:
        raise ValueError(
            f"without X the first layer reads rows of gram: the network expects "
            f"{network.widths[0]} input features but gram has {gram.shape[0]} columns"
        )
    return None


def warn_of_scales(X: Data, y: Array, names: Sequence[object] | None = None) -> None:
    """Warn of features and targets that make a run slow: one pass over what is in memory.

    `names` are those of the columns of X, if it was a table.
    """
    found = []
    if type(X) is np.ndarray and X.size:
        spread = X.max(axis=0) - X.min(axis=0)
        low = int(np.where(spread > 0, spread, np.inf).argmin())
        high = int(spread.argmax())
        if spread[high] >= UNLIKE * spread[low] > 0:
            called: Sequence[object] = range(len(spread)) if names is None else names
            widths = f"{spread[high]:.3g} and column {called[low]!r} only {spread[low]:.3g}"
            found.append(f"column {called[high]!r} of X spans {widths}")
    if type(y) is np.ndarray and (size := np.abs(y).max(initial=0.0)) >= LARGE:
        found.append(f"y has values of size {size:.3g}")
    if found:
        advice = "such data train badly; of.Standardiser, or --standardise, makes columns alike"
        warnings.warn(f"{', '.join(found)}: {advice}", UserWarning, stacklevel=3)


def checked_route(
    method: object, eliminate: bool | None, gram: object, comm: object
) -> bool | None:
    """`eliminate`, or False where the first layer must move as weights."""
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be a GradientDescent, TruncatedFlow or another flow, not {method!r}"
        )
    chosen = eliminate or gram is not None
    if comm is not None and chosen:
        raise ValueError(
            "eliminate= and gram= are for one machine: with comm= the first layer moves as weights"
        )
    if comm is not None and not method.sharded:
        raise ValueError(f"{method!r} is for one machine: comm= is not for it")
    if method.by_weights and chosen:
        raise ValueError(f"{method!r} moves weights: eliminate= and gram= are not for it")
    if comm is not None or method.by_weights:
        return False
    return eliminate


def checked_measurement(
    measurement: Any, network: ReLUNetwork, samples: int, method: Method
) -> Outputs:
    """What `measurement` of :func:`opflow.train` sees of the outputs, or why it cannot."""
    if measurement is None:
        return OUTPUTS
    if method.batch is not None or not method.measures:
        raise ValueError(
            f"measurement= is not for {method!r}: GradientDescent() without batch=, GaussNewton(), "
            "GradientFlow(), ExponentialFlow(), ExactFlow() and LinearisedFlow() take it"
        )
    k = network.outputs
    return Measured(measuring_operator(measurement, samples, k, network.readout), k)


def check_loss(loss: str, diverge: float) -> None:
    """Raise unless these are a way to sum losses, and a factor of at least 1."""
    if loss not in ("sum", "mean"):
        raise ValueError(f"loss must be 'sum' or 'mean', not {loss!r}")
    if not isinstance(diverge, int | float) or isinstance(diverge, bool):
        raise TypeError(f"diverge must be a number, not {diverge!r}")
    if not diverge >= 1:
        raise ValueError(f"diverge must be a factor of at least 1, or math.inf, not {diverge!r}")


#: the kernel between new points and the samples
Cross = Callable[[Any], Operator]


def checked_gram(gram: Any, network: ReLUNetwork, X: Data) -> tuple[Operator | None, Cross | None]:
    """The kernel of the first layer as an operator, and its cross kernel where it has one."""
    if gram is None:
        return None, None
    cross: Cross | None = None
    if X is not None:
        cross = _no_cross
    if callable(gram) and not is_operator(gram):
        if X is None or is_whole(X):
            raise ValueError("a callable gram needs X as an array or rows on disk")
        kernel: Operator = FunctionGram(gram, X)
        cross = partial(FunctionGram, gram, Y=X)
    else:
        if not is_operator(gram):
            gram = check_real(gram, "gram", dtype=network.dtype, finite=True)
        kernel = as_operator(gram, symbol="G")
        if isinstance(gram, FunctionGram) and _same(gram.data, X):
            cross = partial(FunctionGram, gram.function, Y=X)
    n = int((kernel if X is None else X).shape[0])
    if kernel.shape != (n, n):
        raise ValueError(f"gram has shape {kernel.shape} but there are {n} samples: ({n}, {n})")
    if kernel.dtype != network.dtype:
        raise TypeError(f"gram is {kernel.dtype} but the network is {network.dtype}")
    _check_positive(kernel, namespace(network.readout))
    # positive semidefinite: that is what ``gram=`` means
    return kernel._changed(psd=True, symmetric=True), cross


def _check_positive(kernel: Operator, xp: Any) -> None:
    """Raise unless the kernel is finite, symmetric and positive on four random vectors."""
    n = kernel.shape[0]
    probe = xp.asarray(np.random.default_rng(0).standard_normal((n, 4)), dtype=kernel.dtype)
    columns = kernel.matmat(probe)
    if not bool(xp.isfinite(columns).all()):
        raise ValueError("gram contains NaN or infinity")
    rounding = float(xp.finfo(kernel.dtype).eps) * float(abs(columns).max())
    if not kernel.symmetric:
        gap = float(abs(columns - kernel.rmatmat(probe)).max())
        if gap > 100 * n**0.5 * rounding:
            raise ValueError("gram must be symmetric")
    if float((probe * columns).sum(axis=0).min()) < -100 * n * rounding:
        raise ValueError("gram must be positive semidefinite")


def _same(one: Data, other: Data) -> bool:
    if is_array(one) and is_array(other) and one.shape == other.shape:
        return bool((one == other).all())
    return one is other


def _no_cross(new: Data) -> Operator:
    raise ValueError("predictions need the kernel as a function of X: gram=callable")
