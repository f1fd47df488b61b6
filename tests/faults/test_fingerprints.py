"""Two things that act differently share no fingerprint, and one thing has the same in every process."""

import argparse
import enum
import operator
import os
import subprocess
import sys
from collections import deque
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.io.fingerprint import Fingerprints, Unfingerprintable, fingerprint

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


@pytest.mark.slow
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
