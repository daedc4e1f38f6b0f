"""The glossary of ``opflow explain``: the words of the tables in a sentence each."""

from __future__ import annotations

from opflow.interface.words import near

_TEXT = """
network: Sizes of the layers from inputs to outputs, the number of weights, and the precision.
samples: N, the number of rows of the data set that the network is trained on.
target: The column that the network learns to predict, and whether it holds classes or numbers.
steps: Number of updates of all weights.
route: How the first layer is trained: by its weights, or through the Gram matrix X Xᵀ of the inputs
    (eliminated; faster if there are more features than samples).  Both give the same run.
step size: Factor of the gradient in an update.  auto keeps it below the stability limit.
kernel products: Number of products of the kernel K with a vector, the unit of a run's work.
loss: Half the sum of the squared residuals, which are outputs minus targets; of a regression in the
    units of the target.
residual norm: ‖r‖, the root of the sum of the squared residuals, which are outputs minus targets;
    of a regression in the units of the target.
RMSE: The root of the mean squared error of the predictions, in the units of the target.
R²: The share of the target's variance that is explained: 1 is perfect, 0 no better than the mean.
accuracy: The share of samples whose largest output is that of their class.
held-out loss: Half the squared residual per sample, on test data that were not trained on.
held-out accuracy: The accuracy on test data that were not trained on.
held-out RMSE: The RMSE on test data that were not trained on.
held-out R²: The R² on test data that were not trained on.
λ_max(K): The largest eigenvalue of the kernel K: the rate at which the fastest part of the residual
    decays.
2/λ_max(K): The stability limit: with a larger step size the loss of gradient descent grows.
2/step: The largest eigenvalue for which the step size of the run is stable.
‖K‖: The norm of the kernel, which is its largest eigenvalue.
tr K: The trace of the kernel, the sum of all its eigenvalues.
‖K‖_F: The Frobenius norm of the kernel, the root of the sum of the squared eigenvalues.
kernel before, kernel after: Why the kernel was not analysed at the start or at the end of the run.
balancedness drift: The change of W Wᵀ − WᵀW between neighbouring layers since the start.  It is
    zero under exact gradient flow, so it measures how far the steps are from that.
time, memory: Seconds from start to end, and the most memory that the process held.
effective rank: How many eigenvalues matter: the exponential of the entropy of their shares of tr K.
participation ratio: How many eigenvalues dominate: (tr K)² / ‖K‖_F², less than the effective rank.
zero eigenvalues: The number of directions of the targets that training cannot change.
power law: The exponent a of a fit λ ≈ rank^a to the eigenvalues, and the ranks of the fit.
alignment: yᵀK y / (‖K‖_F ‖y‖²), from 0 to 1: how well a kernel, or a layer's, suits the targets.
share of tr K: The share of a layer's weights in the trace of the kernel.
‖r‖² in the top modes: The share of the squared residual in the span of the eigenvectors computed.
‖K u − λ u‖ at most: The largest error of the eigenpairs.
‖K(t) − K(0)‖/‖K(0)‖: The relative change of the kernel in the run: near 0 means lazy training.
alignment K(t), K(0): The cosine of the angle between the kernels of the end and of the start.
eigenvectors turned by: Angles between the spans of the leading eigenvectors at start and end.
eigenpairs: The largest eigenvalues of the kernel and their eigenvectors.
density: The distribution of the eigenvalues, estimated with random vectors (probes).
heat map: A picture of the kernel, its samples in groups.
kernel distance: ‖K(t) − K(0)‖/‖K(0)‖ in the Frobenius norm.
kernel alignment: The alignment of K(t) and K(0).
note: A warning of the analysis.
route, set-up, a step, moved, held: The costs of a route: work before the first step, work and bytes
    read and written per step, and memory held.
checkpoint: A saved state, from which --resume goes on.
"""

#: sentences by word
WORDS = dict(line.split(": ", 1) for line in _TEXT.replace("\n    ", " ").strip().splitlines())
#: the line below a table
HINT = "opflow explain WORD says what a word of the table means"


def explained(word: str) -> str:
    """What a word of a table means; without a word, the list of words.

    Examples
    --------
    >>> explained("tr K")
    'tr K: The trace of the kernel, the sum of all its eigenvalues.'
    """
    if not word:
        return "opflow explain WORD, of the words of the tables:\n  " + "\n  ".join(WORDS)
    asked = _plain(word)
    exact = [key for key in WORDS if _plain(key) == asked]
    inside = [key for key in WORDS if asked in _plain(key)]
    around = sorted((key for key in WORDS if _plain(key) in asked), key=len)[-1:]
    found = exact or around or inside
    if not found:
        raise ValueError(f"{word!r} is no word of the tables{near(word, WORDS)}")
    return "\n".join(f"{key}: {WORDS[key]}" for key in found)


def _plain(word: str) -> str:
    return " ".join(word.lower().replace("lambda", "λ").replace("||", "‖").split())
