"""Hand-designed optimizers: optax's, with optax's own defaults but for what is tuned (`l2o.Search`)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from l2o.core.checks import count, positive
from l2o.core.optimizer import AbstractLearnedOptimizer


class ScheduleFree(AbstractLearnedOptimizer):
    """A schedule-free optimizer, whose answer is an average of its iterates (Defazio et al. 2024). Nothing in it is learned."""

    inner: optax.GradientTransformation = eqx.field(static=True)

    def init(self, params):
        return self.inner.init(params)

    def update(self, updates, state, params=None, **extra):
        return self.inner.update(updates, state, params)

    def eval_params(self, opt_state, params):
        """Where losses are reported: the average, not the point at which gradients are taken."""
        return optax.contrib.schedule_free_eval_params(opt_state, params)


class Baseline(NamedTuple):
    """A hand-designed optimizer as a function of its learning rate."""

    make: Callable[..., Any]  # learning rate or schedule (and weight_decay=, where it has one) -> optimizer
    tuned: bool = True  # False: it has no learning rate to tune
    deterministic_only: bool = False  # True: a line search, which minibatches mislead
    weight_decay: bool = False  # True: `make` takes `weight_decay`


BASELINES = {
    "sgd": Baseline(optax.sgd),
    "momentum": Baseline(lambda rate: optax.sgd(rate, momentum=0.9)),
    "nag": Baseline(lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True)),
    "rmsprop": Baseline(optax.rmsprop),
    "adagrad": Baseline(optax.adagrad),
    "adam": Baseline(optax.adam),
    "adamw": Baseline(optax.adamw, weight_decay=True),
    "lion": Baseline(optax.lion, weight_decay=True),
    "muon": Baseline(
        lambda rate, weight_decay=0.0: optax.contrib.muon(
            rate,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,  # matrices and the rest
        ),
        weight_decay=True,
    ),
    "schedule_free_adam": Baseline(
        lambda rate, **options: ScheduleFree(optax.contrib.schedule_free_adamw(rate, **options)), weight_decay=True
    ),
    "lbfgs": Baseline(lambda rate: optax.lbfgs(), tuned=False, deterministic_only=True),
}

# From the peak of a rate to the rate at a step, from 0: nothing, a half cosine to zero at the horizon, or that after a linear
# warm-up of a tenth of the horizon.
SCHEDULES = ("constant", "cosine", "warmup_cosine")

# The baselines of Andrychowicz et al. 2016. Momentum is 0.9, for which neither the paper nor optax has a default.
PAPER_BASELINES = ("sgd", "nag", "rmsprop", "adam")


def schedule(name: str, horizon: int) -> optax.Schedule:
    """One of `SCHEDULES` over `horizon` steps, with the peak 1."""
    warmup = max(1, horizon // 10)
    return {
        "constant": lambda step: jnp.ones(()),
        "cosine": optax.cosine_decay_schedule(1.0, horizon),
        "warmup_cosine": optax.warmup_cosine_decay_schedule(1 / warmup, 1.0, warmup, max(horizon, warmup + 1)),
    }[name]


def learning_rates(low: float = 1e-4, high: float = 10.0, per_decade: int = 2) -> np.ndarray:
    """A grid of learning rates, evenly spaced in the logarithm; the default has half-decade steps.

    **Raises:** `ValueError` for bounds that are not positive, finite and ascending, or no rates a decade.
    """
    count("per_decade", per_decade)
    if not positive("low", low) <= positive("high", high):
        raise ValueError(f"`low` must be at most `high`, got low={low} and high={high}.")
    num = round(np.log10(high / low) * per_decade) + 1
    return np.logspace(np.log10(low), np.log10(high), num)


def get(name: str) -> Baseline:
    """The baseline of that name.

    **Raises:** `ValueError` naming those there are.
    """
    if name not in BASELINES:
        raise ValueError(f"No baseline named {name!r}. Baselines: {', '.join(BASELINES)}.")
    return BASELINES[name]
