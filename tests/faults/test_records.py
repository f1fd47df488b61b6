"""Records that are not ours are named, one run at a time is in a folder, and a full disk costs nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import optax
import pytest
from comparisons import decay
from fakes import bowl

import l2o
from faults.run_folders import hostile, train
from l2o import report
from l2o.evaluation import comparison
from l2o.evaluation import records as results
from l2o.evaluation.tuning import Search
from l2o.io import files

KEY = jax.random.key(0)
PANEL = l2o.Panel(lambda: bowl, 3, 4, "x^2")
SMALL = {"key": KEY, "num_tasks": 2, "tune_tasks": 1, "search": Search(2), "measure_costs": False}


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
