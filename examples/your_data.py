"""Your own data: from a table to predictions, on the command line and with scikit-learn.

    pip install '.[demo,tables]' && python examples/your_data.py --out figures

Four tables that come with scikit-learn are written as CSV files.  Each is trained on, predicted
and drawn by the commands that a reader would type.  Then the estimators of `opflow.sklearn` are
compared with scikit-learn's multilayer perceptrons of equal widths on a held-out fifth.
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from opflow.cli.commands import main
from opflow.sklearn import ReLUClassifier, ReLURegressor

WIDTHS = (64, 64)
SETS = {
    "diabetes": datasets.load_diabetes,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


def write_table(name: str, folder: Path) -> Path:
    """The data set as a CSV file with a header; classes are written as words."""
    found = SETS[name](as_frame=True)
    table = found.frame
    if "target_names" in found:
        table["target"] = np.asarray(found.target_names).astype(str)[found.target]
    if name == "digits":
        table["target"] = "digit " + table["target"].astype(str)
    path = folder / f"{name}.csv"
    table.to_csv(path, index=False)
    return path


def commands(path: Path, folder: Path, steps: int) -> None:
    """What one would type: train, then predict the rows of a table without its targets."""
    run = folder / path.stem
    features = path.with_suffix(".new.csv")
    pd.read_csv(path).drop(columns="target").head(20).to_csv(features, index=False)
    for line in (
        f"opflow train {path} --target target --widths {','.join(map(str, WIDTHS))}"
        f" --steps {steps} --test-fraction 0.2 --seed 0 --out {run} --overwrite --quiet",
        f"opflow predict {run} {features} --out {run / 'predictions.csv'} --overwrite",
    ):
        print("$", line)
        code = main(shlex.split(line)[1:])
        if code:
            raise SystemExit(code)
    print(pd.read_csv(run / "predictions.csv").head(3).to_string(), end="\n\n")


def compare(name: str, seeds: range) -> tuple[list[float], list[float]]:
    """Scores on a held-out fifth: R² of a regression, accuracy of a classification."""
    X, y = SETS[name](return_X_y=True)
    regression = name == "diabetes"
    ours, theirs = [], []
    for seed in seeds:
        split = train_test_split(X, y, test_size=0.2, random_state=seed)
        train_X, test_X, train_y, test_y = split
        kind = ReLURegressor if regression else ReLUClassifier
        model = kind(widths=WIDTHS, random_state=seed)
        ours.append(model.fit(train_X, train_y).score(test_X, test_y))
        kind = MLPRegressor if regression else MLPClassifier
        peer = make_pipeline(StandardScaler(), kind(hidden_layer_sizes=WIDTHS, random_state=seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs.append(peer.fit(train_X, train_y).score(test_X, test_y))
    return ours, theirs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for results")
    parser.add_argument("--steps", type=int, default=300, help="of the runs by command")
    parser.add_argument("--seeds", type=int, default=5, help="splits and starts to compare over")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        commands(write_table(name, options.out), options.out, options.steps)
    print(f"{'held-out score':16}{'opflow':>18}{'scikit-learn MLP':>20}")
    for name in SETS:
        cells = [f"{np.mean(s):.3f} ± {np.std(s):.3f}" for s in compare(name, range(options.seeds))]
        print(f"{name:16}{cells[0]:>18}{cells[1]:>20}")
