"""Arguments that make no sense are refused where they enter, in the caller's words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, bowl

import l2o
from faults.awkward_rules import KEY
from l2o.core import plugins, scale
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.estimators.pes import PES


def _made(**options):
    return lambda: l2o.InnerTraining(bowl, **{"horizon": 4, "truncation": 2, **options})


PROBLEM = _made()()
RULE = Descent(jnp.log(0.1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: l2o.Blocks(0),
        lambda: l2o.Sampled(-3, 7),
        lambda: l2o.Sampled(0.0),
        lambda: l2o.Sampled(0.5, -0.1),
        lambda: l2o.Sampled(float("nan")),
        _made(horizon=-1, truncation=-1),
        _made(horizon=0, truncation=1),
        lambda: BPTT(PROBLEM, num_tasks=0),
        lambda: BPTT(PROBLEM, num_tasks=2, batch_size=0),
        lambda: PES(PROBLEM, num_tasks=2, std=0.0),
        lambda: PES(PROBLEM, num_tasks=2, std=float("inf")),
        lambda: PES(PROBLEM, num_tasks=-1),
        lambda: l2o.Validation(bowl, horizon=4, every=0),
        lambda: l2o.Validation(bowl, horizon=0),
        lambda: l2o.Validation(bowl, horizon=4, final_steps=-1),
        lambda: l2o.Validation(bowl, horizon=4, final_steps=6),
        lambda: l2o.Search(num_trials=0),
        lambda: l2o.Search(rates=(0.0, 1.0)),
        lambda: l2o.Search(rates=(1e-3, float("inf"))),
        lambda: l2o.Search(rates=(1.0, 0.1)),
        lambda: l2o.Search(kind="random", weight_decays=(0.0, 0.1)),
        lambda: l2o.default_outer_optimizer(max_norm=0.0),
        lambda: l2o.default_outer_optimizer(learning_rate=float("inf")),
        lambda: l2o.default_outer_optimizer(learning_rate=-1e-3),
        lambda: l2o.Mixture([BPTT(PROBLEM, num_tasks=1)], max_norm=-1.0),
        lambda: l2o.unroll(bowl(), RULE, l2o.start(bowl(), RULE, KEY), KEY, length=-1),
        lambda: l2o.evaluate(RULE, bowl, horizon=4, num_tasks=0, key=KEY),
        lambda: l2o.evaluate(RULE, bowl, horizon=-1, num_tasks=1, key=KEY),
        lambda: l2o.evaluate(RULE, bowl, horizon=1, num_tasks=1, batch_size=0, key=KEY),
        lambda: l2o.tune(optax.sgd, np.array([0.1]), bowl, horizon=0, num_tasks=1, key=KEY),
        lambda: l2o.tune(optax.sgd, np.array([0.1]), bowl, horizon=1, num_tasks=0, key=KEY),
        lambda: l2o.tune(optax.sgd, np.array([0.1]), bowl, horizon=1, num_tasks=1, final_steps=3, key=KEY),
        lambda: l2o.tune(optax.sgd, np.array([]), bowl, horizon=1, num_tasks=1, key=KEY),
        lambda: l2o.meta_train(RULE, BPTT(PROBLEM, num_tasks=1), num_steps=1, key=KEY, checkpoint_every=0),
        lambda: l2o.meta_train(RULE, BPTT(PROBLEM, num_tasks=1), num_steps=1, key=KEY, max_seconds=-1.0),
        lambda: l2o.explain(RULE, bowl, horizon=0, key=KEY),
        lambda: scale.gradient_scale(RULE, bowl, horizon=0, key=KEY),
        lambda: l2o.baselines.learning_rates(0.0, 1.0),
    ],
)
def test_b10_arguments_are_checked_where_they_enter(make):
    with pytest.raises(ValueError, match=r"^`\w+` must "):
        make()


# Each a call, and the first words of what it is refused with. Outside of pytest, whose type checker would be the first to refuse.
REFUSED = {
    "lstm.build(KEY, output_scale=float('nan'))": "`output_scale` must be positive and finite, got nan",
    "lstm.build(KEY, output_scale=0)": "`output_scale` must be positive and finite, got 0",
    "lstm.build(KEY, output_scale=float('inf'))": "`output_scale` must be positive and finite, got inf",
    "lstm.build(KEY, preprocessing=-1)": "`preprocessing` must be positive and finite, got -1",
    "lstm.build(KEY, preprocessing=1000)": "`preprocessing` must be at most 80",
    "lstm.build(KEY, num_units=2.5)": "`num_units` must be a whole number, got 2.5",
    "lstm.build(KEY, num_units=0)": "`num_units` must be at least 1, got 0",
    "lstm.build(KEY, num_units=True)": "`num_units` must be a whole number, got True",
    "lstm.build(KEY, num_layers='2')": "`num_layers` must be a whole number, got '2'",
    "lstm.build(KEY, num_global=1.5)": "`num_global` must be a whole number, got 1.5",
    "lstm.chrono(lstm.build(KEY), 2.5, key=KEY)": "`num_steps` must be a whole number",
    "ntm_bfgs.build(KEY, memory_pairs=2.5)": "`memory_pairs` must be a whole number, got 2.5",
    "ntm_bfgs.build(KEY, output_scale=0.0)": "`output_scale` must be positive",
    "ntm_bfgs.build(KEY, preprocessing=float('nan'))": "`preprocessing` must be positive",
    "ntm_bfgs.build(KEY, skips='no')": "`skips` must be True or False, got 'no'",
    "l2o.Guarded(RULE, race=2.5)": "`race` must be a whole number, got 2.5",
    "l2o.Guarded(RULE, window=True)": "`window` must be a whole number, got True",
    "l2o.Guarded(RULE, margin='0.1')": "`margin` must be a number, got '0.1'",
    "l2o.Guarded(RULE, reach=float('nan'))": "`reach` must be positive, got nan",
    "l2o.Guarded('lstm-mnist')": "`learned` must be a learned optimizer or an optax transformation, such as",
    "l2o.Guarded(RULE, 1e-3)": "`fallback` must be a learned optimizer or an optax transformation, such as",
    "l2o.Guarded(optax.adam(1e-3), RULE)": "`learned` has nothing that is learned, and `fallback` has: they are swapped.",
    "l2o.meta_train(RULE, BPTT(PROBLEM, 1), 1e-3, num_steps=1, key=KEY)": "`outer_opt` must be an optax transformation",
    "l2o.meta_train(RULE, BPTT(PROBLEM, 1), 0, num_steps=1, key=KEY)": "`outer_opt` must be an optax transformation",
    "l2o.meta_train(RULE, BPTT(PROBLEM, 1), num_steps=1, key=KEY, devices=[])": "`devices` must be at least one",
    "l2o.meta_train(RULE, BPTT(PROBLEM, 1), num_steps=1, key=KEY, devices=['cpu'])": "`devices[0]` must be a device",
    "l2o.meta_train(RULE, BPTT(PROBLEM, 1), num_steps=1, key=KEY, validation=bowl)": "`validation` must be an `l2o.Valid",
    "l2o.loss_curves('adam', bowl, horizon=1, num_tasks=1, key=KEY)": "`optimizer` must be a learned optimizer or an",
    "l2o.loss_curves(optax.adam, bowl, horizon=1, num_tasks=1, key=KEY)": "`optimizer` must be a learned optimizer or an",
    "l2o.loss_curves(RULE, bowl(), horizon=1, num_tasks=1, key=KEY)": "`family` must be a function from a PRNG key",
    "l2o.unroll(bowl(), 'adam', None, KEY, length=1)": "`optimizer` must be a learned optimizer",
    "l2o.unroll(bowl(), RULE, None, KEY, length=1, meta_gradient=l2o.Blocks)": "`meta_gradient` must be `Stored()`",
    "l2o.Partitioned([RULE, RULE])": "`parts` must be a mapping from names to learned optimizers",
    "l2o.Partitioned({0: RULE})": "`parts` must be a mapping from names, which are strings, got 0",
    "l2o.Partitioned({'a': 'lstm'})": "`parts['a']` must be a learned optimizer, got 'lstm'",
    "l2o.Partitioned({'a': optax.adam(1e-3)})": "Part 'a' is an optax transformation. Pass `l2o.chain` of it",
    "l2o.InnerTraining(None, horizon=2, truncation=1)": "`family` must be a function from a PRNG key to a task",
    "l2o.InnerTraining(bowl, horizon=2, truncation=1, step_weights=[1.0, 2.0])": "`step_weights` must be an array",
    "l2o.FunctionTask(None, None)": "`init_fn` must be a function from a PRNG key to the params at the start, got None",
    "l2o.FunctionTask(lambda key: 0.0, 3)": "`loss_fn` must be a function from params and a PRNG key to the loss, got 3",
    "l2o.Rescaled(RULE, True)": "`rms` must be a number, got True",
    "l2o.Rescaled(RULE, '1')": "`rms` must be a number, got '1'",
    "l2o.Rescaled(RULE, float('nan'))": "`rms` must be positive and finite, got nan",
    "l2o.Rescaled(RULE, 0)": "`rms` must be positive and finite, got 0",
    "comparison.compare(PANELS, 'adam', key=KEY)": "`optimizers` must be names in a list, such as ['adam'], or a mapping",
    "comparison.compare(PANELS, optax.adam(1e-3), key=KEY)": "`optimizers` must be names in a list",
    "comparison.compare(PANELS, [optax.adam(1e-3)], key=KEY)": "`optimizers` must be named, or else in a mapping",
    "comparison.compare(PANELS, {'mine': 1e-3}, key=KEY)": "`optimizers['mine']` must be a learned optimizer",
    "comparison.compare({'m': bowl}, ['adam'], key=KEY)": "`panels['m']` must be a `Panel`",
    "comparison.compare([bowl], ['adam'], key=KEY)": "`panels` must be a mapping from names to panels",
    "comparison.compare(PANELS, ['adam'], key=KEY, search='random')": "`search` must be an `l2o.Search`",
    "comparison.compare(PANELS, ['adam'], key=KEY, devices=[])": "`devices` must be at least one",
    "l2o.tune(1e-3, np.ones(1), bowl, horizon=1, num_tasks=1, key=KEY)": "`make_optimizer` must be a function",
    "l2o.tune(str, np.ones(1), bowl, horizon=1, num_tasks=1, key=KEY)": "`make_optimizer(value)` must be a learned optimizer",
    "l2o.tune(optax.sgd, np.ones(1), None, horizon=1, num_tasks=1, key=KEY)": "`family` must be a function",
    "l2o.Search(rates=1e-3)": "`rates` must be two numbers",
    "l2o.Search(schedules='cosine')": "`schedules` must be a tuple of names",
    "l2o.Validation('mlp', horizon=1)": "`family` must be a function from a PRNG key to a task",
    "BPTT(bowl, 1)": "`problem` must be an inner problem, such as `l2o.InnerTraining`",
    "PES(bowl, 1)": "`problem` must be an inner problem",
    "l2o.Mixture(BPTT(PROBLEM, 1))": "`estimators` must be a sequence of gradient estimators",
    "l2o.Mixture([PROBLEM])": "`estimators[0]` must be a gradient estimator",
    "l2o.Mixture([BPTT(PROBLEM, 1)], weights=['1'])": "`weights[0]` must be a number, got '1'",
    "l2o.RandomScaling(None)": "`family` must be a function",
    "l2o.RandomScaling(bowl, True)": "`log_range` must be a number, got True",
    "l2o.RandomScaling(bowl, probability='1')": "`probability` must be a number, got '1'",
    "l2o.RandomScaling(bowl, signs=1)": "`signs` must be True or False, got 1",
    "imitation.Imitation(bowl, 'adam', 2, 1)": "`teacher` must be an optax transformation",
    "l2o.explain('lstm-mnist', bowl, horizon=1, key=KEY)": "`optimizer` must be a learned optimizer",
    "l2o.explain(RULE, None, horizon=1, key=KEY)": "`family` must be a function",
    "scale.gradient_scale('adam', bowl, horizon=1)": "`optimizer` must be a learned optimizer",
    "horizons.losses_beyond(RULE, bowl, horizon=2.5)": "`horizon` must be a whole number, got 2.5",
    "timing.step_costs([RULE], bowl, key=KEY)": "`optimizers` must be a mapping from names to optimizers",
    "statistics.bootstrap_interval(np.ones(3), confidence=95)": "`confidence` must be between 0 and 1, such as 0.95, got 95",
    "statistics.mean_band(np.ones((3, 2)), num_resamples=0)": "`num_resamples` must be at least 1, got 0",
    "statistics.ratio_interval(np.ones(3), np.ones(4))": "`numerator` and `denominator` must be of the same tasks",
    "statistics.aggregate({})": "`scores` must hold at least one family",
    "l2o.load('')": "`name_or_path` must be the name of an optimizer or a path, got ''",
    "l2o.load(None)": "`name_or_path` must be the name of an optimizer or a path, got None",
    "l2o.pretrained.save('x', lstm.build(KEY), recipe={'loss': bowl})": "`recipe` must be what JSON can hold: a function",
    "l2o.pretrained.save('x', lstm.build(KEY), recipe='mnist')": "`recipe` must be a dict",
    "_common.find_family('os:system', {})": "os:system is not a task family, which is a function from a PRNG key to a task",
}

CALLING = """
import sys, json
import jax, numpy as np, optax
import l2o
from fakes import Descent, bowl
from l2o.evaluation import comparison
from l2o.evaluation import timing
from l2o.core import horizons
from l2o.meta import imitation
from l2o.core import scale
from l2o.evaluation import statistics
from l2o.optimizers import lstm, ntm_bfgs
from l2o.cli import _common
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.estimators.pes import PES

KEY = jax.random.key(0)
RULE = Descent(jax.numpy.log(0.1))
PROBLEM = l2o.InnerTraining(bowl, 2, 1)
PANELS = {"x": l2o.Panel(lambda: bowl, 2, 2, "x^2")}
said = {}
for call in json.load(sys.stdin):
    try:
        said[call] = f"nothing, but gave {eval(call)!r}"
    except (ValueError, TypeError) as error:
        said[call] = str(error)
    except Exception as error:
        said[call] = repr(error)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_b10_arguments_of_the_wrong_kind_are_named_with_what_to_pass():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", CALLING],
        input=json.dumps(list(REFUSED)),
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    said = json.loads(done.stdout)
    assert {call: words for call, words in said.items() if not words.startswith(REFUSED[call])} == {}
    assert max(len(words.splitlines()) for words in said.values()) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("quadratic", {"dim": 0}),
        ("quadratic", {"init_std": -1.0}),
        ("rosenbrock", {"dim": 2, "init_std": float("nan")}),
        ("lasso", {"rows": 0}),
        ("lasso", {"l1": float("nan")}),
        ("sparse_recovery", {"dim": 0}),
        ("logistic", {"batch_size": 0}),
        ("logistic", {"num_examples": -3}),
        ("landscape", {"max_shift": -1.0}),
        ("mlp", {"batch_size": 0}),
        ("mlp", {"hidden": (20, 0)}),
        ("convnet", {"channels": ()}),
        ("convnet", {"outer_batch_size": 0}),
        ("resnet", {"batch_size": 0}),
        ("char_rnn", {"hidden": 0}),
        ("transformer", {"num_heads": 0}),
        ("style", {"size": 0}),
    ],
    ids=str,
)
def test_b10_tasks_check_theirs(name, arguments):
    with pytest.raises(ValueError, match=r"^`\w+(\[\d\])?` must "):
        plugins.get("tasks", name).family(**arguments)


def test_b10_numpys_whole_numbers_will_do_and_others_not():
    from l2o.core import checks

    assert type(checks.count("n", np.int64(3))) is int
    for wrong in (2.5, 3.0, True, "3", None, np.float32(2), jnp.ones(2)):
        with pytest.raises(ValueError, match="`n` must be a whole number, got "):
            checks.count("n", wrong)
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        checks.count("n", 0)
    for wrong in ("1", None, True, [1.0]):
        with pytest.raises(ValueError, match="`x` must be a number, got "):
            checks.real("x", wrong)
