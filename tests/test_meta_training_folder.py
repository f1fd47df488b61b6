"""A run in a folder is recorded whole, and goes on to the same bits from whatever stopped it."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from fakes import Descent, Momentum, assert_trees_equal, bowl, bowls

import l2o
from l2o.meta.estimators.bptt import BPTT

KEY = jax.random.key(0)
SMALL = Descent(jnp.log(jnp.asarray(0.01, jnp.float32)))


def estimator(family=bowl, horizon=4, truncation=2, num_tasks=1):
    return BPTT(l2o.InnerTraining(family, horizon=horizon, truncation=truncation), num_tasks=num_tasks)


# Resuming


def train(folder=None, *, resume=False, num_steps=12, on_step=None, optimizer=None, **options):
    optimizer = Momentum(jnp.asarray(0.01), jnp.asarray(0.5)) if optimizer is None else optimizer
    validation = l2o.Validation(bowls, horizon=3, num_tasks=2, every=4)
    return l2o.meta_train(
        optimizer,
        estimator(bowls, num_tasks=2),
        num_steps=num_steps,
        key=KEY,
        validation=validation,
        folder=folder,
        resume=resume,
        on_step=on_step,
        **{"checkpoint_every": 5, "average": 0.5, **options},
    )


@pytest.fixture(scope="module")
def uninterrupted():
    return train()


def assert_same_run(result, expected):
    assert_trees_equal(result.optimizer, expected.optimizer)
    assert_trees_equal(result.last, expected.last)
    assert result.history == expected.history
    assert result.best_score == expected.best_score


def test_a_folder_changes_nothing_and_records_everything(tmp_path, uninterrupted):
    result = train(tmp_path / "new" / "run")
    assert_same_run(result, uninterrupted)
    rows = [json.loads(line) for line in (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert list((tmp_path / "new" / "run").glob("events.out.tfevents.*"))


def test_a_finished_run_goes_on_to_more_steps(tmp_path, uninterrupted):
    train(tmp_path, num_steps=8)
    assert_same_run(train(tmp_path, resume=True), uninterrupted)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, uninterrupted):
    def interrupt(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path, on_step=interrupt)
    (note,) = caught.value.__notes__
    assert note.startswith(f"Saved at meta-step 3 in {tmp_path}; go on with resume=True")
    seen = []
    result = train(tmp_path, resume=True, on_step=lambda row: seen.append(row["step"]))
    assert seen[0] == 4
    assert_same_run(result, uninterrupted)


def test_ctrl_c_in_the_middle_of_a_step_loses_that_step_only(tmp_path, uninterrupted, monkeypatch):
    """While validating, after the update was made: resuming must not make it twice, nor skip the validation."""
    score, calls = l2o.Validation.score, []

    def interrupted(self, *args):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, *args)

    monkeypatch.setattr(l2o.Validation, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert_same_run(train(tmp_path, resume=True), uninterrupted)


def test_a_disk_that_fills_up_half_way_costs_nothing_that_was_saved(tmp_path, uninterrupted, monkeypatch):
    def fill(row):
        if row["step"] == 8:
            monkeypatch.setattr(os, "fsync", full)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device"):
        train(tmp_path, on_step=fill)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.part"))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    assert_same_run(train(tmp_path, resume=True), uninterrupted)


def killable(folder, *arguments):
    command = [sys.executable, Path(__file__).with_name("killable.py"), folder, "60", *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(l2o.__file__).parents[1])}
    return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, env=env)


def outcome(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return [line for line in output.splitlines() if line.startswith("phi")]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path):
    """SIGKILL at three random moments: somewhere between the steps 1-15, 16-30 and 31-45, in a save or out of it."""
    expected = outcome(killable(tmp_path / "whole"))
    assert len(expected) == 2
    rng = random.Random()  # a failure is one whatever the moment; it is printed
    resume = ()
    for low in (1, 16, 31):
        last_step, delay = rng.randint(low, low + 14), rng.uniform(0, 0.03)
        print(f"killing {delay:.4f} s after step {last_step}")
        process = killable(tmp_path / "killed", *resume)
        for line in process.stdout:
            if line.startswith("step") and int(line.split()[1]) >= last_step:
                break
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        resume = ("resume",)
    assert outcome(killable(tmp_path / "killed", "resume")) == expected
    whole, killed = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed"))
    assert killed == whole


# What is refused


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train(tmp_path, num_steps=1)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(
        FileExistsError, match=r"already holds a run\. Pass resume=True \(`--resume`\) to go on with it, or"
    ):
        train(tmp_path, num_steps=1)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run to resume\. Leave `resume` out to start one there\."):
        train(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_resuming_with_other_settings(tmp_path):
    train(tmp_path, num_steps=1)
    with pytest.raises(
        ValueError,
        match=r"was started with other settings: optimizer is Momentum.* there, Descent.* here.*\. Resume with the",
    ):
        train(tmp_path, num_steps=2, resume=True, optimizer=SMALL)
    longer = estimator(bowls, horizon=6, num_tasks=2)
    with pytest.raises(ValueError, match=r"was started with other settings: .*problem\.horizon is 4 there, 6 here"):
        l2o.meta_train(
            Momentum(jnp.asarray(0.01), jnp.asarray(0.5)), longer, num_steps=2, key=KEY, folder=tmp_path, resume=True
        )


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write to .*file/run: .*choose another folder; nothing has been run"):
        train(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_full_or_read_only_disk_is_noticed_before_anything_is_run(tmp_path, monkeypatch, code):
    """As root, permissions stop nothing: the system call is made to fail."""

    def fails(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(
        OSError, match=rf"Cannot write to .*run: {os.strerror(code)}\. Free some space or choose another"
    ):
        train(tmp_path / "run", on_step=lambda row: pytest.fail("it ran"))
    assert not (tmp_path / "run").exists()
