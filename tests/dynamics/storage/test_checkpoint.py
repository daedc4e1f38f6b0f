import errno
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

import opflow as of
from opflow.dynamics.storage import checkpoint
from opflow.dynamics.storage.checkpoint import Saver, load
from opflow.machine import files as machine_files

#: OPFLOW_KILLS=100 OPFLOW_CORRUPTIONS=1000 for the long run
KILLS = int(os.environ.get("OPFLOW_KILLS", "10"))
CORRUPTIONS = int(os.environ.get("OPFLOW_CORRUPTIONS", "200"))
IDENTITY = {"network": "a" * 64, "inputs": "b" * 64, "targets": "c" * 64, "method": "descent"}


def state(step):
    rng = np.random.default_rng(step)
    return {
        "weight": np.asfortranarray(rng.standard_normal((9, 5)).astype(np.float32)),
        "bias": rng.standard_normal(5),
        "scale": rng.standard_normal(5),
        "flips": rng.integers(0, 9, (step + 1, 2)),
        "open": rng.random(7) > 0.5,
        "empty": np.zeros((0, 3)),
        "time": np.array(0.1 * step),
        "name": np.array(["loss", "flüchtig"]),
    }


def assert_is_state(arrays, step):
    wanted = state(step)
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        assert arrays[name].flags.f_contiguous == array.flags.f_contiguous
        assert arrays[name].tobytes() == array.tobytes()


def saver_at(path, *steps, keep=2, **kw):
    saver = Saver(of.Checkpoint(path, keep=keep, **kw), IDENTITY)
    saver.prepare()
    for step in steps:
        assert saver.save(step, state(step), {"products": 2 * step}) is None
    return saver


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.ckpt.npz"


def files(path):
    return sorted(file.name for file in path.parent.iterdir())


def test_a_state_comes_back_bit_for_bit(path):
    saver = saver_at(path)
    meta = {"nan": float("nan"), "big": 2**100, "third": 1 / 3, "nested": {"list": [None, True]}}
    assert saver.save(3, state(3), meta) is None
    arrays, again = load(saver.path, IDENTITY)
    assert_is_state(arrays, 3)
    assert np.isnan(again.pop("nan")) and np.isnan(meta.pop("nan"))
    assert again == {**meta, "step": 3}
    assert all(array.flags.writeable for array in arrays.values())


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_as_many_states_are_kept_as_asked(path, keep):
    saver_at(path, 1, 2, 3, 4, 5, 6, keep=keep)
    names = [path.name] + [f"{path.name}.{i}" for i in range(1, keep)]
    assert files(path) == sorted(names)
    for age, name in enumerate(names):
        arrays, meta = load(path.with_name(name), IDENTITY)
        assert meta == {"step": 6 - age, "products": 2 * (6 - age)}
        assert_is_state(arrays, 6 - age)


def test_states_are_kept_where_there_are_no_links(path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    saver_at(path, 1, 2, 3, keep=3)
    steps = [load(f"{path}{end}", IDENTITY)[1]["step"] for end in ("", ".1", ".2")]
    assert steps == [3, 2, 1] and len(files(path)) == 3


def test_due_by_steps_or_seconds_since_the_last_save(path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    saver = Saver(of.Checkpoint(path, steps=10, seconds=60), IDENTITY, step=5)
    assert not saver.due(14) and saver.due(15)
    now[0] = 130.0
    assert saver.save(12, state(0), {}) is None
    assert not saver.due(21) and saver.due(22)
    now[0] = 189.0
    assert not saver.due(13)
    now[0] = 190.0
    assert saver.due(13)
    never = Saver(of.Checkpoint(path, seconds=None), IDENTITY)
    now[0] = 1e9
    assert not never.due(10**9)


@pytest.mark.parametrize(
    ("kw", "error", "message"),
    [
        ({"path": 3}, TypeError, "path must be"),
        ({"path": b"x"}, TypeError, "path must be"),
        ({"path": ""}, ValueError, "path must name a file"),
        ({"path": "run.npz.1"}, ValueError, "not end in a number"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"seconds": 0}, ValueError, "seconds must be positive"),
        ({"seconds": float("nan")}, ValueError, "seconds must be positive"),
        ({"seconds": "10"}, TypeError, "seconds must be a number"),
        ({"keep": 0}, ValueError, "keep must be at least 1"),
    ],
)
def test_arguments_are_checked(kw, error, message):
    with pytest.raises(error, match=message):
        of.Checkpoint(**{"path": "run.npz", **kw})


@pytest.mark.parametrize(
    ("name", "array", "error"),
    [
        ("ragged", np.array([1, "a", None], dtype=object), TypeError),
        ("when", np.array("2020-01-01", dtype="M8[D]"), TypeError),
        ("metadata", np.zeros(2), ValueError),
        ("a\0b", np.zeros(2), ValueError),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(path, name, array, error):
    with pytest.raises(error, match=name.replace("\0", r"\\x00")):
        saver_at(path).save(1, {name: array}, {})
    assert files(path) == []


# --- refusals


def refused(path, *reasons, identity=IDENTITY):
    with pytest.raises(ValueError) as info:
        load(path, identity)
    assert str(path) in str(info.value)
    for reason in reasons:
        assert reason in str(info.value)
    return str(info.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("network", "another network"),
        ("inputs", "another X"),
        ("targets", "another y"),
        ("method", "its method is descent, not flow"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(path, name, reason):
    saver_at(path, 1)
    message = refused(path, reason, identity={**IDENTITY, name: "flow"})
    assert ";" not in message, "the other three do agree"
    refused(path, "its kernel is another", identity={**IDENTITY, "gram": "rbf"})
    refused(path, "its scheme is none, not a", identity={**IDENTITY, "scheme": "a"})
    refused(path, "its method is descent, not none", identity={"network": "a" * 64})


@pytest.mark.parametrize("schema", [0, 2])
def test_another_schema_is_refused(path, monkeypatch, schema):
    monkeypatch.setattr(checkpoint, "SCHEMA", schema)
    saver_at(path, 1)
    monkeypatch.undo()
    refused(path, f"schema {schema}", of.__version__, "reads schema 1")


def test_what_is_no_checkpoint_is_refused(path):
    path.write_bytes(b"")
    refused(path, "it is empty")
    path.write_text("step,loss\n1,2\n")
    refused(path, "not a checkpoint")
    np.savez(path, x=np.zeros(3))
    refused(path, "not a checkpoint")
    net = of.ReLUNetwork.random([3, 4], seed=0)
    of.train(net, np.eye(3), np.ones(3), steps=1).save(path)
    refused(path, "not a checkpoint")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*run\.ckpt\.npz$"):
        load(path, IDENTITY)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load(path / "deeper" / "run.npz", IDENTITY)


def test_the_newest_good_state_is_offered(path):
    saver_at(path, 1, 2, 3, 4, keep=4)
    os.truncate(path, 500)
    os.truncate(f"{path}.1", 700)
    offer = f"{path}.2 is good, of step 2: go on from it with resume='{path}.2'"
    refused(path, "truncated", offer)
    refused(f"{path}.1", "truncated", offer)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is good, of step 2"):
        load(path, IDENTITY)
    other = refused(path.with_name(path.name + ".1"), identity={**IDENTITY, "method": "flow"})
    assert "is good" not in other, "the state of another run is no offer"


def rewrite(path, change):
    """The file with its members passed through `change`, as a zip without a flaw."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)


def npy(array, **kw):
    file = io.BytesIO()
    np.save(file, array, **kw)
    return file.getvalue()


def test_a_zip_without_a_flaw_that_says_something_else_is_refused(path):
    def edited(members):
        meta = json.loads(str(np.load(io.BytesIO(members["metadata.npy"]))))
        meta["meta"]["step"] = 7
        return members | {"metadata.npy": npy(np.array(json.dumps(meta)))}

    changes = {
        "metadata": edited,
        "swapped": lambda m: m | {"bias.npy": m["scale.npy"], "scale.npy": m["bias.npy"]},
        "missing": lambda m: {name: data for name, data in m.items() if name != "bias.npy"},
        "added": lambda m: m | {"more.npy": m["bias.npy"]},
        "renamed": lambda m: {name.replace("bias", "basis"): data for name, data in m.items()},
        "reshaped": lambda m: m | {"empty.npy": npy(np.zeros((3, 0)))},
        "viewed": lambda m: m | {"bias.npy": npy(state(1)["bias"].view(np.int64))},
    }
    for change in changes.values():
        saver_at(path, 1, keep=1)
        rewrite(path, change)
        refused(path, "checksum does not match")
    saver_at(path, 1, keep=1)
    rewrite(path, dict)
    assert_is_state(load(path, IDENTITY)[0], 1)  # rewriting alone changes nothing


def test_a_header_cannot_make_it_allocate(path):
    def huge(members):
        data = members["bias.npy"]
        return members | {"bias.npy": data.replace(b"(5,), }        ", b"(900000000,), }")}

    saver_at(path, 1)
    rewrite(path, huge)
    tracemalloc.start()
    refused(path, "bias.npy is not what its header states")
    assert tracemalloc.get_traced_memory()[1] < 4e6
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.npy", npy(np.zeros(10**6)))
    tracemalloc.reset_peak()
    refused(path, "more data than the file contains")
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_nothing_is_ever_unpickled(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    data = npy(np.array([Bomb()], dtype=object), allow_pickle=True)
    for name in ("metadata.npy", "bias.npy"):
        saver_at(path, 1, keep=1)
        rewrite(path, lambda members, name=name: members | {name: data})
        refused(path, "is not what its header states")
    assert files(path) == [path.name]


def damaged(data, rng):
    """`data` with damage of a random kind, and its kind."""
    data, n = bytearray(data), len(data)
    kind = rng.choice(["bits", "byte", "truncated", "head", "zeros", "garbage", "moved", "random"])
    at = int(rng.integers(n))
    if kind == "bits":
        for i in rng.integers(n, size=rng.integers(1, 4)):
            data[i] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        data[at] = rng.integers(256)
    elif kind == "truncated":
        del data[at:]
    elif kind == "head":
        del data[:at]
    elif kind == "zeros":
        page = data[at - at % 512 : at - at % 512 + 512]
        data[at - at % 512 : at - at % 512 + 512] = bytes(len(page))
    elif kind == "garbage":
        data += rng.bytes(at)
    elif kind == "moved":
        to, size = int(rng.integers(n)), int(rng.integers(1, 600))
        data[to : to + size] = data[at : at + size]
    else:
        data[at : at + 16] = rng.bytes(16)
    return bytes(data), kind


def test_damage_is_refused_or_harmless(path):
    saver_at(path, 1, 2)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    seen = {}
    for _ in range(CORRUPTIONS):
        bad, kind = damaged(good, rng)
        path.write_bytes(bad)
        try:
            arrays, meta = load(path, IDENTITY)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be resumed from: ")
            assert f"resume='{path}.1'" in str(error)
            seen.setdefault(kind, set()).add("refused")
        else:
            assert_is_state(arrays, 2)
            assert meta == {"step": 2, "products": 4}
            seen.setdefault(kind, set()).add("harmless")
    assert len(seen) == 8
    assert all("refused" in seen[kind] for kind in seen if kind != "garbage")


# --- saves that fail


def test_a_rotation_that_fails_leaves_the_new_state(path, monkeypatch):
    saver, replace = saver_at(path, 1, 2), os.replace

    def fails_for_the_older(source, target):
        if str(target) != str(path):
            raise OSError(errno.EIO, "the disk")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_older)
    assert saver.save(3, state(3), {}).errno == errno.EIO
    assert files(path) == [path.name, f"{path.name}.1"]
    assert [load(f"{path}{end}", IDENTITY)[1]["step"] for end in ("", ".1")] == [3, 1]


@pytest.mark.parametrize("call", ["fsync", "replace", "temporary"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failed_save_leaves_the_states_before(path, monkeypatch, call, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    saver = saver_at(path, 1, 2)
    monkeypatch.setattr(machine_files if call == "temporary" else os, call, fail)
    error = saver.save(3, state(3), {})
    assert isinstance(error, OSError) and error.errno == code
    monkeypatch.undo()
    assert files(path) == [path.name, f"{path.name}.1"]
    assert [load(f"{path}{end}", IDENTITY)[1]["step"] for end in ("", ".1")] == [2, 1]
    assert saver.save(4, state(4), {}) is None
    assert_is_state(load(path, IDENTITY)[0], 4)


def fill_until_it_fails(path):
    """Save ever larger states; the first that fails leaves the one before."""
    saver = saver_at(path, 1, 2)
    for step in range(3, 30):
        error = saver.save(step, {"weights": np.ones(2**step)}, {})
        if error is not None:
            break
        last = step
    assert error is not None and last > 10
    assert files(path) == [path.name, f"{path.name}.1"]
    arrays, meta = load(path, IDENTITY)
    assert meta["step"] == last and (arrays["weights"] == 1).all() and len(arrays) == 1
    assert load(f"{path}.1", IDENTITY)[1]["step"] == last - 1
    assert saver.save(step, state(step), {}) is None, "the loop goes on"
    return error


def test_a_file_too_large_for_its_limit_is_no_lost_run(path):
    resource = pytest.importorskip("resource", reason="no limits of files here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        error = fill_until_it_fails(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.errno == errno.EFBIG


def test_a_full_disk_is_no_lost_run(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        error = fill_until_it_fails(tmp_path / "run.npz")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    assert error.errno == errno.ENOSPC


def test_a_folder_that_cannot_be_written_is_named_before_any_work(path, monkeypatch):
    path.write_text("a file")
    for bad, reason in [(path.parent / "none", "No such file"), (path, "Not a directory"),
                        ("/proc", "")]:  # fmt: skip
        with pytest.raises(OSError, match=f"cannot be written in {bad}: {reason}") as info:
            Saver(of.Checkpoint(f"{bad}/run.npz"), IDENTITY).prepare()
        assert info.value.errno
    with pytest.raises(IsADirectoryError, match="is a folder"):
        Saver(of.Checkpoint(path.parent), IDENTITY).prepare()

    def read_only(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(checkpoint, "temporary", read_only)
    with pytest.raises(OSError, match=f"in {path.parent}: Read-only file system"):
        Saver(of.Checkpoint(path), IDENTITY).prepare()


def test_prepare_clears_what_kills_left_and_nothing_else(path):
    folder = path.parent
    left = [f".{path.name}.ab12_xyz.tmp", f".{path.name}.previous.tmp"]
    others = ["notes.tmp", f".{path.name}.x.ab12_xyz.tmp", ".other.ckpt.npz.ab12_xyz.tmp"]
    for name in left + others:
        (folder / name).touch()
    saver_at(path, 1)
    assert files(path) == sorted([*others, path.name])


# --- kills

DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
import opflow as of
from opflow.dynamics.storage.checkpoint import Saver, load
from opflow.machine import files as machine_files

path = Path(sys.argv[1])

def state(step, size=2**18):
    return {"weights": np.random.default_rng(step).standard_normal(size), "step": np.array(step)}

def good(file, size):
    arrays, meta = load(file, {"method": "descent"})
    wanted = state(meta["step"], size)
    assert arrays.keys() == wanted.keys()
    assert all((arrays[name] == wanted[name]).all() for name in wanted)
    return meta["step"]

def saver(keep):
    saver = Saver(of.Checkpoint(path, keep=keep), {"method": "descent"})
    saver.prepare()
    return saver

def child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return pid

def leftovers():
    return [file for file in path.parent.iterdir() if file.name.endswith(".tmp")]
"""

RANDOM_KILLS = (
    DRIVER
    + """
kills, rng, step, mid_write = int(sys.argv[2]), random.Random(0), 0, 0

def run():
    own, now = saver(3), step
    while True:
        now += 1
        assert own.save(now, state(now), {}) is None
        os.write(write, b"%d\\n" % now)

for _ in range(kills):
    read, write = os.pipe()
    pid = child(run)
    os.close(write)
    with os.fdopen(read, "rb") as acknowledged:
        saved = [int(acknowledged.readline())]  # the first save is done
        time.sleep(rng.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        saved += map(int, acknowledged.read().split())
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    mid_write += bool(leftovers())
    before, step = saved[-1], good(path, 2**18)
    assert before <= step <= before + 1, (before, step)
    for age in (1, 2):
        older = path.with_name(f"{path.name}.{age}")
        assert not older.exists() or good(older, 2**18) <= step
saver(3)
print(json.dumps([step, mid_write, len(leftovers())]))
"""
)

EVERY_CALL = (
    DRIVER
    + """
os.fsync = lambda handle: None  # a kill loses nothing that was written, and the disk is slow

def dies_at(n, keep):
    # The process ends just before its n-th call that changes the folder or forces the disk.
    count = 0
    def wrap(call):
        def counted(*args, **kw):
            nonlocal count
            count += 1
            if count == n:
                os._exit(9)
            return call(*args, **kw)
        return counted
    def run():
        own = saver(keep)
        for name in ("fsync", "link", "replace", "unlink"):
            setattr(os, name, wrap(getattr(os, name)))
        own.save(9, state(9, 20), {})
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child(run), 0)[1])

points = 0
for keep in (1, 2, 4):
    for bad_newest in (False, True) if keep > 1 else (False,):
        n, code = 1, 9
        while code == 9:
            for file in path.parent.iterdir():
                file.unlink()
            own = saver(keep)
            for step in range(1, 6):
                own.save(step, state(step, 20), {})
            if bad_newest:
                os.truncate(path, 200)
            code = dies_at(n, keep)
            steps = []
            for age in range(keep):
                file = path.with_name(f"{path.name}.{age}") if age else path
                try:
                    steps.append(good(file, 20))
                except (ValueError, FileNotFoundError):
                    steps.append(None)
            newest = max(step for step in steps if step)
            assert newest >= (4 if bad_newest else 5), (keep, n, steps)
            assert bad_newest or steps[0] in (5, 9), (keep, n, steps)
            own = saver(keep)
            assert own.save(10, state(10, 20), {}) is None and good(path, 20) == 10
            assert not leftovers()
            n, points = n + 1, points + 1
        assert code == 0
print(points)
"""
)


def drive(script, path, *args):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, str(path), *args], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_a_kill_at_any_moment_loses_at_most_one_save(path):
    step, mid_write, left = drive(RANDOM_KILLS, path, str(KILLS))
    assert step >= KILLS and mid_write > 0 and left == 0


@pytest.mark.thorough
def test_a_kill_between_any_two_calls_leaves_a_good_state(path):
    assert drive(EVERY_CALL, path) > 20
