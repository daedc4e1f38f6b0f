"""Data files: no sample is lost, none is invented, and what targets are is told."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from opflow.cli.commands import main
from opflow.data.files import Reading
from opflow.data.load import load
from opflow.machine.ranks import LOCAL

PLAIN = Reading(standardise=False)
ROWS = "1,2,0\n3,4,1\n5,6,0\n"
X = [[1, 2], [3, 4], [5, 6]]


def read(tmp_path, text, targets=None, name="d.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if targets is not None:
        (tmp_path / "y.csv").write_text(targets)
        targets = str(tmp_path / "y.csv")
    return load(str(tmp_path / name), targets, how=PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        "\ufeff" + ROWS,
        "\ufeffa,b,y\n" + ROWS,
        "a,b,y\n" + ROWS,
        "a,a,y\n" + ROWS,
        "RI,Na,no_2\n" + ROWS,
        "größe,длина,标签\n" + ROWS,
        '"a","b, c","y"\n' + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("\n", "\r"),
        ROWS.rstrip("\n"),
        " 1 , 2 , 0 \n3,\t4,1\n5, 6, 0\n",
        '"1.0","2",0\n"3",\'4,1\n'.replace("'", "") + "5,6,0\n",
        "1e0,2.0E+00,0\n.3e1,4.,1\n+5,6,0\n",
        "# made by hand\n\n  # twice\na,b,y\n\n1,2,0\n# it's \"so\n3,4,1\n   \n5,6,0\n\n",
        "a;b;y\n" + ROWS.replace(",", ";"),
        "a\tb\ty\n" + ROWS.replace(",", "\t"),
        ROWS.replace(",", "\t"),
    ],
)
def test_every_row_of_a_csv_is_a_sample(tmp_path, text):
    found = read(tmp_path, text)
    np.testing.assert_array_equal(found.inputs, X)
    np.testing.assert_array_equal(found.labels, [0, 1, 0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (",2,0\n" + ROWS, "row 1, column 1: the value is missing"),
        ("NA,2,0\n" + ROWS, "row 1, column 1: the value is missing"),
        ("?,?,0\n" + ROWS, "row 1, column 1: the value is missing"),
        ("NA,NA,NA\n" + ROWS, "row 1, column 1: the value is missing"),
        ("nan,nan,nan\n" + ROWS, "row 1, column 1: the value is missing"),
        (",,\n" + ROWS, "row 1, column 1: the value is missing"),
        ('"1,000",2,0\n' + ROWS, "row 1, column 1: '1,000' is no number"),
        ('"1,000","2,000","3,000"\n' + ROWS, "row 1"),
        ("1,5;2.5;0\n3;4;1\n", "row 1, column 1: '1,5' is no number"),
        ("1,500;2;0\n3;4;1\n", "row 1, column 1: '1,500' is no number"),
        ("a,b,y\n1,2,0\n\n3,NA,1\n", "row 4, column 2 (b): the value is missing; --missing mean"),
        ("# c\na,b,y\n1,2,0\n3,inf,1\n", "row 4, column 2 (b): 'inf' is not finite"),
        (ROWS + "1,1e999,0\n", "row 4, column 2: '1e999' is not finite"),
        (ROWS + "1,2,nan\n", "row 4, column 3: the target is missing"),
        (ROWS + "1,2,\n", "row 4, column 3: the target is missing"),
        (ROWS + "1_0,2,0\n", "'1_0' is no number"),
        (ROWS + "1,2\n", "row 4 has 2 cells, row 1 has 3"),
        ("a,b,y\n1,2,0,\n3,4,1,\n", "row 2 has 4 cells, row 1 has 3"),
        ("1,2,0,\n3,4,1,\n", "row 1, column 4: the target is missing"),
        ("0,1,2\n" + ROWS, "row 1 counts the columns, 0 to 2"),
        (",se\n4,vi\n6,se\n5,vi\n", "row 1 may be a header or a sample"),
        (",,se\n4,5,vi\n6,7,se\n", "row 1, column 1: the value is missing"),
        ("1,2,se\n3,4,se\n5,6,1\n", "row 3, column 3: '1' is a number"),
        ("1,2,1\n3,4,1\n5,6,se\n", "row 3, column 3: 'se' is no number"),
        ("a,b,y\nred,2,0\n", "row 2, column 1 (a): 'red' is no number"),
        ("a,b,y\n", "a header and no rows"),
        ("", "no rows"),
        ("\n# only this\n", "no rows"),
        ("1\n2\n", "at least one feature column and a target column"),
        ('1,"2,0\n3,4,1\n', "quotes"),
        ("größe,y\n1,2\n".encode("latin-1"), "UTF-8"),
        ("a,y\n1,2\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_what_is_missing_or_could_be_read_in_two_ways_is_refused_by_place(tmp_path, text, words):
    with pytest.raises(ValueError, match=r"d\.csv") as error:
        read(tmp_path, text)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("row", [0, 7, 14, 29])
def test_a_row_of_a_file_has_its_number_after_a_split_too(tmp_path, seed, row):
    how = Reading(test_fraction=0.4, seed=seed)
    X = np.arange(60.0).reshape(30, 2)
    y = np.linspace(0.1, 0.9, 30)
    y[row] = np.nan
    np.savez(tmp_path / "d.npz", X=X, y=y)
    with pytest.raises(ValueError, match=rf"d\.npz: y\[{row}\]: the target is missing"):
        load(str(tmp_path / "d.npz"), how=how)
    lines = ["a,b,y", *(",".join(map(str, line)) for line in np.c_[X, y])]
    (tmp_path / "d.csv").write_text("\n".join(lines))
    place = rf"d\.csv: row {row + 2}, column 3 \(y\): the target is missing"
    with pytest.raises(ValueError, match=place):
        load(str(tmp_path / "d.csv"), how=how)


def test_a_row_of_a_file_has_its_number_on_every_rank(tmp_path, monkeypatch):
    monkeypatch.setattr("opflow.data.load.Sharded", lambda comm, count: LOCAL)
    y = np.linspace(0.1, 0.9, 10)
    y[7] = np.nan
    np.savez(tmp_path / "d.npz", X=np.arange(20.0).reshape(10, 2), y=y)
    second = SimpleNamespace(rank=1, size=2)
    with pytest.raises(ValueError, match=r"d\.npz: y\[7\]: the target is missing"):
        load(str(tmp_path / "d.npz"), comm=second)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (["0", "1", "0", "2"], "3 classes: 0, 1, 2"),
        (["-1", "+1", "1", "-1"], "2 classes: -1, 1"),
        (["se", "vi", "se", "vi"], "2 classes: se, vi"),
        (["True", "False", "True", "True"], "2 classes: False, True"),
        (["151", "75", "141", "206"], "regression, no whole number twice"),
        (["0.0", "1.0", "0.0", "2.0"], "3 classes: 0, 1, 2"),
        (["0", "1", "0", "2.0"], "3 classes: 0, 1, 2"),
        (["1e2", "1e2", "3e2", "3e2"], "2 classes: 100, 300"),
        (["151.0", "75.0", "141.0", "206.0"], "regression, no whole number twice"),
        (["0.5", "1", "1", "0.5"], "regression"),
        (["99999999999999999999", "3", "3", "3"], "regression"),
    ],
)
def test_what_targets_are_is_decided_by_one_rule_for_all_files_and_told(tmp_path, column, what):
    if column[0].isalpha():
        y = np.array(column) if column[0] != "True" else np.array([True, False, True, True])
    else:
        whole = all(c.lstrip("+-").isdigit() and len(c) < 19 for c in column)
        y = np.array(column, dtype=float).astype(int if whole else float)
    features = np.arange(8.0).reshape(4, 2)
    lines = [f"{a},{b},{c}" for (a, b), c in zip(features, column, strict=True)]
    found = {"csv": read(tmp_path, "\n".join(["a,b,y", *lines]))}
    np.savez(tmp_path / "d.npz", X=features, y=y)
    found["npz"] = load(str(tmp_path / "d.npz"))
    np.savez(tmp_path / "d2.npz", X=features, y=y[:, None])
    found["column"] = load(str(tmp_path / "d2.npz"))
    np.save(tmp_path / "X.npy", features)
    np.save(tmp_path / "y.npy", y)
    found["npy"] = load(str(tmp_path / "X.npy"), str(tmp_path / "y.npy"))
    found["csv's own"] = read(
        tmp_path, "\n".join(f"{a},{b}" for a, b in features), "\n".join(["y", *column])
    )
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["X"] = features
        file["y"] = y.tolist() if y.dtype.kind == "U" else y
    found["h5"] = load(str(tmp_path / "d.h5"))
    for kind, one in found.items():
        name = {"npy": "y.npy", "csv": "y, the last column"}.get(kind, "y")
        assert one.about == f"{name} ({what})", kind
        np.testing.assert_array_equal(one.inputs, features)
        np.testing.assert_allclose(one.targets, found["npz"].targets)
        assert (one.labels is None) == what.startswith("regression")


def test_many_whole_numbers_are_no_classes(tmp_path):
    rng = np.random.default_rng(0)
    features, y = rng.standard_normal((442, 3)), rng.integers(25, 347, 442)
    for one in (y, y.astype(float)):
        np.savez(tmp_path / "d.npz", X=features, y=one)
        np.savetxt(tmp_path / "d.csv", np.c_[features, one], delimiter=",",
                   fmt=["%.18e"] * 3 + ["%d" if one is y else "%.1f"])  # fmt: skip
        for name in ("d.npz", "d.csv"):
            found = load(str(tmp_path / name))
            assert found.labels is None
            np.testing.assert_allclose(found.task.answers(found.targets), y)
            # one half is held out: its numbers are others
            np.savez(tmp_path / "half.npz", X=features[:9], y=one[:9] + 1000)
            held = load(str(tmp_path / "half.npz"), like=found.task)
            np.testing.assert_allclose(held.task.answers(held.targets), y[:9] + 1000)


def test_twenty_whole_numbers_may_be_classes_and_more_may_not(tmp_path):
    for count in (20, 21):
        np.savez(tmp_path / "d.npz", X=np.ones((50, 2)), y=np.arange(50) % count)
        found = load(str(tmp_path / "d.npz"))
        assert (found.labels is None) == (count > 20)
        assert "9, …" in found.about if count == 20 else "21 different whole numbers" in found.about


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(4, int), "one class only, 0"),
        (np.zeros(4), "one class only, 0"),
        (np.full(4, 0.5), "y in every sample is 0.5"),
        (np.array([[0.5, 1], [0.5, 2]] * 2), "column 0 of y in every sample is 0.5"),
        (np.zeros(4, bool), "one class only, False"),
        (np.array(["a"] * 4), "one class only, a"),
        (np.array(list("abcd")), "4 different values, all once"),
        (np.array([list("ab")] * 4), "<U1"),
    ],
)
def test_targets_that_no_network_can_tell_apart_are_refused(tmp_path, capsys, y, words):
    np.savez(tmp_path / "d.npz", X=np.ones((4, 2)), y=y)
    argv = ["train", tmp_path / "d.npz", "--widths", 4, "--steps", 1, "--out", tmp_path / "run"]
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "run").exists()


def test_as_many_classes_as_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("opflow.data.load.free_memory", lambda: 1e4)
    np.savez(tmp_path / "d.npz", X=np.ones((200, 1)), y=[f"w{i // 2}" for i in range(200)])
    with pytest.raises(MemoryError, match="100 classes"):
        load(str(tmp_path / "d.npz"))


@pytest.mark.parametrize(("train", "test"), [("ab", [0, 1]), ([0, 1], "ab"), ("ab", "ac")])
def test_held_out_words_and_numbers_are_not_mixed_up(tmp_path, train, test):
    for name, y in (("train", train), ("test", test)):
        np.savez(tmp_path / f"{name}.npz", X=np.ones((4, 2)), y=np.repeat(list(y), 2))
    like = load(str(tmp_path / "train.npz")).task
    with pytest.raises(ValueError, match=r"test\.npz: y has the class"):
        load(str(tmp_path / "test.npz"), like=like)


@pytest.mark.parametrize("kind", ["npz", "npy", "h5"])
@pytest.mark.parametrize("dtypes", [(">f8", ">f8"), (">f4", ">i2"), (">i4", ">f4"), (">u2", ">u8")])
def test_data_of_the_other_byte_order_are_cast(tmp_path, kind, dtypes):
    rng = np.random.default_rng(0)
    features = rng.integers(0, 99, (9, 2)).astype(dtypes[0])
    y = (np.arange(9) % 3).astype(dtypes[1])
    targets, path = None, str(tmp_path / f"d.{kind}")
    if kind == "npz":
        np.savez(path, X=features, y=y)
    elif kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["X"], file["y"] = features, y
    else:
        np.save(path, features)
        np.save(targets := str(tmp_path / "y.npy"), y)
    found = load(path, targets, "float32")
    # what is read by rows stays as it lies on the disk, and is cast row by row
    assert found.inputs.dtype.newbyteorder("=") == found.targets.dtype == np.float32
    np.testing.assert_array_equal(found.inputs[...], features)
    np.testing.assert_array_equal(found.labels, y)


def test_other_kinds_of_numbers_are_refused_for_what_they_are(tmp_path):
    np.savez(tmp_path / "d.npz", X=np.ones((4, 2), ">f2"), y=np.ones(4))
    with pytest.raises(TypeError, match="float16"):
        load(str(tmp_path / "d.npz"))


def test_arrays_of_any_name_beside_X_and_y_do_not_matter(tmp_path):
    np.savez(tmp_path / "d.npz", X=X, y=[0, 1, 0], format=np.array(1), shape=np.array(2))
    np.testing.assert_array_equal(load(str(tmp_path / "d.npz")).inputs, X)
    sp.save_npz(tmp_path / "s.npz", sp.csc_array(np.array(X)))
    np.save(tmp_path / "y.npy", [0.5, 1, 0])
    assert sp.issparse(load(str(tmp_path / "s.npz"), str(tmp_path / "y.npy")).inputs)


@pytest.mark.parametrize("name", ["X", "y"])
def test_empty_data_sets_of_h5_are_named(tmp_path, name):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for one in ("X", "y"):
            file[one] = h5py.Empty("f8") if one == name else np.ones((3, 2))
    with pytest.raises(ValueError, match=rf"d\.h5 cannot be read: its {name} is empty"):
        load(str(tmp_path / "d.h5"))


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X=np.ones((3, 2)))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    for name, words in (("a.npz", "one array"), ("b.npy", "several arrays")):
        with pytest.raises(ValueError, match=words):
            load(str(tmp_path / name))


def test_what_the_targets_are_is_one_line_before_the_work(tmp_path, capsys):
    (tmp_path / "iris.csv").write_text("a,b,species\n1,2,se\n3,4,vi\n5,6,se\n")
    argv = ["--widths", "4", "--steps", "1"]
    line = "target: species, the last column (2 classes: se, vi)"
    assert main(["train", str(tmp_path / "iris.csv"), *argv, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(f"{line}, 2 features, 3 samples\n")
    assert main(["estimate", str(tmp_path / "iris.csv"), *argv]) == 0
    assert line in capsys.readouterr().out.splitlines()[0]
    assert main(["spectrum", str(tmp_path / "run")]) == 0
    assert "species (2 classes: se, vi)" in capsys.readouterr().out


def test_the_home_folder_is_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text(ROWS)
    (tmp_path / "y.csv").write_text("0\n1\n0\n")
    argv = ["train", "~/d.csv", "--targets=~/y.csv", "--test-data=~/d.csv",
            "--test-targets=~/y.csv", "--widths", "4", "--quiet", "--out=~/run"]  # fmt: skip
    assert main([*argv, "--steps", "1"]) == 0
    assert main([*argv, "--steps", "2", "--resume-from=~/run/checkpoint.npz"]) == 0
    for more in (["spectrum", "~/run", "--quiet"], ["plot", "~/run"],
                 ["spectrum", "~/run/trajectory.npz", "~/d.csv", "--targets=~/y.csv", "--quiet",
                  "--no-density", "--no-heat-map", "--out=~/look"]):  # fmt: skip
        assert main(more) == 0, capsys.readouterr().err
    assert not (tmp_path / "~").exists()
    assert (tmp_path / "look" / "spectrum.txt").exists()
