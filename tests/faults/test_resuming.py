"""Checkpoints are whole, and nothing is resumed but what was started."""

import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from fakes import Descent, Momentum, bowl, tiny_lstm

import l2o
from faults.run_folders import hostile, train
from l2o.evaluation import comparison
from l2o.evaluation import records as results
from l2o.evaluation.tuning import Search
from l2o.meta import checkpoint as _checkpoint
from l2o.meta.estimators.bptt import BPTT

KEY = jax.random.key(0)
PANEL = l2o.Panel(lambda: bowl, 3, 4, "x^2")
SMALL = {"key": KEY, "num_tasks": 2, "tune_tasks": 1, "search": Search(2), "measure_costs": False}


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


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
