"""Run folders that were damaged, changed, killed and filled up, at random: an error that names the file, or the right result."""

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import three_panels

import l2o
from l2o import report
from l2o.evaluation import records as results
from l2o.evaluation.store import Store
from l2o.meta import checkpoint
from l2o.report.page_data import page_data

pytestmark = [pytest.mark.slow, pytest.mark.slowest]
TESTS = Path(__file__).parents[1]
ODD = [
    *(None, True, 0, -1, 1, 2, 10**6, 10**12, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", ".."),
    *("../../x", "/etc/passwd", "os:system", "a" * 5000, "\x1b[2J", "\ud800", "$x$", [], {}, [[]], [1, 2], {"a": 1}),
]


def snapshot(folder):
    return {p: (p.read_bytes() if p.is_file() else None) for p in sorted(folder.rglob("*"))}


def places(tree, path=()):
    """Every place in a JSON value."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def changed_json(text, rng):
    """One value replaced, removed or renamed."""
    tree = json.loads(text)
    path = rng.choice(list(places(tree))[1:] or [()])
    if not path:
        return json.dumps(rng.choice(ODD))
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    how = rng.randrange(4)
    if how == 0:
        del inner[path[-1]]
    elif how == 1 and isinstance(inner, dict):
        inner[str(rng.choice(ODD))] = inner.pop(path[-1])
    elif how == 2 and isinstance(inner[path[-1]], int | float):
        inner[path[-1]] *= rng.choice([-1, 2, 0, 1e10, 1.5])
    else:
        inner[path[-1]] = rng.choice(ODD)
    return json.dumps(tree)


def changed_arrays(content, rng):
    """One array of an npz file replaced, removed, renamed, reshaped, or with other numbers in it."""
    arrays = dict(np.load(io.BytesIO(content)))
    name = rng.choice(list(arrays))
    value, how = arrays[name], rng.randrange(6)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[f"metric_{rng.choice(['a', '/x', '../../y', chr(27) + '[2J', 'z' * 300])}"] = arrays.pop(name)
    elif how == 2:
        arrays[name] = value.ravel()
    elif how == 3:
        kinds = [np.int8, np.float16, np.float64, "U3", bool, complex]
        arrays[name] = np.zeros(3) if value.dtype.kind == "U" else value.astype(rng.choice(kinds))
    elif how == 4 and value.dtype.kind in "fiu" and value.size:
        flat = value.copy().reshape(-1)
        at = rng.randrange(value.size)
        flat[at:] = rng.choice([0, 1, 9] if value.dtype.kind != "f" else [np.nan, np.inf, -np.inf, 0, -1, 1e30, 1e-30])
        arrays[name] = flat.reshape(value.shape)
    else:
        arrays[name] = np.concatenate([value, value]) if value.ndim else np.stack([value, value])
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def changed_bytes(content, rng):
    content = bytearray(content or b"?")
    how = rng.randrange(4)
    if how == 0:
        return bytes(content[: rng.randrange(len(content) + 1)])
    if how == 1:
        return bytes(content) + rng.randbytes(rng.randrange(1, 50))
    if how == 2:
        return rng.randbytes(rng.randrange(200))
    for _ in range(rng.randrange(1, 5)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def mutate(path, rng, *, anew=True):
    """Changes a file: what it says, or its bytes. One that was changed before may not be readable any more."""
    content = path.read_bytes()
    if anew and rng.random() < 0.5 and path.suffix in (".json", ".npz"):
        with np.errstate(all="ignore"):
            if path.suffix == ".npz":
                path.write_bytes(changed_arrays(content, rng))
            else:
                path.write_text(changed_json(content.decode(), rng))
    else:
        path.write_bytes(changed_bytes(content, rng))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a comparison."""
    found, folder = three_panels(), tmp_path_factory.mktemp("whole") / "c"
    found = found._replace(settings={**found.settings, "num_tasks": 8})
    prints = {
        kind: dict.fromkeys(names, "f") for kind, names in (("panels", found.panels), ("optimizers", found.optimizers))
    }
    about = {
        n: {"learned": n == "fast", "meta_training": found.meta_training[n]._asdict() if n == "fast" else None}
        for n in found.optimizers
    }
    folder.mkdir()
    store = Store(folder, False, found.panels, about, found.settings, found.left_out, prints)
    for panel, records in found.records.items():
        for i, (name, record) in enumerate(records.items()):
            images = np.full((2, 5, 4, 3), 0.5, np.float32) if i == 0 else None
            store.write(panel, name, record._replace(images=images))
        store.write_costs(panel, found.costs[panel])
    (folder / "config.json").write_text(json.dumps({"command": "l2o compare x", "versions": {"jax": "1"}}))
    return folder


def test_b8_changed_comparisons_are_refused_by_name_or_reported(whole, tmp_path):
    """Two thousand of them: nothing outside is touched, memory and time are bounded."""
    rng, folder, output = random.Random(0), tmp_path / "in" / "c", tmp_path / "in" / "report"
    (tmp_path / "victim.html").write_text("mine")
    before, refused, drawn = snapshot(whole.parent), 0, 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(2000):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        victim = rng.choice([folder / "comparison.json", *files])
        for again in range(rng.choice([1, 1, 2])):
            mutate(victim, rng, anew=not again)
        started, said = time.process_time(), None
        try:
            if i % 80 == 0:
                report.write(folder, output)
                drawn += 1
            else:
                found = results.load(folder)
                report.summarised(found)
                page_data(found)
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"number {i}, {victim.relative_to(folder)}: {error!r}") from error
        if said is not None:
            refused += 1
            assert str(folder) in said, (i, victim, said)
            assert "\n" not in said, (i, victim, said)
        assert time.process_time() - started < 20, (i, victim)
    assert refused > 1000
    assert drawn > 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # KiB
    assert snapshot(whole.parent) == before
    assert {p.name for p in tmp_path.iterdir()} == {"in", "victim.html"}
    assert {p.name for p in (tmp_path / "in").iterdir()} <= {"c", "report"}


def test_b8_changed_checkpoints_are_refused_by_name_or_whole(tmp_path):
    """Five hundred changed checkpoints, metrics and settings: what is restored is, bit for bit, what was saved."""
    rng = random.Random(1)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run = {
        "step": np.asarray(2),
        "phi": jnp.arange(5.0),
        "key": jax.random.key(0),
        "episodes": [jnp.ones((2, 3), jnp.bfloat16)],
    }
    checkpoints = checkpoint.Checkpoints(whole, resume=False, settings={"family": "x", "rate": 0.1})
    for step in (1, 2):
        rows = [{"step": s, "meta_loss": float(s)} for s in range(1, step + 1)]
        checkpoints.save({**run, "step": np.asarray(step)}, rows)
    before, refused = snapshot(whole), 0
    for i in range(500):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        victim = rng.choice([p for p in sorted(folder.rglob("*")) if p.is_file()])
        mutate(victim, rng)
        said = None
        try:
            again = checkpoint.Checkpoints(folder, resume=True, settings={"family": "x", "rate": 0.1})
            restored, history = again.restore(run)
        except ValueError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"number {i}, {victim.relative_to(folder)}: {error!r}") from error
        if said is not None:
            refused += 1
            assert str(folder) in said, (i, victim, said)
            assert "\n" not in said, (i, victim, said)
            continue
        assert int(restored["step"]) == len(history) == 2
        for name in ("phi", "episodes"):
            for a, e in zip(jax.tree.leaves(restored[name]), jax.tree.leaves(run[name]), strict=True):
                assert np.asarray(a).tobytes() == np.asarray(e).tobytes()
    assert refused > 250
    assert snapshot(whole) == before


# Killed, twice started, and out of space


def start(script, *arguments):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(l2o.__file__).parents[1]), str(TESTS)])}
    command = [sys.executable, TESTS / script, *arguments]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [line for line in output.splitlines() if line.startswith("phi")]


@pytest.mark.parametrize("round_", range(3))
def test_b8_meta_training_killed_ten_times_goes_on_to_the_same_bits(tmp_path, round_):
    """SIGKILL after random steps, most of them within a save: files are written slowly there."""
    rng = random.Random(round_)
    expected = finish(start("killable.py", tmp_path / "whole", 60))
    resume, last = (), 0
    for _ in range(10):
        process = start("killable.py", tmp_path / "killed", 60, "slowly", *resume)
        wanted, done = last + rng.randint(1, 8), 0
        for line in process.stdout:
            done = int(line.split()[1]) if line.startswith("step") else done
            if done >= min(wanted, 58):
                break
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert done > 0
        resume, last = ("resume",), done - done % 7
    assert finish(start("killable.py", tmp_path / "killed", 60, "resume")) == expected
    whole, killed = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed"))
    assert killed == whole
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_b8_two_processes_in_one_folder(tmp_path):
    first = start("killable.py", tmp_path / "run", 60, "slowly")
    assert first.stdout.readline().startswith("step")
    second = start("killable.py", tmp_path / "run", 60, "resume")
    _, errors = second.communicate(timeout=200)
    assert second.returncode != 0
    assert f"{tmp_path / 'run'} is in use" in errors.splitlines()[-1]
    expected = finish(start("killable.py", tmp_path / "whole", 60))
    assert finish(first) == expected


FULL = """
set -e
mount -t tmpfs -o size=4m tmpfs "$1"
shift
"$@" --folder "$DISK/run" > /dev/null 2> "$SAID" &
train=$!
while ! ls "$DISK"/run/checkpoints/*.safetensors > /dev/null 2>&1; do sleep 0.05; done
cat /dev/zero > "$DISK/filler" 2> /dev/null || true
wait $train && exit 9
rm "$DISK/filler"
"$@" --folder "$DISK/run" --resume > /dev/null
cp "$DISK"/run/weights.safetensors "$DISK"/run/metrics.jsonl "$RESULT"
"""


def test_b8_a_disk_that_fills_up_in_the_middle(tmp_path):
    """Four megabytes: one line on standard error, and after space was made the same weights as ever."""
    for name in ("disk", "result", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "full.sh").write_text(FULL)
    options = (
        "--num-steps 400 --num-tasks 2 --horizon 4 --truncation 2 --checkpoint-every 10 --validation-tasks 2 --cores 1"
    )
    l2o_ = [sys.executable, "-c", "from l2o.cli import main; main()"]
    train = [*l2o_, "train", "quadratic", *options.split(), "-o", "num_units=3", "-o", "num_layers=1"]
    paths = {"DISK": tmp_path / "disk", "SAID": tmp_path / "said", "RESULT": tmp_path / "result"}
    env = {**os.environ, "PYTHONPATH": str(Path(l2o.__file__).parents[1]), **{k: str(v) for k, v in paths.items()}}
    command = ["unshare", "-rm", "bash", tmp_path / "full.sh", tmp_path / "disk", *train]
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=400)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("this system lets nobody mount a file system")
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "said").read_text().splitlines()
    assert line.startswith("error: No space left on device in ")
    assert line.endswith("What was recorded before is whole: free some space and go on with resume=True (`--resume`).")
    subprocess.run([*train, "--folder", str(tmp_path / "whole" / "run")], env=env, check=True, capture_output=True)
    assert (tmp_path / "result" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "run" / "metrics.jsonl"
    ).read_bytes()
    ours, theirs = (l2o.load(tmp_path / f / "weights.safetensors") for f in ("result", "whole/run"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def table(folder):
    from test_comparison import numbers

    return json.dumps(numbers(results.load(folder)))


def test_b8_a_comparison_killed_thirty_times_goes_on_to_the_same_table(tmp_path):
    """SIGKILL at 30 random moments, most of them after something was written; folders that are done are left for new ones."""
    rng = random.Random(5)
    finish(start("killable_comparison.py", tmp_path / "whole"))
    expected = table(tmp_path / "whole")
    num_kills, folders = 0, [tmp_path / "killed-0"]
    while num_kills < 30:
        process = start("killable_comparison.py", folders[-1])
        files, started = len(list(folders[-1].rglob("*"))), time.monotonic()
        while len(list(folders[-1].rglob("*"))) <= files and process.poll() is None and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            num_kills += 1
        else:
            assert process.returncode == 0
            folders.append(tmp_path / f"killed-{len(folders)}")
    finish(start("killable_comparison.py", folders[-1]))
    for folder in folders:
        assert table(folder) == expected
        assert not list(folder.rglob("*.part"))
