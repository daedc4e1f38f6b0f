"""The estimators are what the library computes, with scikit-learn's manners."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.interface.extras import install

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from opflow.sklearn import NTKRegressor, ReLUClassifier, ReLURegressor

EPS = np.finfo(float).eps
SMALL = {"widths": (20,), "steps": 60}


@parametrize_with_checks(
    [
        ReLURegressor(**SMALL),
        ReLUClassifier(**SMALL),
        NTKRegressor((30,)),
    ]
)
def test_scikit_learn_finds_an_estimator(estimator, check):
    check(estimator)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = 10 + rng.standard_normal((60, 3)) * [1.0, 100.0, 1e-2]
    return X, 1e3 + X[:, 0] - 0.02 * X[:, 1] + 0.1 * rng.standard_normal(60)


def test_a_linear_law_is_learned(data):
    X = data[0]
    y = 1e3 * X[:, 0] + X[:, 1] - 5e4 * X[:, 2]
    model = ReLURegressor(early_stopping=False, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.999
    assert model.n_iter_ == 400 == len(model.run_.losses) - 1


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regression_is_a_run_on_targets_about_their_mean(data, standardise, outputs):
    X, y = data
    y = y if outputs == 1 else np.stack([y, -X[:, 1]], axis=1)
    X = X if standardise else (X - X.mean(0)) / X.std(0)
    options = {"standardise": standardise, "early_stopping": False, "random_state": 3}
    model = ReLURegressor((8,), steps=20, step=0.02, **options).fit(X, y)
    inputs = of.Standardiser.fit(X)
    A = inputs.transform(X) if standardise else X
    seed = np.random.RandomState(3).randint(2**31)
    net = of.ReLUNetwork.random([3, 8], outputs=outputs, scaling="mean-field", bias=True, seed=seed)
    y = y.reshape(60, -1)
    targets = of.Standardiser.fit(y)
    run = of.train(net, A, targets.transform(y), steps=20, loss="mean",
                   method=of.GradientDescent(0.02))  # fmt: skip
    np.testing.assert_array_equal(model.run_.losses, run.losses)
    wanted = targets.inverse(run.network(A))
    np.testing.assert_array_equal(model.predict(X), wanted if outputs == 2 else wanted[:, 0])
    np.testing.assert_array_equal(model.run_.predict(X, raw=True), run.network(A))


def test_classes_are_regressed_on_as_one_hot_vectors_about_their_shares(data):
    X = data[0]
    y = np.where(X[:, 0] > 10.5, "spam", "ham")
    model = ReLUClassifier((8,), early_stopping=False, random_state=0).fit(X, y)
    assert model.classes_.tolist() == ["ham", "spam"]
    A = (X - X.mean(0)) / X.std(0)
    share = np.array([np.mean(y == "ham"), np.mean(y == "spam")])
    f = model.run_.network(of.Standardiser.fit(X).transform(X))
    np.testing.assert_allclose(f, model.run_.network(A), atol=1e3 * EPS)
    np.testing.assert_allclose(model.run_.residual, f - ((y[:, None] == model.classes_) - share),
                               atol=100 * EPS)  # fmt: skip
    np.testing.assert_array_equal(model.predict(X), model.classes_[(f + share).argmax(1)])
    p = np.maximum(f + share, 0)
    np.testing.assert_allclose(model.predict_proba(X), p / p.sum(1, keepdims=True), rtol=8 * EPS)
    assert model.score(X, y) > 0.95


def test_early_stopping_trains_on_all_until_the_time_that_is_best_for_some(data):
    X, y = data
    y = y + 3 * np.random.default_rng(1).standard_normal(60)
    options = {"widths": (50,), "steps": 200, "step": 0.05, "random_state": 0}
    model = ReLURegressor(validation_fraction=0.25, **options).fit(X, y)
    order = np.random.RandomState(0).permutation(60)
    held, rest = np.sort(order[:15]), np.sort(order[15:])
    inputs, targets = of.Standardiser.fit(X), of.Standardiser.fit(y[:, None])
    A, Y = inputs.transform(X), targets.transform(y[:, None])
    losses = []
    net = of.ReLUNetwork.random([3, 50], scaling="mean-field", bias=True,
                                seed=np.random.RandomState(0).randint(2**31))  # fmt: skip
    of.train(net, A[rest], Y[rest], method=of.GradientDescent(0.05), loss="mean", steps=200,
             observe=[lambda m: losses.append(np.square(m.predict(A[held]) - Y[held]).sum())]
    )  # fmt: skip
    assert 0 < np.argmin(losses) < 200
    assert model.n_iter_ == np.argmin(losses)
    whole = of.train(net, A, Y, method=of.GradientDescent(0.05), loss="mean", steps=model.n_iter_)
    np.testing.assert_array_equal(model.run_.losses, whole.losses)


@pytest.mark.parametrize(
    "method",
    [
        None,
        of.GradientDescent(0.05, momentum=0.9),
        of.GradientDescent(0.01, batch=7, rng=0),
        of.GradientFlow(),
    ],
)
@pytest.mark.parametrize("kind", [ReLURegressor, ReLUClassifier])
def test_a_warm_start_is_one_longer_run(data, method, kind):
    X, y = data
    y = y if kind is ReLURegressor else y > 1010
    options = {"widths": (8,), "warm_start": True, "random_state": 0, "method": method}
    parts = kind(steps=7, **options).fit(X, y)
    parts = pickle.loads(pickle.dumps(parts)).set_params(steps=5).fit(X, y)
    whole = kind(steps=12, **options).fit(X, y)
    assert parts.n_iter_ == whole.n_iter_ == 12
    np.testing.assert_array_equal(parts.run_.losses, whole.run_.losses)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
    assert whole.run_.losses[-1] < whole.run_.losses[0]


def test_a_warm_start_takes_no_step_twice(data):
    asked = []

    def schedule(n):
        asked.append(n)
        return 0.05

    model = ReLURegressor((8,), steps=7, step=schedule, warm_start=True, random_state=0)
    model.fit(*data).fit(*data)
    assert asked == list(range(14))


def test_a_warm_start_on_other_data_begins_at_the_last_network(data):
    X, y = data
    model = ReLURegressor((8,), steps=7, step=0.05, warm_start=True, random_state=0).fit(X, y)
    before = model.run_.network
    model.fit(X[:40], y[:40])
    A = of.Standardiser.fit(X[:40]).transform(X[:40])
    Y = of.Standardiser.fit(y[:40, None]).transform(y[:40, None])
    run = of.train(before, A, Y, loss="mean", steps=7, method=of.GradientDescent(0.05))
    np.testing.assert_array_equal(model.run_.losses, run.losses)
    model.set_params(warm_start=False).fit(X, y)
    np.testing.assert_array_equal(
        model.run_.losses, clone(model).set_params(step=0.05).fit(X, y).run_.losses
    )


@pytest.mark.parametrize("model", [ReLURegressor(**SMALL), NTKRegressor((20,))])
def test_a_column_of_targets_is_a_vector(data, model):
    X, y = data
    wanted = model.set_params(random_state=0).fit(X, y).predict(X)
    with pytest.warns(DataConversionWarning):
        got = model.fit(X, y[:, None]).predict(X)
    np.testing.assert_array_equal(got, wanted)


def dense(model, X):
    return of.collective_kernel(model.network_.fields(model._task.prepare(X))).todense()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("alpha", ["loo", 0.5])
def test_kernel_regression_is_the_dense_formula(data, alpha, outputs, dtype):
    X, y = (a.astype(dtype) for a in data)
    y = y if outputs == 1 else np.stack([y, -X[:, 1]], axis=1)
    new = X[::3] + dtype(0.5) * X.std(0)
    model = NTKRegressor((40, 40), alpha=alpha, random_state=0).fit(X, y)
    K = dense(model, X).astype(float)
    Z = model._task.prepare(new)
    cross = of.cross_kernel(model.network_.fields(Z), model.network_.fields(model._task.prepare(X)))
    y = y.astype(float).reshape(60, -1)
    mean, scale = y.mean(0), y.std(0)
    C = np.linalg.solve(K + model.alpha_ * np.eye(60), (y - mean) / scale)
    wanted = mean + scale * (cross.todense().astype(float) @ C)
    size = np.linalg.cond(K + model.alpha_ * np.eye(60)) * np.finfo(dtype).eps
    got = model.predict(new)
    assert got.dtype == dtype and got.shape == ((20,) if outputs == 1 else (20, 2))
    solver = 0 if alpha == "loo" else 1e-8 if dtype is np.float64 else 1e-5
    errors = (got.reshape(20, -1) - wanted) / scale
    np.testing.assert_allclose(errors, 0, atol=4 * size + 10 * solver)
    assert model.alpha_ == alpha or alpha == "loo"


def test_leaving_one_out_is_what_it_says(data):
    X, y = data
    model = NTKRegressor((40,), random_state=0).fit(X, y)
    K = dense(model, X)
    z = (y - y.mean()) / y.std()

    def brute(alpha):
        errors = []
        for i in range(60):
            rest = np.arange(60) != i
            c = np.linalg.solve(K[np.ix_(rest, rest)] + alpha * np.eye(59), z[rest])
            errors.append(z[i] - K[i, rest] @ c)
        return np.mean(np.square(errors))

    np.testing.assert_allclose(model.loo_error_, brute(model.alpha_), rtol=1e-9)
    assert all(brute(model.alpha_ * f) > model.loo_error_ for f in (0.01, 0.5, 2.0, 100.0))
    assert not hasattr(NTKRegressor((40,), alpha=1.0).fit(X, y), "loo_error_")


def test_a_dense_kernel_has_to_fit(data):
    with pytest.raises(MemoryError, match="over the budget"):
        NTKRegressor(memory="1KB").fit(*data)


@pytest.mark.parametrize("kind", [ReLURegressor, ReLUClassifier, NTKRegressor])
def test_sparse_features_give_what_dense_ones_give_where_nothing_is_shifted(data, kind):
    X, y = data[0] - 10, data[1] if kind is not ReLUClassifier else data[1] > 1010
    X[abs(X) < 0.5 * X.std(0)] = 0
    small = {} if kind is NTKRegressor else {"steps": 30}
    options = {"widths": (8,), "random_state": 0, **small}
    got = kind(**options).fit(sp.csr_array(X), y)
    scaled = X / np.sqrt((X**2).mean(0))
    wanted = kind(standardise=False, **options).fit(scaled, y)
    if kind is ReLUClassifier:
        wanted, got = wanted.predict_proba(scaled), got.predict_proba(sp.csr_array(X))
    else:
        wanted, got = wanted.predict(scaled), got.predict(X)
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_what_a_run_saves_predicts_as_the_estimator(data, tmp_path):
    X = data[0]
    y = np.where(X[:, 0] > 10, "spam", "ham").astype(object)
    model = ReLUClassifier(**SMALL).fit(X, y)
    model.run_.save(tmp_path / "run.npz")
    run = of.Trajectory.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(run.predict(X), model.predict(X))


def test_a_fitted_estimator_does_not_carry_its_data():
    X = np.random.default_rng(0).standard_normal((20_000, 5))
    model = ReLURegressor((4,), steps=2, early_stopping=False).fit(X, X[:, 0])
    # the residual alone has a number a sample
    assert len(pickle.dumps(model)) < X.nbytes / 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ReLURegressor(validation_fraction=1.0), r"validation_fraction must be in \[0, 1\), not 1"),
        (ReLURegressor(step=-1), "step must be positive"),
        (ReLURegressor(scaling="small"), "scaling must be one of"),
        (NTKRegressor(alpha=-1.0), "alpha must be a number of at least 0, or 'loo', not -1.0"),
        (NTKRegressor(alpha="best"), "alpha must be a number of at least 0, or 'loo', not 'best'"),
    ],
)
def test_errors_name_the_parameter(data, model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(*data)


def test_a_width_may_be_a_number(data):
    assert ReLURegressor(7, steps=1).fit(*data).run_.network.widths == (3, 7)


def test_pipelines_searches_and_cross_validation(data):
    X, y = data
    pipe = make_pipeline(MinMaxScaler(), ReLURegressor(**SMALL, random_state=0))
    search = GridSearchCV(pipe, {"relurregressor__steps".replace("rr", "r"): [1, 60]}, cv=3)
    assert search.fit(X, y).best_params_ == {"reluregressor__steps": 60}
    assert cross_val_score(NTKRegressor((50,)), X, y, cv=3).min() > 0.5
    copy = clone(ReLUClassifier((3,), step=0.5))
    assert (copy.widths, copy.step) == ((3,), 0.5)


def test_columns_have_names():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1, 0, 1, 0]})
    model = ReLURegressor(**SMALL).fit(table, table["a"])
    assert model.feature_names_in_.tolist() == ["a", "b"] and model.n_features_in_ == 2
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table.rename(columns={"a": "c"}))


def test_the_library_does_without_scikit_learn():
    program = (
        "import sys; import opflow; assert 'sklearn' not in sys.modules\n"
        "sys.modules['sklearn.base'] = None\n"
        "try: import opflow.sklearn\n"
        "except ImportError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout == f"opflow.sklearn needs scikit-learn: {install('sklearn')}\n"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("load", "kind", "least"),
    [(load_diabetes, ReLURegressor, 0.36), (load_diabetes, NTKRegressor, 0.36),
     (load_wine, ReLUClassifier, 0.975), (load_breast_cancer, ReLUClassifier, 0.965)],
)  # fmt: skip
def test_defaults_generalise(load, kind, least):
    X, y = load(return_X_y=True)
    scores = []
    for seed in range(5):
        some, new, known, hidden = train_test_split(X, y, test_size=0.2, random_state=seed)
        scores.append(kind(random_state=seed).fit(some, known).score(new, hidden))
    assert np.mean(scores) >= least


def test_a_warm_start_goes_on_with_the_same_shapes_and_classes():
    X = np.random.default_rng(0).standard_normal((30, 3))
    model = ReLUClassifier((8,), steps=2, warm_start=True, random_state=0)
    model.fit(X, X[:, 0] > 0)
    with pytest.raises(ValueError, match="classes of before"):
        model.fit(X, np.where(X[:, 0] > 0, "a", "b"))
    with pytest.raises(ValueError, match="as many features, units"):
        model.fit(X[:, :2], X[:, 0] > 0)
    with pytest.raises(ValueError, match="as many features, units"):
        model.set_params(widths=(9,)).fit(X, X[:, 0] > 0)
