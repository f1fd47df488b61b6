"""Run folders: names stay in them, one run at a time is in them, and nothing is resumed but what was started."""

import argparse
import enum
import errno
import json
import operator
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from comparisons import comparison as made_up
from comparisons import decay, record, tuned
from fakes import Descent, Momentum, bowl, bowls, tiny_lstm

import l2o
from l2o import report
from l2o.evaluation import comparison
from l2o.evaluation import records as results
from l2o.evaluation.tuning import Search
from l2o.io import files
from l2o.io.fingerprint import Fingerprints, Unfingerprintable, fingerprint
from l2o.io.names import file_name
from l2o.meta import checkpoint as _checkpoint
from l2o.meta.estimators.bptt import BPTT

KEY = jax.random.key(0)
PANEL = l2o.Panel(lambda: bowl, 3, 4, "x^2")
SMALL = {"key": KEY, "num_tasks": 2, "tune_tasks": 1, "search": Search(2), "measure_costs": False}
AWKWARD = [
    "..",
    ".",
    "",
    "a/b",
    "../../up",
    "/etc",
    ".hidden",
    "a\0b",
    "$x_1$",
    "_a",
    "a[b]$c",
    "[red]x[/]",
    "CON",
    "a.",
    "ä" * 300,
]


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


# Names


@pytest.mark.parametrize("name", [*AWKWARD, "x" * 5000, "a\nb", "\ud800", "nul.txt", "%2E%2E", "é"])
def test_s2_a_name_is_one_file_in_its_folder(name, tmp_path):
    file = file_name(name)
    assert file not in ("", ".", "..")
    assert "/" not in file
    assert "\\" not in file
    assert not file.startswith(".")
    assert file.isprintable()
    assert len(file.encode()) <= 200
    (tmp_path / f"{file}.npz").write_bytes(b"")
    assert [p.name for p in tmp_path.iterdir()] == [f"{file}.npz"]


def test_s2_different_names_are_different_files():
    names = [
        *AWKWARD,
        "x" * 5000,
        "x" * 5001,
        "%",
        "%2E%2E",
        "%2E.",
        "...",
        "con",
        "a",
        "A",
        "a.",
        "a%2E",
        "CON",
        "%43ON",
    ]
    assert len({file_name(name) for name in names}) == len(set(names))


def test_s2_ordinary_names_are_where_older_versions_put_them():
    assert [file_name(n) for n in ("lstm-mnist", "noisy/bowl", "a b", "f(x)")] == [
        "lstm-mnist",
        "noisy%2Fbowl",
        "a%20b",
        "f%28x%29",
    ]


def hostile(folder, panel, optimizer, *, links=False):
    """A comparison whose names were made by someone else."""
    losses = decay(num_tasks=2, run_to=4)
    store = {
        "settings": {
            "num_tasks": 2,
            "tune_tasks": 1,
            "search": {"num_trials": 2, "kind": "grid", "rates": [1e-3, 1.0], "schedules": ["constant"]},
        },
        "panels": {panel: {"horizon": 3, "run_to": 4, "source": "x"}},
        "optimizers": {optimizer: {"learned": True, "fingerprint": "f"}},
        "left_out": {},
    }
    folder.mkdir(exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(store))
    cell = folder / "cells" / file_name(panel) / f"{file_name(optimizer)}.npz"
    cell.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cell, losses=losses, learned=True, seconds=1.0, fingerprint="f")
    return folder


@pytest.mark.parametrize(("panel", "optimizer"), [("html", ".."), ("..", "html"), ("a", "../../victim"), ("", "")])
def test_s2_a_report_of_hostile_names_touches_nothing_outside(tmp_path, panel, optimizer):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("mine.html", "x.html", "victim.html", "events.out.tfevents.1.html"):
        (outside / name).write_text("mine")
        (tmp_path / name).write_text("mine")
    before = snapshot(outside)
    folder = hostile(tmp_path / "hostile", panel, optimizer)
    (outside / "report").mkdir()
    before = snapshot(outside)
    report.write(folder, outside / "report")
    after = {p: c for p, c in snapshot(outside).items() if p.parts[0] != "report"}
    assert after == {p: c for p, c in before.items() if p.parts[0] != "report"}
    assert {p.name for p in tmp_path.iterdir()} == {
        "outside", "hostile", "mine.html", "x.html", "victim.html", "events.out.tfevents.1.html"
    }  # fmt: skip
    assert (outside / "report" / "report.html").exists()


def test_s2_only_our_own_events_are_deleted(tmp_path):
    folder = hostile(tmp_path / "c", "html", "fast")
    run = tmp_path / "c" / "events" / "fast"
    run.mkdir(parents=True)
    (run / "notes.html").write_text("mine")
    (run / "events.out.tfevents.1.host.html").write_text("another tool's")
    for _ in range(2):
        report.write(folder)
    assert (run / "notes.html").read_text() == "mine"
    assert (run / "events.out.tfevents.1.host.html").exists()
    assert len(list(run.glob("events.out.tfevents.*@html"))) == 1


@pytest.mark.parametrize("link", ["events", "figures", "events/fast"])
def test_s2_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, link):
    folder = hostile(tmp_path / "c", "p", "fast")
    (tmp_path / "outside").mkdir()
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"is a link that leads out of"):
        report.write(folder)
    assert list((tmp_path / "outside").iterdir()) == []


def test_s2_cells_are_not_written_through_a_link(tmp_path):
    comparison.compare({"p": PANEL}, {"a": optax.sgd(0.1)}, folder=tmp_path / "c", **SMALL)
    cells = tmp_path / "c" / "cells" / "p"
    for path in cells.iterdir():
        path.unlink()
    cells.rmdir()
    (tmp_path / "outside").mkdir()
    cells.symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="is a link that leads out of"):
        comparison.compare({"p": PANEL}, {"a": optax.sgd(0.1)}, folder=tmp_path / "c", resume=True, **SMALL)
    assert list((tmp_path / "outside").iterdir()) == []


def test_s2_names_that_would_look_alike_are_refused(tmp_path):
    folder = hostile(tmp_path / "c", "p", "adam")
    told = json.loads((folder / "comparison.json").read_text())
    told["optimizers"]["ad\x1b[2Jam"] = told["optimizers"]["adam"]
    (folder / "comparison.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"comparison\.json: several panels or optimizers would be shown as 'adam'"):
        results.load(folder)


def test_s2_control_characters_of_names_are_not_shown(tmp_path):
    text = report.write(hostile(tmp_path / "c", "p\x1b[2Jq", "a\x07b")).text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "pq" in text


# Records that are not ours


def test_b8_a_config_that_is_not_ours_is_named(tmp_path):
    folder = hostile(tmp_path / "c", "p", "fast")
    for content in ("{", "[]", '{"command": 3}', "\xff", "[" * 100_000):
        (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json") as raised:
            report.write(folder)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": 10**12},
        {"horizon": -1},
        {"run_to": 2},
        {"window": 0},
        {"window": 9},
        {"horizon": "3"},
        {"batch_size": True},
        {"run_to": 10**8},
    ],
)
def test_b8_panels_that_cannot_be_are_refused(tmp_path, change):
    folder = hostile(tmp_path / "c", "p", "fast")
    told = json.loads((folder / "comparison.json").read_text())
    told["panels"]["p"].update(change)
    (folder / "comparison.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"comparison\.json|fast\.npz"):
        report.write(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"losses": np.zeros((2, 4), np.float32)},
        {"losses": np.zeros((2, 5), int)},
        {"losses": np.zeros((3, 5))},
        {"learned": np.ones(2, bool)},
        {"images": np.zeros((1, 2, 2, 3))},
        {"images": np.zeros((0, 2, 2, 3), np.uint8)},
        {"metric_a\x1b[2J": np.zeros(2)},
        {"metric_a": np.zeros(3)},
        {"trial_losses": np.zeros(2)},
        {"trial_losses": np.zeros(2), "trial_rate": np.ones(2), "trial_schedule": np.array([0, 9]), "at_edge": False}
        | {"trial_weight_decay": np.ones(2), "chosen": 0},
        {"trial_losses": np.zeros(2), "trial_rate": np.ones(2), "trial_schedule": np.zeros(2, int), "at_edge": False}
        | {"trial_weight_decay": np.ones(2), "chosen": 2},
        {"fingerprint": "another"},
    ],
)
def test_b8_cells_that_cannot_be_are_named(tmp_path, change):
    folder = hostile(tmp_path / "c", "p", "fast")
    cell = folder / "cells" / "p" / "fast.npz"
    arrays = {"losses": decay(num_tasks=2, run_to=4), "learned": True, "seconds": 1.0, "fingerprint": "f"}
    np.savez(cell, **(arrays | change))
    with pytest.raises(ValueError, match=r"fast\.npz is not what l2o recorded there.*Delete it"):
        results.load(folder)
    content = cell.read_bytes()
    cell.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"fast\.npz"):
        results.load(folder)


def test_b8_a_damaged_record_is_named_on_resume_too(tmp_path):
    arguments = {"panels": {"p": PANEL}, "optimizers": {"a": optax.sgd(0.1)}, "folder": tmp_path, **SMALL}
    comparison.compare(**arguments)
    (tmp_path / "cells" / "p" / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a\.npz"):
        comparison.compare(resume=True, **arguments)
    (tmp_path / "comparison.json").write_text('{"settings": {}}')
    with pytest.raises(ValueError, match=r"comparison\.json"):
        comparison.compare(resume=True, **arguments)


def test_b8_panels_that_make_no_sense_are_refused_before_anything_is_run(tmp_path):
    for change in ({"horizon": 0}, {"run_to": 2}, {"window": 5}, {"window": 0}):
        with pytest.raises(ValueError, match="must have 1 <= horizon <= run_to"):
            comparison.compare({"p": PANEL._replace(**change)}, {"a": optax.sgd(0.1)}, folder=tmp_path / "c", **SMALL)
    assert not (tmp_path / "c").exists()


# One run at a time


def test_b8_a_second_run_in_a_folder_is_told(tmp_path):
    said = []

    def second():
        try:
            with files.held(tmp_path / "run"):
                said.append("in")
        except BlockingIOError as error:
            said.append(str(error))

    with files.held(tmp_path / "run"), files.held(tmp_path / "run"):  # a command, and what it calls
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        code = (
            f"from l2o.io.files import held\nfrom pathlib import Path\nwith held(Path({str(tmp_path / 'run')!r})): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        (tmp_path / "run" / "kept").write_text("")
    second()
    assert f"{tmp_path / 'run'} is in use: another run is writing to it." in said[0]
    assert "BlockingIOError" in other.stderr
    assert said[1] == "in"
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["kept"]


def test_b8_a_killed_run_leaves_no_lock(tmp_path):
    code = "import os\nfrom pathlib import Path\nfrom l2o.io.files import held\n"
    code += f"with held(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / ".x.json.123.part").write_text("half")
    (tmp_path / ".mine.part").write_text("")
    with files.held(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == {".lock", ".mine.part"}


def test_b8_both_commands_hold_their_folder(tmp_path):
    held = threading.Event(), threading.Event()

    def other():
        with files.held(tmp_path):
            held[0].set()
            held[1].wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held[0].wait(60)
    try:
        with pytest.raises(BlockingIOError, match="is in use"):
            comparison.compare({"p": PANEL}, {"a": optax.sgd(0.1)}, folder=tmp_path, **SMALL)
        with pytest.raises(BlockingIOError, match="is in use"):
            train(tmp_path)
    finally:
        held[1].set()
        thread.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_b8_a_full_disk_is_one_line_and_says_how_to_go_on(tmp_path, monkeypatch, code):
    def full(descriptor):
        raise OSError(code, os.strerror(code))

    def fill(row):
        monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match=rf"{os.strerror(code)} in .* while writing .*metrics\.jsonl") as raised:
        train(tmp_path, on_step=fill)
    monkeypatch.undo()
    assert "\n" not in str(raised.value)
    assert "go on with resume=True (`--resume`)" in str(raised.value)
    assert not list(tmp_path.rglob("*.part"))
    train(tmp_path, resume=True)


def test_b8_an_event_file_ends_with_a_whole_record(tmp_path, monkeypatch):
    from l2o.io import event_files

    events = event_files.Appended(tmp_path)
    events.add([event_files.scalar("a", 1.0, 1)])
    before, write = events.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:5]))
    with pytest.raises(OSError, match="No space left"):
        events.add([event_files.scalar("a", 2.0, 2)])
    monkeypatch.undo()
    assert events.path.read_bytes() == before


# Checkpoints


def test_b8_checkpoints_are_bit_for_bit_whatever_is_in_them(tmp_path):
    rng = np.random.default_rng(0)
    run = {
        "step": np.asarray(3),
        "bfloat16": jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16),
        "float8": jnp.asarray([0.5, 2.0], jnp.float8_e4m3fn),
        "key": jax.random.split(KEY, 3),
        "rbg": jax.random.key(1, impl="rbg"),
        "old key": jax.random.PRNGKey(3),
        "bool": jnp.asarray([True, False]),
        "int8": jnp.asarray([-1], jnp.int8),
        "empty": jnp.zeros((0, 3)),
        "double": rng.normal(size=(2, 3)),
        "host": np.asarray(2.0, ml_dtypes.bfloat16),
        "complex": jnp.asarray([1 + 2j]),
        "nested": [(jnp.asarray(jnp.inf),), {"a": jnp.zeros(())}],
    }
    save_and_restore(tmp_path, run)


def save_and_restore(folder, run):
    checkpoints = _checkpoint.Checkpoints(folder, resume=False, settings={})
    rows = [{"step": i, "meta_loss": float("nan")} for i in (1, 2, 3)]
    checkpoints.save(run, rows)
    like = jax.tree.map(
        lambda x: (
            x
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else jnp.zeros_like(x)
            if isinstance(x, jax.Array)
            else np.zeros_like(x)
        ),
        run,
    )
    again, history = _checkpoint.Checkpoints(folder, resume=True, settings={}).restore(like)
    assert jax.tree.structure(again) == jax.tree.structure(run)
    for a, e in zip(jax.tree.leaves(again), jax.tree.leaves(run), strict=True):
        assert (a.dtype, a.shape, isinstance(a, jax.Array)) == (e.dtype, e.shape, isinstance(e, jax.Array))
        raw = [
            np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in (a, e)
        ]
        assert raw[0].tobytes() == raw[1].tobytes()
    assert [row["step"] for row in history] == [1, 2, 3]


def test_b8_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_named(tmp_path):
    whole = train(tmp_path / "whole", num_steps=6)
    train(tmp_path / "run", num_steps=6)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["4.safetensors", "6.safetensors"]
    last = tmp_path / "run" / "checkpoints" / "6.safetensors"
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes(content)
    with pytest.raises(ValueError, match=r"6\.safetensors is damaged.*Delete it to go on from step 4\.") as raised:
        train(tmp_path / "run", num_steps=6, resume=True)
    assert "\n" not in str(raised.value)
    last.unlink()
    again = train(tmp_path / "run", num_steps=6, resume=True)
    assert again.history == whole.history
    np.testing.assert_array_equal(again.last.rate, whole.last.rate)


def test_b8_metrics_that_do_not_reach_the_checkpoint_are_named(tmp_path):
    train(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    for content in ("", "".join(lines[:-1]), "".join(reversed(lines)), lines[0] + "{\n" + lines[2]):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(ValueError, match=r"metrics\.jsonl"):
            train(tmp_path, resume=True, num_steps=5)
    extra = json.dumps({"step": 5, "meta_loss": 1.0}) + "\n"  # of a run that was killed before its next checkpoint
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + extra + '{"step"')
    assert len(train(tmp_path, resume=True, num_steps=5).history) == 5


# What is resumed is what was started


def train(folder, *, num_steps=4, resume=False, **changes):
    options = {
        "optimizer": Momentum(jnp.asarray(0.01), jnp.asarray(0.5)),
        "estimator": BPTT(l2o.InnerTraining(bowls, horizon=2, truncation=2), num_tasks=2),
        "outer_opt": optax.adam(1e-3),
        "key": KEY,
        "devices": jax.local_devices()[:1],
        "checkpoint_every": 2,
    } | changes
    return l2o.meta_train(num_steps=num_steps, folder=folder, resume=resume, **options)


def shifted(by):
    def family(key):
        return l2o.FunctionTask(lambda key: jnp.zeros(2), lambda x, key: jnp.sum((x - by) ** 2))

    return family


def over(family):
    return BPTT(l2o.InnerTraining(family, horizon=2, truncation=2), num_tasks=2)


def test_w2_what_differs_is_named(tmp_path):
    options = {"estimator": over(shifted(1.0)), "validation": l2o.Validation(shifted(1.0), 2, num_tasks=1, every=2)}
    train(tmp_path, num_steps=2, **options)
    changes = {
        "key": ({"key": jax.random.key(1)}, r"key is .*0, 0.* there, .*0, 1.* here"),
        "outer": ({"outer_opt": optax.adam(1e-2)}, "outer_opt is"),
        "family": ({"estimator": over(shifted(2.0))}, r"estimator\.problem\.family is"),
        "average": ({"average": 0.5}, r"average is 0\.0 there, 0\.5 here"),
        "start": ({"optimizer": Momentum(jnp.asarray(0.02), jnp.asarray(0.5))}, r"optimizer\.rate is float32 0\.0"),
        "rule": ({"optimizer": Descent(jnp.zeros(()))}, "optimizer is Momentum .* there, Descent .* here"),
        "validation": ({"validation": l2o.Validation(shifted(3.0), 2, num_tasks=1, every=2)}, r"validation\.family is"),
        "none": ({"validation": None}, "validation is Validation .* there, None here"),
    }
    before = snapshot(tmp_path)
    for change, message in changes.values():
        with pytest.raises(ValueError, match=rf"was started with other settings: .*{message}"):
            train(tmp_path, resume=True, **(options | change))
    assert snapshot(tmp_path) == before
    assert train(tmp_path, resume=True, on_step=print, checkpoint_every=3, **(options | {})).num_steps == 4


def test_w2_what_cannot_be_compared_is_not_resumed(tmp_path):
    stream = open(os.devnull)  # noqa: SIM115
    with stream:
        odd = over(lambda key: bowl(key) if stream else None)
        train(tmp_path, num_steps=2, estimator=odd)
        with pytest.raises(
            ValueError, match=r"cannot be resumed.*estimator\.problem\.family\.<lambda>\.stream is a _io.Text"
        ):
            train(tmp_path, resume=True, estimator=odd)


def test_w2_a_run_of_an_older_version_is_refused(tmp_path):
    train(tmp_path, num_steps=2)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"does not say what it was started with.*choose another folder"):
        train(tmp_path, resume=True)


CHANGES = {
    "rate": (optax.sgd(1e-3), optax.sgd(10.0)),
    "schedule": (optax.sgd(lambda step: 0.1 / (step + 1)), optax.sgd(lambda step: 0.2 / (step + 1))),
    "output_scale": (tiny_lstm(output_scale=0.1), tiny_lstm(output_scale=0.2)),
    "baseline": (l2o.baselines.get("momentum"), l2o.baselines.get("nag")),
    "own baseline": tuple(l2o.baselines.Baseline(make) for make in (lambda r: optax.sgd(r), lambda r: optax.sgd(2 * r))),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_w1_another_optimizer_of_the_same_name_is_refused(tmp_path, change):
    before, after = CHANGES[change]
    comparison.compare({"p": PANEL}, {"mine": before}, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="the optimizer 'mine' is another than the one recorded under this name"):
        comparison.compare({"p": PANEL}, {"mine": after}, folder=tmp_path, resume=True, **SMALL)
    more = comparison.compare({"p": PANEL}, {"mine": before, "new": after}, folder=tmp_path, resume=True, **SMALL)
    assert set(more.records["p"]) == {"mine", "new"}


def test_w1_another_family_under_the_same_name_is_refused(tmp_path):
    panels = [{"p": PANEL._replace(make=lambda shift=shift: shifted(shift))} for shift in (1.0, 2.0, 1.0)]
    comparison.compare(panels[0], ["sgd"], folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"the panel 'p' is another than the one recorded under this name"):
        comparison.compare(panels[1], ["sgd"], folder=tmp_path, resume=True, **SMALL)
    comparison.compare(panels[2], ["sgd"], folder=tmp_path, resume=True, **SMALL)


def test_w1_a_record_of_an_older_version_is_reported_but_not_resumed(tmp_path):
    folder = hostile(tmp_path / "c", "p", "fast")
    assert "fast" in results.load(folder).records["p"]
    told = json.loads((folder / "comparison.json").read_text())
    with pytest.raises(ValueError, match=r"is of an older l2o.*can be reported, but not resumed"):
        comparison.compare({"p": PANEL}, {"fast": Descent(jnp.zeros(()))}, folder=folder, resume=True, **SMALL)
    assert json.loads((folder / "comparison.json").read_text()) == told


CONSTANT = 1.0


def uses_a_global(x):
    return CONSTANT * x


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.scale * x


class Field(eqx.Module):
    scale: float = eqx.field(static=True)


def test_w1_a_fingerprint_sees_all_that_decides(monkeypatch):
    def closing(value, default=0.0):
        def function(x, more=default, *, keyword=default):
            return value * x + more

        return function

    different = [
        closing(1.0),
        closing(2.0),
        closing(1.0, default=1.0),
        closing(jnp.zeros(2)),
        closing(jnp.zeros(2, jnp.int32)),
        closing([1, 2]),
        closing({"a": 1}),
        closing({1, 2}),
        jax.vmap(closing(1.0)),
        jax.vmap(closing(1.0), in_axes=1),
        eqx.filter_vmap(closing(1.0)),
        jax.tree_util.Partial(closing(1.0), 2),
        lambda x: x + 1,
        lambda x: x + 2,
        Scaled(1.0),
        Scaled(2.0),
        Scaled(1.0).__call__,
        Field(1.0),
        Field(2.0),
        Scaled,
        Field,
        jnp.zeros(2),
        np.zeros((2, 1)),
        jax.random.key(0),
        jax.random.key(0, impl="rbg"),
        optax.adam(1e-3),
        optax.adam(1e-3, b1=0.8),
        optax.sgd(optax.cosine_decay_schedule(0.1, 10)),
        optax.sgd(optax.cosine_decay_schedule(0.1, 11)),
        *l2o.baselines.BASELINES.values(),
    ]
    prints = [fingerprint(thing) for thing in different]
    assert len(set(prints)) == len(prints)
    assert fingerprint(jax.jit(closing(1.0))) == fingerprint(eqx.filter_jit(closing(1.0)))
    before = fingerprint(uses_a_global)
    monkeypatch.setattr(sys.modules[__name__], "CONSTANT", 2.0)
    assert fingerprint(uses_a_global) != before


def test_w1_a_fingerprint_is_that_of_any_process(tmp_path):
    code = (
        "import jax, optax, l2o\nfrom fakes import bowls, Momentum, tiny_lstm\nfrom l2o.io.fingerprint import fingerprint\n"
        "from l2o.tasks import mlp\n"
        "def loop(n): return {'b', 'a', 'c'} if n == 0 else loop(n - 1)\n"
        "things = bowls, tiny_lstm(), optax.adam(lambda t: 0.1 / t), loop, mlp.family(), jax.random.key(0), {'x': {1, 2}}\n"
        "print([fingerprint(t) for t in things])"
    )
    said = set()
    for seed in ("1", "2"):
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        }
        said.add(
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        )
    assert len(said) == 1


def test_w1_what_has_no_fingerprint_is_named():
    generator = (i for i in range(3))
    with pytest.raises(Unfingerprintable, match=r"^mine\.<lambda>\.generator is a generator, which is another"):
        fingerprint(lambda: generator, "mine")
    rng = np.random.default_rng(0)
    with pytest.raises(Unfingerprintable, match=r"mine\['a'\]\[1\] is a numpy.*Generator"):
        fingerprint({"a": (1, rng)}, "mine")


def test_w1_functions_that_call_each_other_have_fingerprints_of_their_own():
    """Whichever of them is met first, and however many call however many."""
    n = 14
    calls = "+".join(f"f{j}(x)" for j in range(n))
    space = {"__name__": "mine"}
    exec("\n".join(f"def f{i}(x): return {calls} + {i}" for i in range(n)), space)
    functions = [space[f"f{i}"] for i in range(n)]
    there, back = Fingerprints(), Fingerprints()
    prints = [there.of(f) for f in functions]
    assert prints == [back.of(f) for f in functions[::-1]][::-1] == [fingerprint(f) for f in functions]
    assert len(set(prints)) == n


def test_w1_all_that_decides_counts():
    """Attributes of functions, of metaclasses, values of enumerations, and what objects say that they are made of."""

    def scaled(x):
        return x * scaled.scale

    def kind(value):
        meta = type("Meta", (type,), {"scale": value})
        return meta("Kind", (), {})

    def choice(value):
        return enum.Enum("Choice", {"ONE": value}).ONE

    scaled.scale = 1.0
    before = fingerprint(scaled)
    scaled.scale = 2.0
    assert fingerprint(scaled) != before
    pairs = [(kind(1), kind(2)), (choice(1), choice(2))]
    for make in (
        operator.itemgetter,
        Fraction,
        Decimal,
        timedelta,
        lambda n: SimpleNamespace(a=n),
        lambda n: deque([n]),
    ):
        assert fingerprint(make(1)) == fingerprint(make(1))
        pairs.append((make(1), make(2)))
    assert all(fingerprint(one) != fingerprint(other) for one, other in pairs)


def test_w1_of_parsed_arguments_those_count_that_are_read():
    def family(arguments):
        return lambda key: arguments.hidden

    def whole(arguments):
        return lambda key: vars(arguments)

    first, again, other = (argparse.Namespace(hidden=h, resume=r) for h, r in [(1, False), (1, True), (2, False)])
    assert fingerprint(family(first)) == fingerprint(family(again)) != fingerprint(family(other))
    assert fingerprint(whole(first)) != fingerprint(whole(again))


# Any name works in every output


@pytest.fixture
def awkward():
    records = {
        name: record(decay(1 + i), learned=i == 0, tuned=tuned() if i else None)
        for i, name in enumerate(AWKWARD[:4] + AWKWARD[8:])
    }
    return made_up({"$p_1$ [b]": records, "_p": dict(list(records.items())[:3]), "p\\$": {}})


def test_b7_figures_draw_any_name(awkward, tmp_path):
    import matplotlib.pyplot as plt

    shown = []
    close = plt.close

    def keep(fig):
        legend = fig.axes[0].get_legend()
        shown.extend([text.get_text() for text in legend.get_texts()] + [fig.axes[0].get_title()])
        assert not any(text.get_parse_math() for text in legend.get_texts())
        close(fig)

    records = awkward.records["$p_1$ [b]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", keep)
        report.figure({"$p_1$ [b]": records}, tmp_path / "a.svg", also=[tmp_path / "a[b]$c.png"])
    assert len(shown) == len(records) + 1
    assert shown[-1] == "$p_1$ [b]"
    assert any(text.startswith("_a") for text in shown)
    assert any(text.startswith("$x_1$") for text in shown)
    assert (tmp_path / "a[b]$c.png").stat().st_size > 1000
    report.profile_figure(awkward, tmp_path / "b.png")


def test_b7_the_terminal_shows_any_name(awkward):
    import io

    from rich.console import Console

    said = io.StringIO()
    console = Console(file=said, width=200)
    from l2o.evaluation import analysis

    rows = analysis.rows(awkward.records["$p_1$ [b]"], [20])
    console.print(report.table(rows, title="[bold]title[/nope]"))
    console.print(report.overall_table(awkward))
    for text in ("[bold]title[/nope]", "a[b]$c", "[red]x[/]", "_a"):
        assert text in said.getvalue()


def test_b7_tensorboard_keeps_panels_apart_whatever_their_names(tmp_path):
    from test_report import events

    from l2o.report.events import write_cell

    for panel in ("a b", "a_b", "a+b", "x.b", "b"):
        write_cell(tmp_path, panel, "$[x]", record(decay()), 1)
    tags = {tag for _, tag, *_ in events(tmp_path)}
    assert tags == {f"{panel}/loss" for panel in ("a b", "a_b", "a+b", "x.b", "b")}
    assert len(list(tmp_path.glob("*/*"))) == 5


@pytest.mark.slowest
@pytest.mark.slow
def test_b7_reports_are_written_for_any_name(tmp_path):
    for i, name in enumerate(AWKWARD):
        folder = hostile(tmp_path / f"c{i}[b]$c", name, name)
        written = report.write(folder)
        assert all(path.exists() for path in written.figures)
        assert written.page.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a[b]$c", *(pytest.param(n, marks=pytest.mark.slowest) for n in ("[red]", "a:warning:b", "_x $y$"))]
)
def test_b7_commands_print_paths_that_exist(tmp_path, name):
    folder = hostile(tmp_path / name, "p", "fast")
    code = "import sys; from l2o.cli import main; sys.argv[0] = 'l2o'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(folder)], capture_output=True, text=True, check=True
    )
    assert f"Report:  {folder / 'report.html'} (" in done.stdout
    assert f"Summary: {folder / 'summary.txt'}\n" in done.stdout
