"""Pictures of predictions against the truth: regressions, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opflow.data.fit import fit
from opflow.machine.arrays import Array, Data, as_array, to_host
from opflow.plot.axes import BESIDE, SEQUENTIAL, Axes, axes, coloured, finish, number, styled
from opflow.plot.given import by_label, numbers

#: options of the legend: right of the axes, with larger points
LEGEND = BESIDE | {"markerscale": 1.5}
#: classes up to which every cell shows its count
FEW = 20


def predicted(true: Data, predicted: Data = None, ax: Axes = None, **style: Any) -> Axes:
    """Predictions of a regression against the true values, with R² and the RMSE in the legend.

    Parameters
    ----------
    true : array (N,) or (N, k), a run or a fitted estimator, or mapping of labels to pairs
        What has `predict` predicts the X of ``predicted=(X, y)``; pairs are (true, predicted).
    predicted : array of the shape of `true`, or (X, y)
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.plot.residuals : The differences instead.
    opflow.plot.confusion : The same for classes.

    Examples
    --------
    >>> import opflow.plot
    >>> opflow.plot.predicted([1.0, 2.0, 3.0], [1.0, 2.0, 2.0]).lines[0].get_label()
    'R² 0.5, RMSE 0.577'
    """
    sets = _regressions(true, predicted)
    ax = axes(ax, (6.0, 4.2))
    ends = [np.inf, -np.inf]
    for label, (y, f), colour in coloured(sets, "training set"):
        name = f"{label}\n{_goodness(y, f)}".strip()
        ax.plot(y.ravel(), f.ravel(), **_points(style, name, y.size, colour))
        ends = [min(ends[0], y.min(), f.min()), max(ends[1], y.max(), f.max())]
    ax.plot(ends, ends, color="0.3", linewidth=1)
    ax.set_aspect("equal", "datalim")
    return finish(ax, "Predicted against true", "true value", "predicted value", LEGEND)


def residuals(true: Data, predicted: Data = None, ax: Axes = None, **style: Any) -> Axes:
    """The residuals of a regression, predicted − true, against its predictions.

    Parameters
    ----------
    true, predicted
        As for :func:`predicted`.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.plot.predicted : Predictions against true values.

    Examples
    --------
    >>> import opflow.plot
    >>> opflow.plot.residuals([1.0, 2.0], [1.5, 2.0]).lines[0].get_ydata().tolist()
    [0.5, 0.0]
    """
    sets = _regressions(true, predicted)
    ax = axes(ax)
    for label, (y, f), colour in coloured(sets, "training set"):
        ax.plot(f.ravel(), (f - y).ravel(), **_points(style, label, y.size, colour))
    ax.axhline(0.0, color="0.3", linewidth=1)
    return finish(ax, "Residuals", "predicted value", "predicted − true", LEGEND)


def confusion(
    true: Data, predicted: Data, classes: Data = None, ax: Axes = None, **style: Any
) -> Axes:
    """The confusion matrix: counts of samples, and as colours the shares of the true class.

    Parameters
    ----------
    true : labels (N,), outputs or one-hot targets (N, k), or a run or a fitted estimator
        Of outputs the largest counts.  What has `predict` predicts the X of ``predicted=(X, y)``.
    predicted : as `true`, or (X, y)
    classes : sequence, optional
        The labels in the order to draw them, or what labels 0..k − 1 are called.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``imshow``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.plot.accuracy : The accuracy along a run.
    opflow.plot.predicted : The same for regression.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.confusion(["a", "b", "b"], ["a", "b", "a"])
    >>> [text.get_text() for text in ax.texts], ax.get_title()
    (['1', '', '1', '1'], 'Confusion matrix, 66.7 % right')
    """
    true, predicted = _pair(true, predicted)
    y = _labels(true, "true")
    f = _labels(predicted, "predicted")
    if len(y) != len(f) or not len(y):
        raise ValueError(f"true has {len(y)} labels and predicted has {len(f)}")
    if classes is None:
        classes = np.union1d(y, f)
    kinds = np.asarray(classes)
    n = len(kinds)
    index = {kind: i for i, kind in enumerate(kinds.tolist())}
    if kinds.dtype.kind not in "iu":  # labels may be numbers of classes
        index |= {i: i for i in range(n)}
    counts = np.zeros((n, n), dtype=int)
    try:
        for right, found in zip(y.tolist(), f.tolist(), strict=True):
            counts[index[right], index[found]] += 1
    except KeyError as error:
        label = error.args[0]
        raise ValueError(f"{label!r} is a label, but none of classes: {kinds.tolist()}") from None
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.42 * n + 1.6, 3.6, 9.0))
    ax = axes(ax, (side + 1.0, side))
    image = ax.imshow(shares, **styled(style, cmap=SEQUENTIAL, vmin=0, vmax=100))
    ax.figure.colorbar(image, ax=ax, shrink=0.85, label="share of the true class (%)")
    if n <= FEW:
        for (i, j), count in np.ndenumerate(counts):
            text = {"ha": "center", "va": "center", "fontsize": 8}
            text["color"] = "black" if image.norm(shares[i, j]) > 0.5 else "white"
            ax.text(j, i, f"{count:,}" if count else "", **text)
    shown = range(0, n, -(-n // 40))
    names = [str(kinds[i]) for i in shown]
    ax.set_yticks(shown, names)
    ax.set_xticks(shown, names, rotation=90 * (max(map(len, names)) > 2))
    right = 100 * np.trace(counts) / counts.sum()
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_title(f"Confusion matrix, {right:.3g} % right")
    return ax


def _pair(true: Data, predicted: Data) -> tuple[Any, Any]:
    """True and predicted answers: as they are, or what a model predicts of (X, y)."""
    if not hasattr(true, "predict"):
        return true, predicted
    if not (isinstance(predicted, tuple) and len(predicted) == 2):
        raise TypeError(f"a {type(true).__name__} predicts of data: give predicted=(X, y)")
    X, y = predicted
    return y, true.predict(X)


def _regressions(true: Data, predicted: Data) -> dict[str, tuple[Array, Array]]:
    """True and predicted values (N, k) of each set."""

    def take(pair: tuple[Data, Data]) -> tuple[Array, Array]:
        what = "numbers (N,) or (N, k)"
        y = numbers(pair[0], "true", what, (1, 2))
        f = numbers(pair[1], "predicted", what, (1, 2))
        if len(y) != len(f) or y.size != f.size:
            raise ValueError(f"true has shape {y.shape}, predicted has {f.shape}")
        return y.reshape(len(y), -1), f.reshape(len(f), -1)

    if not isinstance(true, Mapping):
        true = _pair(true, predicted)
    return by_label(true, "true", take)


def _labels(values: Data, name: str) -> Any:
    """Labels (N,)."""
    labels = np.asarray(to_host(as_array(values, name)))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2:
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        raise ValueError(f"{name} must be labels (N,) or outputs (N, k), not {labels.shape}")
    return labels


def _points(style: Mapping[str, Any], name: str, count: int, colour: Any) -> dict[str, Any]:
    """Points that are seen where there are few, and through one another where there are many."""
    alpha = float(np.clip(30 / np.sqrt(count), 0.2, 0.7))
    ours = {"color": colour, "linestyle": "", "marker": "o", "markersize": 4, "alpha": alpha}
    return styled(style, name, markeredgewidth=0, **ours)


def _goodness(y: Array, f: Array) -> str:
    """R² and RMSE as the table of a run has them; constants have no R²."""
    good = fit(f - y, y)
    words = f"RMSE {number(good['rmse'])}"
    if not np.isnan(good["r2"]):
        words = f"R² {good['r2']:.3g}, {words}"
    return words
