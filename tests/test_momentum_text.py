"""A Momentum told: the code of optax goes where the rule goes, and the formula has its numbers."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Descent, assert_trees_close, bowl

import l2o
from l2o import report
from l2o.evaluation import explanation
from l2o.optimizers import momentum

KEY = jax.random.key(0)
HORIZON = 12

# Name of the optimizer of optax that it is, if it is one; and the arguments.
RULES = {
    "sgd": ("sgd", {"preset": "sgd"}),
    "momentum": ("sgd", {"preset": "momentum", "decay": "linear", "least": 0.1}),
    "nag": ("sgd", {"preset": "nag", "decay": "cosine", "warmup": 0.5}),
    "rmsprop": ("rmsprop", {"preset": "rmsprop", "decay": "cosine", "least": 0.2}),
    "adam": ("adam", {"preset": "adam", "rate_curve": [0.5, -0.5]}),
    "nadam": ("nadam", {"decay": "linear", "b1": 0.85, "b2": 0.99, "eps": 1e-3}),
    "nadam without memory": ("adam", {"b1": 0.0, "b1_curve": [1.0]}),
    "corrected momentum": (None, {"power": 0.0}),
    "no correction": (None, {"bias_correction": False, "nesterov": False, "eps": 1e-3}),
    "Nesterov, no correction": (None, {"bias_correction": False, "eps": 1e-3, "decay": "linear"}),
    "a quarter": (None, {"power": 0.25, "nesterov": False, "eps": 1e-4}),
    "whole": (None, {"power": 1.0, "eps": 1e-2, "warmup": 0.3, "decay": "cosine", "least": 0.05}),
    "any": (None, {"power": 0.37, "b1_curve": [1.0, -1.0], "rate_curve": [0.3], "eps": 1e-4}),
    "learned": (None, {"power": 0.6, "learn_power": True, "b1": 0.0, "eps": 1e-4, "decay": "linear"}),
    "learned, at a half": ("nadam", {"learn_power": True}),
    "no eps": (None, {"eps": 0.0}),
    "momentum with a curve": (None, {"preset": "nag", "b1_curve": [0.5], "decay": "linear"}),
}


def rule_of(name):
    return momentum.build(horizon=HORIZON, **{"rate": 0.03, **RULES[name][1]})


def moved(rule, seed=3):
    """As after meta-training: no number is round any more, and nothing that is off is on."""
    leaves, treedef = jax.tree.flatten(rule)
    noise = np.random.default_rng(seed).normal(size=len(leaves))
    return jax.tree.unflatten(
        treedef, [x + 0.1 * e if np.all(np.abs(x) < 100) else x for x, e in zip(leaves, noise, strict=True)]
    )


def gradients(step):
    """Of params with a scalar, complex numbers, and one that is never moved."""
    k = jax.random.split(jax.random.fold_in(KEY, step), 2)
    return {"a": jax.random.normal(k[0], ()), "z": jax.lax.complex(*jax.random.normal(k[1], (2, 4))), "0": jnp.zeros(2)}


def path(rule):
    params = jax.tree.map(jnp.zeros_like, gradients(0))
    state, found = rule.init(params), []
    update = jax.jit(lambda *arguments: rule.update(*arguments))
    for t in range(HORIZON + 3):
        updates, state = update(gradients(t), state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


def executed(code):
    assert "l2o" not in code
    namespace = {"__builtins__": __builtins__}
    exec(compile(code, "snippet", "exec"), namespace)
    return namespace["optimizer"]


@pytest.mark.parametrize("name", RULES)
def test_the_code_goes_where_the_rule_goes(name):
    rule = rule_of(name)
    code = rule.optax_code()
    wanted, _ = RULES[name]
    assert re.search(r"^optimizer = optax\.(\w+)", code, re.M)[1] == (wanted or "GradientTransformation")
    assert_trees_close(path(executed(code)), path(rule), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["nag", "adam", "any", "learned"])
def test_the_code_has_all_digits_of_what_is_learned(name):
    rule = moved(rule_of(name))
    assert_trees_close(path(executed(rule.optax_code())), path(rule), rtol=2e-4, atol=1e-6)
    again = l2o.Momentum(7, b1=float(re.search(r"m ← (\S+) m", moved(rule_of("nag")).formula())[1]))
    assert again.logit_b1 == moved(rule_of("nag")).logit_b1


def test_a_formula_has_the_numbers():
    rule = l2o.Momentum(150, rate=0.01, warmup=0.1, decay="linear", least=0.03, power=0.37, rate_curve=[0.3, -0.1])
    assert [line.strip() for line in rule.formula().splitlines()[2:]] == [
        "m ← 0.9 m + 0.1 g",
        "v ← 0.999 v + 0.001 g²",
        "update = −a(t) · (0.9 m / c(t+1) + 0.1 g / c(t)) / ((v / d(t))^0.37 + 1e-08)",
        "a(t) = 0.01 · min(1, (t + 1) / 15) · (0.03 + 0.97 (1 − x)) · exp(k(x))",
        "c(t) = 1 − 0.9^(t+1)",
        "d(t) = 1 − 0.999^(t+1)",
        "k: straight lines through 0 at x = 0, 0.3 at 0.5, -0.1 at 1",
        "x = min(1, t / 150)",
    ]
    sgd = momentum.build(preset="sgd", horizon=9, rate=0.5)
    assert [line.strip() for line in sgd.formula().splitlines()[2:]] == ["update = −a(t) · g", "a(t) = 0.5"]
    whole = l2o.Momentum(9, power=1.0, eps=0.0, nesterov=False)
    assert "update = −a(t) · m / c(t) / ((v / d(t)))" in whole.formula()
    assert "b(t) = 1 / (1 + exp(−(2.1972246 + h(x))))" in l2o.Momentum(9, b1_curve=[1.0]).formula()


def test_a_rule_that_was_loaded_tells_the_same(tmp_path):
    rule = rule_of("any")
    l2o.save(tmp_path / "rule.safetensors", rule, recipe={"horizon": HORIZON})
    loaded = l2o.load(tmp_path / "rule.safetensors")  # held after its horizon
    assert loaded.formula() == rule.formula()
    assert loaded.optax_code() == rule.optax_code()


def family(key):
    return bowl()


def test_only_what_is_a_formula_is_told_as_one():
    pair = l2o.Partitioned({"a": l2o.beyond(rule_of("nag"), 30), "b": Descent(jnp.asarray(-1.0))})
    assert [(one.part, one.formula) for one in explanation._exact(pair, None)] == [("a", rule_of("nag").formula())]
    assert explanation._exact(pair, "b") == ()
    assert explanation._exact(optax.sgd(0.1), None) == ()


@pytest.mark.slow
@pytest.mark.slowest
def test_an_explanation_tells_it():
    nag = momentum.build(preset="nag", horizon=20, rate=0.3)
    found = l2o.explain(l2o.beyond(nag, 30), lambda key: bowl(), horizon=20, num_tasks=2, num_fitted=2, key=KEY)
    text = report.explained(found, name="mine", family="bowls")
    assert "mine is a formula of a few constants." in text
    assert "optimizer = optax.sgd(learning_rate, momentum=0.9, nesterov=True)" in text
    assert report.exactly(found._replace(exact=()), name="mine") == ""
    part = found.exact[0]._replace(part="conv")
    assert "The part conv of mine is a formula" in report.exactly(found._replace(exact=(part,)), name="mine")
    told = json.loads(json.dumps(report.explanation_as_dict(found, name="mine", family="bowls")))
    executed(told["exact"][0]["optax_code"])
