"""Ways of giving data wrongly or unusually: each is a result or one clear sentence."""

import gzip
import io
import json
import sys

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.cli.commands import main
from opflow.data.files import Reading
from opflow.data.load import load

PLAIN = Reading(standardise=False)
IRIS = "long,wide,species\n1,2.5,se\n3,4,vi\n5,6,se\n8,7,vi\n"
IRIS_X = [[1, 2.5], [3, 4], [5, 6], [8, 7]]
PRICE = "size,rooms,price\n10,1,100.5\n20,2,180.25\n30,3,330\n45,5,400\n"
PRICE_X = [[10, 1], [20, 2], [30, 3], [45, 5]]
GAPS = "a,b,y\n1,2,0.5\n,4,1.5\n5,NA,2.5\n7,8,3.5\n"
WORDS = "colour,b,y\nred,1,0.5\nblue,2,1.5\nred,4,2.5\n"
RED = [[0, 1, 1], [1, 0, 2], [0, 1, 4]]

#: name of a file, what is in it, how it is read, what it is taken for, and the features
RESULTS = [
    ("a header names the target", "d.csv", IRIS, {}, "species, the last column (2 cl", IRIS_X),
    ("the target by name", "d.csv", IRIS, {"target": "species"}, "species (2 classes", IRIS_X),
    ("the first column by name", "d.csv", PRICE, {"target": "size"}, "size (regression, no whole",
     [[1, 100.5], [2, 180.25], [3, 330], [5, 400]]),
    ("by index", "d.csv", PRICE, {"target": "2"}, "price (regression)", PRICE_X),
    ("by an index from the end", "d.csv", PRICE, {"target": "-1"}, "price (regression)", PRICE_X),
    ("no header", "d.csv", "1,2.5,se\n3,4,se\n5,6,vi\n8,7,vi\n", {}, "target, column 3, no header",
     IRIS_X),
    ("whole numbers as a regression", "d.csv", "a,y\n1,3\n2,3\n5,4\n", {"task": "regression"},
     "y, the last column (regression)", [[1], [2], [5]]),
    ("many whole numbers as classes", "d.csv",
     "a,y\n" + "".join(f"{i}.5,{i % 30}\n" for i in range(60)), {"task": "classification"},
     "30 classes: 0, 1,", [[i + 0.5] for i in range(60)]),
    ("whole numbers with points", "d.csv", "a,y\n1,3.0\n2,3.0\n5,4.0\n", {}, "2 classes: 3, 4",
     [[1], [2], [5]]),
    ("booleans", "d.csv", "a,y\n1,TRUE\n2,false\n5,true\n", {}, "2 classes: False, True",
     [[1], [2], [5]]),
    ("booleans as features", "d.csv", "a,y\nTrue,1.5\nFalse,2\n", {}, "regression", [[1], [0]]),
    ("semicolons, decimal commas", "d.csv", PRICE.replace(",", ";").replace(".", ","), {},
     "price, the last column (regression)", PRICE_X),
    ("tabs", "d.tsv", IRIS.replace(",", "\t"), {}, "species", IRIS_X),
    ("bars", "d.csv", IRIS.replace(",", "|"), {}, "species", IRIS_X),
    ("blanks", "d.txt", IRIS.replace(",", "   "), {}, "species", IRIS_X),
    ("quotes", "d.csv", IRIS.replace("se", '"se"').replace("3", '"3"'), {}, "species", IRIS_X),
    ("a name with a comma", "d.csv", IRIS.replace("long", '"long, in mm"'), {}, "species", IRIS_X),
    ("a byte-order mark", "d.csv", "\ufeff" + IRIS, {}, "species", IRIS_X),
    ("Windows line ends", "d.csv", IRIS.replace("\n", "\r\n"), {}, "species", IRIS_X),
    ("comments, blank lines", "d.csv", "# by hand\n\n" + IRIS + "\n", {}, "species", IRIS_X),
    ("compressed", "d.csv.gz", gzip.compress(IRIS.encode()), {}, "species", IRIS_X),
    ("capital endings", "D.CSV", IRIS, {}, "species", IRIS_X),
    ("an index of pandas", "d.csv", "".join(
        f"{i},{line}\n" for i, line in zip(["", 0, 1, 2, 3], IRIS.split(), strict=True)),
     {}, "species", IRIS_X),
    ("an index of some rows", "d.csv", "".join(
        f"{i},{line}\n" for i, line in zip(["", 17, 4, 9, 2], IRIS.split(), strict=True)),
     {}, "species", IRIS_X),
    ("an index that was read and written", "d.csv", "".join(
        f"{i},{line}\n" for i, line in zip(["Unnamed: 0", 0, 1, 2, 3], IRIS.split(), strict=True)),
     {}, "species", IRIS_X),
    ("rows left out", "d.csv", GAPS, {"missing": "drop"}, "regression", [[1, 2], [7, 8]]),
    ("means filled in", "d.csv", GAPS, {"missing": "mean"}, "regression",
     [[1, 2], [13 / 3, 4], [5, 14 / 3], [7, 8]]),
    ("a missing target left out", "d.csv", IRIS + "9,9,\n", {"missing": "drop"}, "2 classes",
     IRIS_X),
    ("words as categories", "d.csv", WORDS, {"encode": "onehot"}, "regression", RED),
    ("a missing word", "d.csv", WORDS + ",5,3.5\n", {"encode": "onehot", "missing": "mean"},
     "regression", [*RED, [1 / 3, 2 / 3, 5]]),
    ("nothing to encode", "d.csv", PRICE, {"encode": "onehot", "missing": "mean"}, "price",
     PRICE_X),
    ("integers in npz", "d.npz", {"X": np.array(PRICE_X), "y": [1, 2, 1, 2]}, {}, "2 classes",
     PRICE_X),
    ("a column of labels", "d.npz", {"X": np.array(PRICE_X), "y": [["a"], ["b"], ["a"], ["b"]]},
     {}, "2 classes: a, b", PRICE_X),
    ("bytes as labels", "d.npz", {"X": np.array(PRICE_X), "y": np.array([b"a", b"b", b"a", b"b"])},
     {}, "2 classes: a, b", PRICE_X),
    ("NaN in an array", "d.npz", {"X": np.array([[1.0], [np.nan], [3], [2]]), "y": [1, 2, 1, 2]},
     {"missing": "mean"}, "2 classes", [[1], [2], [3], [2]]),
    ("several targets", "d.npz", {"X": np.array(PRICE_X), "y": np.arange(8.0).reshape(4, 2)}, {},
     "regression, 2 columns", PRICE_X),
]  # fmt: skip

#: name of a file, what is in it, how it is read, and words of the one sentence
REFUSED = [
    ("no such column", "d.csv", IRIS, {"target": "specis"}, "'specis': the columns are long, wide"),
    ("no such index", "d.csv", IRIS, {"target": "3"}, "no column '3'"),
    ("a name that is there twice", "d.csv", "a,a,y\n1,2,3.5\n4,5,6\n", {"target": "a"}, "several"),
    ("a target of arrays", "d.npz", {"X": np.ones((4, 2)), "y": [1, 2, 1, 2]}, {"target": "1"},
     "--target is for a column of a table"),
    ("words as numbers", "d.csv", IRIS, {"task": "regression"}, "--task regression"),
    ("numbers as classes", "d.csv", PRICE, {"task": "classification"}, "it holds 100.5"),
    ("a class of its own for each", "d.csv", "a,y\n1,3\n2,4\n5,6\n", {"task": "classification"},
     "3 different values, all once"),
    ("one class only", "d.csv", "a,y\n1,x\n2,x\n", {}, "one class only, x"),
    ("a name for each row", "d.csv", "a,name\n1,Ann\n2,Bea\n", {}, "2 different values"),
    ("words without --encode", "d.csv", WORDS, {}, "row 2, column 1 (colour): 'red' is no number"),
    ("names as categories", "d.csv", "name,y\n" + "".join(f"n{i},{i}.5\n" for i in range(30)),
     {"encode": "onehot"}, "column 1 (name) has 30 different words"),
    ("a typing error", "d.csv", PRICE.replace("20", "2o"), {"encode": "onehot"},
     "row 3, column 1 (size): '2o' is no number"),
    ("a missing value", "d.csv", GAPS, {}, "row 3, column 1 (a): the value is missing; --missing"),
    ("a missing target", "d.csv", IRIS + "9,9,?\n", {"missing": "mean"},
     "row 6, column 3 (species)"),
    ("a column without values", "d.csv", "a,b,y\n1,,0.5\n2,,1.5\n", {"missing": "mean"},
     "no values at all"),
    ("no row is complete", "d.csv", "a,b,y\n1,,0.5\n,2,1.5\n", {"missing": "drop"}, "every row"),
    ("missing values of a sparse matrix", "s.npz", sp.csr_array(np.eye(4)), {"missing": "mean"},
     "not for sparse"),
    ("thousands or decimals", "d.csv", "a;b;y\n1,500;2;5\n2,500;3;6\n", {}, "'1,500' is no"),
    ("thousands in quotes", "d.csv", 'a,y\n"1,500",2.5\n"2,500",3.5\n', {}, "'1,500' is no number"),
    ("percentages", "d.csv", "a,y\n10%,2.5\n20%,3.5\n", {"encode": "onehot"}, "'10%' is no number"),
    ("dates", "d.csv", "day,y\n2024-01-01,2.5\n2024-01-02,3.5\n", {}, "'2024-01-01' is no number"),
    ("infinity", "d.csv", PRICE.replace("20", "inf"), {"missing": "mean"}, "'inf' is not finite"),
    ("a header of years", "d.csv", "2019,2020,2021\n1,2,x\n3,4,x\n5,6,z\n", {},
     "row 2, column 3: 'x' is no number"),
    ("a header or a sample", "d.csv", "red,x\nblue,y\nred,x\n", {"encode": "onehot"},
     "row 1 may be a header or a sample"),
    ("a first row of words alone", "d.csv", "name,1,2\nAnn,3,4\nBea,5,6\nAnn,1,1\n",
     {"encode": "onehot"}, "row 1 may be a header or a sample"),
    ("a header that counts", "d.csv", ",0,1\n0,5,6\n1,7,8\n", {"missing": "mean"}, "row 1 counts"),
    ("a short row", "d.csv", IRIS + "1,2\n", {"missing": "mean"}, "row 6 has 2 cells, row 1 has 3"),
    ("a long row", "d.csv", PRICE + "1,2,3,4\n", {}, "row 6 has 4 cells, row 1 has 3"),
    ("a header alone", "d.csv", "a,b,y\n", {}, "a header and no rows"),
    ("an empty file", "d.csv", "", {}, "it holds no rows"),
    ("an open quote", "d.csv", 'a,y\n"1,2\n3,4\n', {}, "quotes"),
    ("another encoding", "d.csv", "größe,y\n1,2\n".encode("latin-1"), {}, "UTF-8"),
    ("not compressed", "d.csv.gz", IRIS, {}, "d.csv.gz cannot be read"),
    ("an ending nobody knows", "d.xlsx", IRIS, {}, "d.xlsx must be .npz"),
    ("a file that is not there", "no.csv", None, {}, "no.csv does not exist"),
    ("a single column", "d.csv", "y\n1\n2\n", {}, "at least one feature column"),
    ("NaN in an array", "d.npz", {"X": np.array([[np.nan], [1.0]]), "y": [0.5, 1]}, {}, "NaN"),
    ("objects", "d.npz", {"X": np.array([[1, None]]), "y": [1]}, {}, "d.npz cannot be read"),
    ("too small a share", "d.csv", IRIS, {"test_fraction": 0.01}, "leaves none"),
]  # fmt: skip


def write(folder, name, content):
    path = folder / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif sp.issparse(content):
        sp.save_npz(path, content)
        np.save(folder / "y.npy", np.arange(4.0))
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_there_are_sixty_ways():
    assert len(RESULTS) + len(REFUSED) >= 60


@pytest.mark.parametrize("pandas", [True, False], ids=["pandas", "without"])
@pytest.mark.parametrize("way", RESULTS, ids=[way[0] for way in RESULTS])
def test_what_can_be_read_in_one_way_is_read(tmp_path, monkeypatch, way, pandas):
    if not pandas:
        monkeypatch.setitem(sys.modules, "pandas", None)
    _, name, content, how, about, X = way
    found = load(write(tmp_path, name, content), how=PLAIN._replace(**how))
    assert about in found.about
    np.testing.assert_allclose(found.inputs, X, rtol=1e-15)


@pytest.mark.parametrize("pandas", [True, False], ids=["pandas", "without"])
@pytest.mark.parametrize("way", REFUSED, ids=[way[0] for way in REFUSED])
def test_what_cannot_is_one_sentence(tmp_path, monkeypatch, way, pandas):
    if not pandas:
        monkeypatch.setitem(sys.modules, "pandas", None)
    _, name, content, how, words = way
    path = write(tmp_path, name, content)
    targets = str(tmp_path / "y.npy") if name == "s.npz" else None
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(path, targets, how=PLAIN._replace(**how))
    text = str(error.value)
    assert words in text and (path.rpartition("/")[2] in text or "--t" in text)
    assert "\n" not in text


def test_other_formats_give_the_same_data_set(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.read_csv(io.StringIO(WORDS + "blue,NaN,7.5\nred,3,\n"))
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_csv(tmp_path / "i.csv")
    frame.to_csv(tmp_path / "g.tsv.gz", sep="\t", index=False)
    frame.to_csv(tmp_path / "e.csv", sep=";", decimal=",", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    monkeypatch.setattr(sys, "stdin", io.StringIO((tmp_path / "d.csv").read_text()))
    how = Reading(missing="drop", encode="onehot", test_fraction=0.4)
    first = load(str(tmp_path / "d.csv"), how=how)
    for name in ("i.csv", "g.tsv.gz", "e.csv", "d.parquet", "-"):
        other = load(name if name == "-" else str(tmp_path / name), how=how)
        for one, two in ((first, other), (first.held_out, other.held_out)):
            np.testing.assert_array_equal(one.inputs, two.inputs)
            np.testing.assert_array_equal(one.targets, two.targets)
        assert other.task.columns == first.task.columns == ("colour", "b")
    with np.errstate(all="raise"):
        np.savez(tmp_path / "d.npz", X=[[0, 1, 1], [1, 0, 2], [0, 1, 4]], y=[0.5, 1.5, 2.5])
    arrays = load(str(tmp_path / "d.npz"), how=how._replace(standardise=True))
    np.testing.assert_allclose(arrays.inputs, first.inputs)


def test_an_index_is_left_out_and_said(tmp_path):
    path = write(tmp_path, "d.csv", ",a,y\n0,3,0.5\n1,4,1.5\n2,9,2.5\n")
    assert "column 1 counts the rows and is left out" in load(path).notes


def test_samples_held_out_are_of_every_class_and_teach_nothing(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 3)) + 5, np.repeat([0, 1, 2, 3], [100, 60, 39, 1])
    np.savez(tmp_path / "d.npz", X=X, y=y)
    how = Reading(standardise=True, test_fraction=0.25, seed=3)
    found = load(str(tmp_path / "d.npz"), how=how)
    assert found.held_out.inputs.shape[0] + found.inputs.shape[0] == 200
    np.testing.assert_array_equal(np.bincount(found.held_out.labels, minlength=4)[:2], [25, 15])
    assert 3 in found.labels and 3 not in found.held_out.labels
    mine = found.task.inputs.inverse(found.inputs)
    np.testing.assert_allclose(found.task.inputs.mean, mine.mean(axis=0))
    np.testing.assert_allclose(found.inputs.std(axis=0), 1)
    np.testing.assert_allclose(found.task.targets.mean, np.bincount(found.labels) / len(mine))
    both = np.concatenate([mine, found.task.inputs.inverse(found.held_out.inputs)])
    np.testing.assert_allclose(np.sort(both, axis=0), np.sort(X, axis=0))
    again = load(str(tmp_path / "d.npz"), how=how)
    np.testing.assert_array_equal(again.held_out.inputs, found.held_out.inputs)
    other = load(str(tmp_path / "d.npz"), how=how._replace(seed=4))
    assert (other.held_out.inputs != found.held_out.inputs).any()


def command(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def regression(folder, name="d.csv", n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2)) * [1, 1000] + [0, 5000]
    y = 300 + 40 * X[:, 0] + 0.05 * X[:, 1]
    rows = [f"{a!r},{b!r},{c!r}" for (a, b), c in zip(X.tolist(), y.tolist(), strict=True)]
    (folder / name).write_text("\n".join(["a,b,price", *rows, ""]))
    return X, y


RUN = ["--widths", "16", "--steps", "5", "--quiet"]


def test_a_regression_is_told_in_its_own_units(tmp_path, capsys):
    X, y = regression(tmp_path)
    new, z = regression(tmp_path, "test.csv", 15, 1)
    code, _, err = command(capsys, "train", tmp_path / "d.csv", *RUN, "--test-data",
                           tmp_path / "test.csv", "--out", tmp_path / "run")  # fmt: skip
    assert (code, err) == (0, "")
    run = of.Trajectory.load(tmp_path / "run" / "trajectory.npz")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    for part, inputs, truth in (("", X, y), ("held_out_", new, z)):
        error = run.predict(inputs) - truth
        share = len(truth) if part else 1
        expected = {
            "loss": 0.5 * (error**2).sum() / share,
            "rmse": np.sqrt((error**2).mean()),
            "r2": 1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum(),
        }
        if not part:
            expected["residual_norm"] = np.linalg.norm(error)
        for name, value in expected.items():
            np.testing.assert_allclose(summary[part + name][-1], value, rtol=1e-9)
            np.testing.assert_allclose(line[part + name], value, rtol=1e-9)
    table = (tmp_path / "run" / "summary.txt").read_text()
    assert "held-out RMSE" in table and "R²" in table


def test_a_run_predicts_for_files_of_any_kind(tmp_path, capsys, monkeypatch):
    X, y = regression(tmp_path)
    run = tmp_path / "run"
    assert command(capsys, "train", tmp_path / "d.csv", *RUN, "--out", run)[0] == 0
    expected = of.Trajectory.load(run / "trajectory.npz").predict(X)
    np.save(tmp_path / "X.npy", X)
    np.savez(tmp_path / "d.npz", X=X, y=y)
    swapped = "\n".join(["b,x,a", *(f"{b!r},0,{a!r}" for a, b in X.tolist()), ""])
    (tmp_path / "swapped.csv").write_text(swapped)
    monkeypatch.setattr(sys, "stdin", io.StringIO((tmp_path / "d.csv").read_text()))
    for name in ("d.csv", "-", "X.npy", "d.npz", "swapped.csv"):
        data = name if name == "-" else tmp_path / name
        code, out, err = command(capsys, "predict", run, data)
        assert code == 0 and err.count("\n") == 1
        assert out.startswith("price\n") and ("RMSE" in err) == (name in ("d.csv", "-", "d.npz"))
        np.testing.assert_allclose(list(map(float, out.split()[1:])), expected, rtol=1e-12)
    code, out, err = command(capsys, "predict", run, tmp_path / "d.csv", "--out", tmp_path / "p")
    assert code == 0 and out == "" and (tmp_path / "p").read_text().startswith("price\n")
    code, out, err = command(capsys, "predict", run, tmp_path / "d.csv", "--out", tmp_path / "p")
    assert code == 2 and "--overwrite" in err


def test_kinds_of_files_may_differ_between_training_and_prediction(tmp_path, capsys):
    X, y = regression(tmp_path)
    np.savez(tmp_path / "d.npz", X=X / [1, 1000], y=y)
    np.savetxt(tmp_path / "plain.csv", X / [1, 1000], delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "all.csv", np.c_[X / [1, 1000], y], delimiter=",", fmt="%.17g")
    for source, other in (("d.npz", "plain.csv"), ("all.csv", "d.npz"), ("all.csv", "plain.csv")):
        run = tmp_path / f"{source}-{other}"
        argv = [tmp_path / source, *RUN, "--dtype", "float32", "--no-standardise"]
        assert command(capsys, "train", *argv, "--out", run)[0] == 0
        code, out, _ = command(capsys, "predict", run, tmp_path / other)
        expected = of.Trajectory.load(run / "trajectory.npz").predict(
            (X / [1, 1000]).astype(np.float32)
        )
        assert code == 0
        np.testing.assert_allclose(list(map(float, out.split()[1:])), expected, rtol=1e-6)


def test_a_missing_target_of_a_file_of_its_own_is_named(tmp_path):
    (tmp_path / "X.csv").write_text("a,b\n1,2\n3,4\n5,7\n")
    (tmp_path / "y.csv").write_text("kind\nx\nNA\nx\n")
    with pytest.raises(ValueError, match=r"y\.csv: target 2: the target is missing"):
        load(str(tmp_path / "X.csv"), str(tmp_path / "y.csv"))


def test_labels_and_probabilities_are_predicted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [f"{c},{rng.normal(i):.3f},{'xyz'[i]}" for i, c in enumerate(["red", "blue", "?"])
            for _ in range(9)]  # fmt: skip
    (tmp_path / "d.csv").write_text("\n".join(["colour,b,kind", *rows, ""]))
    argv = [tmp_path / "d.csv", *RUN, "--encode", "onehot", "--missing", "mean"]
    assert command(capsys, "train", *argv, "--out", tmp_path / "run")[0] == 0
    code, out, err = command(capsys, "predict", tmp_path / "run", tmp_path / "d.csv")
    labels = out.split()
    assert code == 0 and labels[0] == "kind" and set(labels[1:]) <= set("xyz")
    right = np.mean([row.endswith(label) for row, label in zip(rows, labels[1:], strict=True)])
    assert f"accuracy {right:.4g}" in err
    code, out, _ = command(capsys, "predict", tmp_path / "run", tmp_path / "d.csv", "--proba")
    shares = np.loadtxt(io.StringIO(out), delimiter=",", skiprows=1)
    assert code == 0 and out.startswith("x,y,z\n")
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert ["xyz"[i] for i in shares.argmax(axis=1)] == labels[1:]
    for text, words in (
        ("b,kind\n1,x\n", "it lacks the columns colour of the training set"),
        ("colour,b\ngreen,1\n", "'green' is none of the categories of the training set: blue, red"),
        ("1,2\n", "it has no header, but the training set: colour, b"),
    ):
        (tmp_path / "new.csv").write_text(text)
        code, out, err = command(capsys, "predict", tmp_path / "run", tmp_path / "new.csv")
        assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    (tmp_path / "new.csv").write_text("colour,b,kind\nred,1,w\nred,,x\n")
    code, out, err = command(capsys, "predict", tmp_path / "run", tmp_path / "new.csv")
    assert code == 0 and out.count("\n") == 3 and "answers are not compared" in err


def test_what_cannot_be_predicted_is_one_sentence(tmp_path, capsys):
    X, _ = regression(tmp_path)
    run = tmp_path / "run"
    assert command(capsys, "train", tmp_path / "d.csv", *RUN, "--out", run)[0] == 0
    of.train(of.ReLUNetwork.random([2, 4], seed=0), X / [1, 1000], X[:, 0], steps=1).save(
        tmp_path / "plain.npz"
    )
    np.save(tmp_path / "wide.npy", np.ones((3, 5)))
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n,3\n")
    for argv, words in (
        ([run, tmp_path / "d.csv", "--proba"], "--proba is for classes"),
        ([run, tmp_path / "wide.npy"], "has 5 features, the training set 2"),
        ([run, tmp_path / "gap.csv"], "row 3, column 1 (a): the value is missing"),
        ([run, "nothing.csv"], "nothing.csv does not exist"),
        ([tmp_path / "plain.npz", tmp_path / "d.csv"], "does not say what its outputs mean"),
        ([tmp_path / "no", tmp_path / "d.csv"], "no"),
    ):
        code, out, err = command(capsys, "predict", *argv)
        assert (code, out) == (2, "") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "cost"], "no column 'cost': the columns are a, b, price, 0 to 2"),
        (["--task", "ranking"], "--task"),
        (["--missing", "zero"], "--missing"),
        (["--encode", "hash"], "--encode"),
        (["--test-fraction", "1"], "must be between 0 and 1"),
        (["--test-fraction", "some"], "must be between 0 and 1"),
        (["--test-fraction", "0.2", "--test-data", "d.csv"], "exclude each other"),
        (["--targets", "d.csv", "--target", "a"], "--target is for a column of a table"),
        (["--targets", "d.xls"], "d.xls must be .npy, or a table"),
    ],
)
def test_options_of_data_are_checked_before_any_work(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    regression(tmp_path)
    code, out, err = command(capsys, "train", "d.csv", *RUN, "--out", "run", *options)
    assert (code, out) == (2, "") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [["--target", "a"], ["--task", "regression"], ["--missing", "mean"], ["--encode", "onehot"],
     ["--no-standardise"], ["--test-fraction", "0.3"]],
    ids=lambda change: change[0],
)  # fmt: skip
def test_a_run_read_otherwise_is_not_resumed(tmp_path, capsys, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    regression(tmp_path)
    argv = ["train", "d.csv", *RUN, "--out", "run"]
    assert command(capsys, *argv)[0] == 0
    code, _, err = command(capsys, *argv, "--resume", *change)
    assert code == 2 and err.count("\n") == 1 and change[0].replace("--no-", "--") in err


def test_the_line_before_the_work_says_what_was_done(tmp_path, capsys):
    (tmp_path / "d.csv").write_text("a,kind\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(20)))
    argv = ["train", tmp_path / "d.csv", "--widths", 4, "--steps", 1, "--test-fraction", 0.25]
    code, out, _ = command(capsys, *argv, "--out", tmp_path / "run")
    assert code == 0
    assert out.splitlines()[0] == (
        "target: kind, the last column (2 classes: 0, 1), 1 feature, 15 samples, 5 samples held "
        "out; --task chooses whether whole numbers are classes or a regression"
    )
    assert command(capsys, "spectrum", tmp_path / "run", "--no-density", "--no-heat-map")[0] == 0
    spectrum = json.loads((tmp_path / "run" / "spectrum" / "spectrum.json").read_text())
    assert spectrum["samples"] == 15


def test_data_that_train_badly_are_warned_of_once():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    net = of.ReLUNetwork.random([3, 4], seed=0)
    of.train(net, X * [1, 100, 1], y, steps=1)
    of.train(net, X * [1, 0, 1], y, steps=1)  # a constant feature has no scale
    with pytest.warns(UserWarning, match="column 1 of X spans .* and column 0 only") as caught:
        of.train(net, X * [0.01, 1000, 1], 500 * y, steps=1)
    assert len(caught) == 1 and "y has values of size" in str(caught[0].message)
    assert caught[0].filename == __file__
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X * [0.01, 1000, 1], columns=["price", "area", "age"])
    with pytest.warns(UserWarning, match="column 'area' of X spans .* and column 'price' only"):
        of.train(net, table, y, steps=1)


def test_a_pandas_table_is_predicted_as_its_file_is(tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    rows = [f"{'red' if i % 3 else 'blue'},{i},{i * 1.5}" for i in range(12)]
    (tmp_path / "d.csv").write_text("\n".join(["colour,b,y", *rows, "red,,3.5", ""]))
    argv = ["train", tmp_path / "d.csv", "--widths", 4, "--steps", 3, "--out", tmp_path / "run"]
    argv += ["--encode", "onehot", "--missing", "mean", "--no-analysis"]
    assert command(capsys, *argv)[0] == 0
    (tmp_path / "new.csv").write_text("b,colour\n1,blue\n,red\n")
    code, out, err = command(capsys, "predict", tmp_path / "run", tmp_path / "new.csv")
    assert code == 0 and err.startswith("opflow: 2 predictions of y;")
    frame = pandas.read_csv(tmp_path / "new.csv")
    run = of.Trajectory.load(tmp_path / "run" / "trajectory.npz")
    np.testing.assert_allclose(run.predict(frame), [float(v) for v in out.split()[1:]])
    with pytest.raises(ValueError, match="'green' is none of the categories"):
        run.predict(frame.assign(colour="green"))


@pytest.mark.parametrize("new, wanted", [
    ("a,b,y\n1,2,\n", "the target is missing"),
    ("a,b\nx,2\n", "row 2, column 1 (a): 'x' is no number"),
], ids=["target", "words"])  # fmt: skip
def test_who_predicts_is_told_of_no_option_for_training(new, wanted, tmp_path, capsys):
    (tmp_path / "d.csv").write_text("a,b,y\n1,2,0.5\n3,4,1.5\n5,7,2.5\n")
    argv = ["train", tmp_path / "d.csv", "--widths", 4, "--steps", 1, "--out", tmp_path / "run"]
    assert command(capsys, *argv, "--no-analysis")[0] == 0
    (tmp_path / "new.csv").write_text(new)
    _, _, err = command(capsys, "predict", tmp_path / "run", tmp_path / "new.csv")
    assert wanted in err and "--" not in err and "1 predictions" not in err


def test_numbers_are_no_categories(tmp_path, capsys):
    (tmp_path / "d.csv").write_text(WORDS)
    argv = ["train", tmp_path / "d.csv", "--widths", 4, "--steps", 1, "--out", tmp_path / "run"]
    assert command(capsys, *argv, "--encode", "onehot", "--no-analysis")[0] == 0
    (tmp_path / "new.csv").write_text("colour,b\n3,2\n")
    code, _, err = command(capsys, "predict", tmp_path / "run", tmp_path / "new.csv")
    assert code == 2 and "column 1 (colour) holds numbers" in err and "blue, red" in err


def test_standard_input_is_read_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PRICE))
    argv = ["train", "-", "--widths", 4, "--steps", 1, "--out", tmp_path / "run"]
    code, _, err = command(capsys, *argv, "--test-data", "-")
    assert code == 2 and "read once" in err


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line_and_none_if_quiet(tmp_path, capsys):
    (tmp_path / "d.csv").write_text("a,b,y\n1000,1,100.5\n9000,2,4000\n70000,3,300\n")
    argv = ["train", tmp_path / "d.csv", "--widths", 4, "--steps", 1, "--no-standardise"]
    argv += ["--no-analysis", "--out", tmp_path / "run", "--overwrite"]
    code, _, err = command(capsys, *argv)
    told = [line for line in err.splitlines() if "spans" in line]
    assert code == 0 and len(told) == 1 and told[0].startswith("opflow: column 0 of X spans")
    assert ".py" not in err
    assert command(capsys, *argv, "--quiet") == (0, "", "")
