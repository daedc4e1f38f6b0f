"""
A table of your own
===================

From a CSV file to predictions of held-out rows, with scikit-learn's interface: a ReLU network
trained by gradient descent, and regression with a tangent kernel, beside scikit-learn's ridge and
kernel ridge. On the diabetes data, which are nearly linear, all explain half of the variance.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import opflow as of
from opflow.sklearn import NTKRegressor, ReLURegressor

# %%
# The table has a header, a row per patient, and the target in its last column.

data = load_diabetes(scaled=False)
with tempfile.TemporaryDirectory() as folder:
    path, header = Path(folder, "diabetes.csv"), ",".join([*data.feature_names, "progress"])
    np.savetxt(path, np.c_[data.data, data.target], delimiter=",", header=header, comments="")
    X, y = np.split(np.loadtxt(path, delimiter=",", skiprows=1), [10], axis=1)

# %%
# opflow's estimators standardise the columns and choose when to stop, or the ridge, by themselves.
# In five folds, each row is predicted by a model that has not seen it.

alphas = np.geomspace(0.01, 100, 5)
grid = {"kernelridge__alpha": alphas, "kernelridge__gamma": [0.003, 0.01]}
radial = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))
models = {
    "network (opflow)": ReLURegressor(widths=(32, 32), random_state=0),
    "tangent kernel (opflow)": NTKRegressor(random_state=0),
    "ridge": make_pipeline(StandardScaler(), RidgeCV(alphas)),
    "kernel ridge": GridSearchCV(radial, grid, cv=3),
}
folds, found = KFold(5, shuffle=True, random_state=0), {}
for name, model in models.items():
    found[name] = cross_val_predict(model, X, y.ravel(), cv=folds)
    print(f"{name:24} held-out R² {r2_score(y, found[name]):.2f}")

# %%
# Right: scores of the folds, and their means. The folds differ more than the models.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
of.plot.predicted(y[:, 0], found["network (opflow)"], ax=axes[0])
axes[0].set(xlabel="disease progress", ylabel="predicted by the network", title="Held-out rows")
axes[0].legend(loc="upper left")
for i, (f, colour) in enumerate(zip(found.values(), of.plot.COLOURS, strict=False)):
    scores = [r2_score(y[test], f[test]) for _, test in folds.split(X)]
    axes[1].plot(scores, [i] * 5, "o", color=colour, alpha=0.5)
    axes[1].plot(np.mean(scores), i, "|", color=colour, ms=22, mew=3)
axes[1].set(xlabel="held-out R²", yticks=range(4), yticklabels=found, ylim=(3.5, -0.5))
plt.show()
