"""Estimators for scikit-learn: networks trained by opflow, and regression with their kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opflow.data.standardise import Standardiser
from opflow.data.task import Task
from opflow.dynamics import GradientDescent, Trajectory, train
from opflow.dynamics.methods.method import Method
from opflow.dynamics.observe import HeldOutLoss
from opflow.dynamics.storage.fingerprint import fingerprint
from opflow.evaluation.dense import dense
from opflow.interface.extras import install
from opflow.machine.arrays import Array, Data
from opflow.relu import ReLUNetwork, collective_kernel, cross_kernel
from opflow.spectral.functions.regression import kernel_regression, leave_one_out

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(f"opflow.sklearn needs scikit-learn: {install('sklearn')}") from error

__all__ = ["NTKRegressor", "ReLUClassifier", "ReLURegressor"]


class _Estimator(BaseEstimator):
    """What the estimators share: data as scikit-learn checks it, their task, a random start."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _checked(self, X: Data, y: Data = "no_validation", **options: Any) -> Any:
        kinds = (np.float64, np.float32)
        return validate_data(self, X, y, accept_sparse="csr", dtype=kinds, **options)

    def _regression(self, X: Data, y: Data) -> tuple[Any, Any, Task]:
        X, y = self._checked(X, y, multi_output=True, y_numeric=True)
        if y.shape[1:] == (1,):
            y = column_or_1d(y, warn=True)
        targets = Standardiser.fit(y.reshape(len(y), -1), dtype=X.dtype)
        return X, y, Task(targets, inputs=self._inputs(X))

    def _inputs(self, X: Data) -> Standardiser | None:
        return Standardiser.fit(X) if self.standardise else None

    def _widths(self, X: Data) -> list[int]:
        return [X.shape[1], *np.atleast_1d(self.widths).tolist()]

    def _network(self, X: Data, outputs: int, scaling: str) -> ReLUNetwork:
        options: Any = {"outputs": outputs, "scaling": scaling, "bias": True, "dtype": X.dtype}
        seed = check_random_state(self.random_state).randint(2**31)
        return ReLUNetwork.random(self._widths(X), seed=seed, **options)


class _Kept(NamedTuple):
    """What a `warm_start` goes on with."""

    mark: str = ""  #: of the data and the options
    start: ReLUNetwork | None = None  #: before the first step
    state: bytes = b""  #: the bytes of a checkpoint
    done: int = 0  #: steps taken


@dataclass(eq=False, repr=False)
class _Trained(_Estimator):
    """A network trained by gradient descent."""

    widths: int | Sequence[int] = (100,)
    _: KW_ONLY
    scaling: str = "mean-field"
    method: Method | None = None
    step: Any = "auto"
    steps: int = 400
    early_stopping: bool = True
    validation_fraction: float = 0.2
    standardise: bool = True
    memory: float | str | None = None
    warm_start: bool = False
    random_state: Any = None

    def _fit(self, X: Data, y: Data, task: Task) -> None:
        X = task.prepare(X)
        y = task.encode(y)
        method = self.method or GradientDescent(self.step)
        options: dict[str, Any] = {"method": method, "loss": "mean", "memory": self.memory}
        if self.warm_start:
            run = self._go_on(X, y, options)
        else:
            network = self._network(X, y.shape[1], self.scaling)
            run = train(network, X, y, **self._length(network, X, y, options), **options)
        if run.model:  # predicts by itself, without the data that the state of the run holds
            run = replace(run, _predictor=None)
        self.run_: Trajectory = replace(run, task=task)
        self.n_iter_ = int(run.steps[-1])

    def _length(self, network: ReLUNetwork, X: Data, y: Array, options: Any) -> dict[str, Any]:
        """When to stop: at the time that was best for the samples held out of a first run."""
        share = self.validation_fraction
        if not 0 <= share < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), not {share}")
        held = int(share * len(y))
        if not (held and self.early_stopping):
            return {"steps": self.steps}
        order = check_random_state(self.random_state).permutation(len(y))
        rest = np.sort(order[held:])
        left_out = np.sort(order[:held])
        loss = HeldOutLoss(X[left_out], y[left_out])
        trial = train(network, X[rest], y[rest], steps=self.steps, observe=[loss], **options)
        return {"until": trial.times[trial.observations[loss.name].argmin()]}

    def _go_on(self, X: Data, y: Array, options: dict[str, Any]) -> Trajectory:
        """So many steps more, which are those of one longer run where nothing else has changed."""
        mark = fingerprint(X, y) + repr(options)
        kept = vars(self).get("_kept", _Kept())
        last = vars(self).get("run_")
        if last is not None:
            network = last.network
            if [*self._widths(X), y.shape[1]] != [*network.widths, network.outputs]:
                same = "as many features, units and outputs as before"
                raise ValueError(f"warm_start goes on with a network of {same}: set it to False")
            if mark != kept.mark:
                kept = _Kept(mark, network)
        start = kept.start or self._network(X, y.shape[1], self.scaling)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.npz"
            if kept.state:
                file.write_bytes(kept.state)
            steps = kept.done + self.steps
            run = train(start, X, y, steps=steps, checkpoint=file, resume=True, **options)
            self._kept = _Kept(mark, start, file.read_bytes(), int(run.steps[-1]))
        return run

    def predict(self, X: Data) -> Array:
        """Labels (M,) of a classifier, values (M,) or (M, k) in the units of y of a regressor."""
        return self._predicted(X)

    def _predicted(self, X: Data, raw: bool = False) -> Array:
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return self.run_.predict(X.astype(self.run_.network.dtype, copy=False), raw)


class ReLURegressor(MultiOutputMixin, RegressorMixin, _Trained):
    """A ReLU network for regression, trained by full-batch gradient descent.

    X (N, d) may be sparse, y is (N,) or (N, k); sample weights are not supported.  A fit costs at
    most `steps` passes over the samples, and with `early_stopping` as many again.

    Parameters
    ----------
    widths : int or sequence of int, default (100,), the units of each hidden layer
    scaling : {"mean-field", "ntk", "standard"}, as in :meth:`opflow.ReLUNetwork.random`
    method : a method of :func:`opflow.train`, ``GradientDescent(step)`` by default
    step : float, "auto" or callable, the step size of that default
    steps : int, default 400
        Steps at most; with `warm_start`, more steps in every `fit`.
    early_stopping, validation_fraction : bool, default True, and float, default 0.2
        Hold out that fraction of the samples, find the time at which their loss is
        least, and train on all samples up to that time.  Not with `warm_start`.
    standardise : bool
        Bring features to mean 0 and standard deviation 1 (sparse ones: scale only), like targets.
    memory : float or str, optional, the bytes a run may hold beyond the data: ``"4GB"``
    warm_start : bool
        Go on from the last `fit`: with the same data, bit for bit as one longer run.
    random_state : int, RandomState or None, of the start and of the samples held out

    Attributes
    ----------
    run_ : Trajectory
        Losses, steps and the network; ``run_.save(path)`` keeps all that a prediction needs.
    n_iter_ : int, the steps taken

    See Also
    --------
    opflow.sklearn.NTKRegressor : Regression with the kernel.

    Examples
    --------
    >>> import numpy as np, opflow.sklearn
    >>> X = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    >>> model = opflow.sklearn.ReLURegressor(random_state=0).fit(X[:80], 100 + 20 * X[:80, 0])
    >>> bool(model.score(X[80:], 100 + 20 * X[80:, 0]) > 0.99)
    True
    """

    def fit(self, X: Data, y: Data) -> ReLURegressor:
        """Train on X (N, d) and y (N,) or (N, k)."""
        self._fit(*self._regression(X, y))
        return self


class ReLUClassifier(ClassifierMixin, _Trained):
    """A ReLU network for classification: squared loss on one output per class.

    `classes_` are the labels in order, which may be text; the other attributes are those of
    :class:`ReLURegressor`.  Probabilities are outputs plus the shares of the classes, negative
    ones set to 0, divided by their sum.

    Parameters
    ----------
    widths, scaling, method, step, steps, early_stopping, validation_fraction, standardise
    memory, warm_start, random_state
        As in :class:`ReLURegressor`.

    See Also
    --------
    opflow.sklearn.ReLURegressor : The same for regression.

    Examples
    --------
    >>> import opflow.sklearn, sklearn.datasets
    >>> X, y = sklearn.datasets.load_iris(return_X_y=True)
    >>> model = opflow.sklearn.ReLUClassifier(random_state=0).fit(X[::2], y[::2])
    >>> bool(model.score(X[1::2], y[1::2]) > 0.9)
    True
    """

    def fit(self, X: Data, y: Data) -> ReLUClassifier:
        """Train on X (N, d) and labels y (N,)."""
        X, y = self._checked(X, y)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        classes, counts = np.unique(y, return_counts=True)
        if self.warm_start and not np.array_equal(vars(self).get("classes_", classes), classes):
            raise ValueError("warm_start goes on with the classes of before: set it to False")
        self.classes_ = classes
        targets = Standardiser(counts / len(y), np.ones(len(counts)), X.dtype)
        self._fit(X, y, Task(targets, self.classes_, self._inputs(X)))
        return self

    def predict_proba(self, X: Data) -> Array:
        """Estimates of the probability of each class, (M, k)."""
        outputs = self._predicted(X, raw=True)
        assert self.run_.task is not None
        return self.run_.task.probabilities(outputs)


@dataclass(eq=False, repr=False)
class NTKRegressor(MultiOutputMixin, RegressorMixin, _Estimator):
    r"""Kernel ridge regression with the tangent kernel of a random ReLU network.

    The targets are regressed about the mean of all samples, also where one is left out: its
    residual is then :math:`(G y)_i / G_{ii}`, :math:`G = (K + \lambda)^{-1}`.

    Parameters
    ----------
    widths : int or sequence of int, default (1000,), the units of each hidden layer
    alpha : float or "loo", optional
        :math:`\lambda` of :math:`(K + \lambda)^{-1} y`; "loo", the default, takes the one whose
        leave-one-out error is least, from the eigenvalues of the dense kernel.
    standardise : bool, as in :class:`ReLURegressor`
    memory : float or str, optional
        Bytes that dense kernel may take (else ``MemoryError``); half of what is free by default.
    random_state : int, RandomState or None, of the network

    Attributes
    ----------
    network_ : ReLUNetwork
    regression_ : KernelRegression
        Of the standardised targets: coefficients, residuals, and how they were found.
    alpha_, loo_error_ : float
        The ridge, and the mean square of the leave-one-out residuals where it was chosen by it.

    See Also
    --------
    opflow.spectral.kernel_regression : The regression.

    Examples
    --------
    >>> import numpy as np, opflow.sklearn
    >>> X = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    >>> model = opflow.sklearn.NTKRegressor(random_state=0).fit(X[:80], abs(X[:80, 0]))
    >>> bool(model.score(X[80:], abs(X[80:, 0])) > 0.9)
    True
    """

    widths: int | Sequence[int] = (1000,)
    _: KW_ONLY
    alpha: float | str | None = None
    standardise: bool = True
    memory: float | str | None = None
    random_state: Any = None

    def fit(self, X: Data, y: Data) -> NTKRegressor:
        """Regress y (N,) or (N, k) on X (N, d)."""
        X, y, self._task = self._regression(X, y)
        self._rows = self._task.prepare(X)
        targets = self._task.encode(y)
        self.network_ = self._network(X, 1, "ntk")
        K = collective_kernel(self.network_.fields(self._rows))
        if self.alpha is None or self.alpha == "loo":
            formed = dense(K, self.memory)
            self.alpha_, self.loo_error_ = leave_one_out(formed, targets)
            self.regression_ = kernel_regression(formed, targets, self.alpha_, how="direct")
        elif isinstance(self.alpha, Real) and 0 <= self.alpha < np.inf:
            self.alpha_ = float(self.alpha)
            self.regression_ = kernel_regression(K, targets, self.alpha_)
        else:
            raise ValueError(f"alpha must be a number of at least 0, or 'loo', not {self.alpha!r}")
        return self

    def predict(self, X: Data) -> Array:
        """Predictions (M,) or (M, k) in the units of y."""
        check_is_fitted(self)
        X = self._checked(X, reset=False).astype(self.network_.dtype, copy=False)
        new = self.network_.fields(self._task.prepare(X))
        cross = cross_kernel(new, self.network_.fields(self._rows))
        return self._task.answers(self.regression_.predict(cross))
