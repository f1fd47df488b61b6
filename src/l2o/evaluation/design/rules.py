"""The rules that a design searches: where they start, and how one is made of another."""

from typing import Any

import numpy as np

from l2o.evaluation.design.look import Look
from l2o.evaluation.design.result import Candidate
from l2o.optimizers.momentum import Momentum

_KNOTS = 3  # of the curves of the rate and of b1
_MOST_GROUPS = 8  # sets of constants
_CHEAP = (0.0, 0.25, 0.5)  # powers that cost no more than Adam


def start(name: str, rate: float, horizon: int, seen: Look) -> Momentum:
    """A rule to search from: a baseline that was tuned, with a linear decay."""
    adaptive = name != "nag"
    power = 0.5 if adaptive else 0.1
    return Momentum(
        horizon,
        rate=rate if adaptive else 10 * rate,  # a mean of gradients where NAG has a sum
        warmup=max(0.03, 1 / horizon),
        decay="linear",
        least=0.03,
        rate_curve=[0.0] * _KNOTS,
        b1=0.9,
        b1_curve=[0.0] * _KNOTS,
        b2=0.98,
        eps=float(np.clip(1e-4 * seen.gradient_rms ** (2 * power), 1e-30, 1e30)),
        power=power,
        learn_power=True,
    )


def cheaper(rule: Any, seen: Look) -> Momentum:
    """With the nearest power that costs no more than Adam."""
    return rule.with_power(min(_CHEAP, key=lambda p: abs(p - float(rule.power))), seen.gradient_rms)


def label(seen: Look) -> str | None:
    """How the params are parted: by leaf where there are few, else by rank; None where that makes one group."""
    return next((name for name in ("leaf", "rank") if 1 < len(seen.labels[name]) <= _MOST_GROUPS), None)


def price(candidate: Candidate) -> tuple[int, int]:
    """Fewer constants first, and of as many those with a cheap power."""
    rules = (candidate.optimizer.group_rules() or {"": candidate.optimizer}).values()
    return len(rules), sum(getattr(r, "fixed_power", 0.5) is None for r in rules)


def with_horizon(rule: Any, horizon: int) -> Any:
    """The same rule for runs of so many steps."""
    parts = rule.group_rules()
    if parts is None:
        return rule.for_horizon(horizon)
    return rule.with_groups({name: with_horizon(part, horizon) for name, part in parts.items()})
