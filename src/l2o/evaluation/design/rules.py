"""The rules that a design searches: where they start, and how one is made of another."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from l2o.evaluation.design.look import Look
from l2o.evaluation.design.result import Candidate
from l2o.optimizers.hand_designed import HandDesigned
from l2o.optimizers.momentum import Momentum
from l2o.optimizers.wrappers.preconditioned import Preconditioned

ADAPTIVE = ("adam", "rmsprop", "lion", "adamw")  # baselines whose steps do not grow with the gradients
PLAIN = ("nag", "sgd")  # and those whose steps do
_KNOTS = 3  # of the curves of the rate and of b1
_MOST_GROUPS = 8  # sets of constants
_LEAST_CURVATURE = 1e-20  # of the largest: a smaller one counts as this
_KNOWN = 256  # params whose curvatures are looked at
_SEARCHED = 40  # of these: factors that are searched too
_CHEAP = (0.0, 0.25, 0.5)  # powers that cost no more than Adam


def start(name: str, rate: float, horizon: int, seen: Look) -> Momentum:
    """A rule to search from: a baseline that was tuned, with a linear decay."""
    adaptive = name in ADAPTIVE
    power = 0.5 if adaptive else 0.1
    b1 = 0.3 if name in ("rmsprop", "sgd") else 0.9
    return Momentum(
        horizon,
        rate=rate if adaptive else rate / (1 - b1),  # a mean of gradients where NAG has a sum
        warmup=max(0.03, 1 / horizon),
        decay="linear",
        least=0.03,
        rate_curve=[0.0] * _KNOTS,
        b1=b1,
        b1_curve=[0.0] * _KNOTS,
        b2=0.9 if name == "lion" else 0.98,  # a mean square of few gradients makes steps of one size, as the sign does
        eps=float(np.clip(1e-4 * seen.gradient_rms ** (2 * power), 1e-30, 1e30)),
        power=power,
        learn_power=True,
    )


def cheaper(rule: Any, seen: Look) -> Any:
    """With the nearest power that costs no more than Adam, in every part."""

    def with_cheap_power(rule):
        return rule.with_power(min(_CHEAP, key=lambda p: abs(p - float(rule.power))), seen.gradient_rms)

    return _each(rule, with_cheap_power)


def rates(rule: Any) -> list[Any]:
    """The rates of the parts, to search these alone."""
    return [part.log_rate for part in rule.group_rules().values()]


def preconditioned(rule: Any, curvatures: PyTree) -> Preconditioned:
    r"""The rule with a factor for each coordinate, that of Newton's method in the mean if the Hessian were diagonal.

    Where the params are $\theta_i = \sigma_i z_i$, the rule's step on $z$ is $\sigma_i^{2 - 2p}$ times that on $\theta$, as
    gradients are divided by their mean squares to the power p. With $\sigma_i = h_i^{-1/2}$, for curvatures $h_i$, all of $z$
    are alike. The factors have a geometric mean of 1.
    """
    leaves, treedef = jax.tree.flatten(curvatures)
    largest = max(float(np.max(h)) for h in leaves)
    logs = [-(1 - float(rule.power)) * np.log(np.maximum(h, _LEAST_CURVATURE * largest)) for h in leaves]
    mean = np.mean(np.concatenate([x.ravel() for x in logs]))
    return Preconditioned(rule, jax.tree.unflatten(treedef, [np.exp(x - mean) for x in logs]))


def has_factors(rule: Any) -> bool:
    """Whether it has a factor for each coordinate."""
    return isinstance(rule, Preconditioned)


def few(seen: Look) -> Callable[[Any], list[Any]] | None:
    """What of a preconditioned rule is searched: all (None), or its constants alone where there are many factors."""
    if seen.num_params <= _SEARCHED:
        return None
    return lambda rule: jax.tree.leaves(rule.optimizer)


def _each(rule, change):
    """A rule whose parts, or what is preconditioned, are changed."""
    if isinstance(rule, Preconditioned):
        return rule.around(_each(rule.optimizer, change))
    parts = rule.group_rules()
    return (
        change(rule) if parts is None else rule.with_groups({name: _each(part, change) for name, part in parts.items()})
    )


def _within(rule):
    """The rules in it that have no others in them."""
    if isinstance(rule, Preconditioned):
        return _within(rule.optimizer)
    parts = rule.group_rules()
    return [rule] if parts is None else [x for part in parts.values() for x in _within(part)]


def is_small(seen: Look) -> bool:
    """Whether the params are few enough to know each by itself."""
    return seen.real and 1 < seen.num_params <= _KNOWN


def label(seen: Look) -> str | None:
    """How the params are parted: by leaf where there are few, else by rank; None where that makes one group."""
    return next((name for name in ("leaf", "rank") if 1 < len(seen.labels[name]) <= _MOST_GROUPS), None)


def price(candidate: Candidate) -> tuple[int, int, int]:
    """Networks last; fewer constants first, and of as many those with a cheap power."""
    rules = _within(candidate.optimizer)
    networks = sum(not isinstance(r, Momentum | HandDesigned) for r in rules)
    factors = has_factors(candidate.optimizer)
    return networks, len(rules) + factors, sum(getattr(r, "fixed_power", 0.5) is None for r in rules)


def with_horizon(rule: Any, horizon: int) -> Any:
    """The same rule for runs of so many steps."""
    return _each(rule, lambda rule: rule.for_horizon(horizon))
