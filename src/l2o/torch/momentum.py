"""Momentum over a power of the mean square: twin of `l2o.optimizers.momentum`, where the equations are."""
# What torch's own optimizers are made of, `torch._foreach_*`, has no public name.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2o.torch._rule import AbstractListwise, chosen, precise

# Below this `eps` a zero in v would have to be looked for: v is zero where gradients have been less than 1e-22.
_SMALL_EPS = 1e-12


class _Factors(NamedTuple):
    """Of one step, the same for all parameters: u = (of_m m + of_g g) / (v^p + eps)."""

    rest1: float  # 1 - b1
    rest2: float
    seen1: float
    seen2: float
    of_m: float
    of_g: float
    eps: float


class Momentum(AbstractListwise):
    """The rule of `l2o.Momentum`. What changes with the step alone is worked out in Python's numbers, in double precision."""

    numbers = MappingProxyType({"step": 0, "seen1": 0.0, "seen2": 0.0})

    def __init__(
        self,
        constants: dict[str, float],
        rate_curve: Sequence[float],
        b1_curve: Sequence[float],
        *,
        horizon: int,
        decay: str,
        power: float,
        nesterov: bool,
        bias_correction: bool,
    ):
        self.log_rate = constants["log_rate"]
        self.log_warmup = constants["log_warmup"]
        self.least = _sigmoid(constants["logit_least"])
        self.logit_b1 = constants["logit_b1"]
        self.rate_curve, self.b1_curve = rate_curve, b1_curve
        self.power = power
        self.squared = "logit_b2" in constants
        if self.squared:
            self.b2, self.rest2 = _sigmoid(constants["logit_b2"]), _sigmoid(-constants["logit_b2"])
            self.eps = math.exp(constants["log_eps"])
        self.horizon = horizon
        self.decay = decay
        self.nesterov = nesterov
        self.bias_correction = bias_correction
        self.paths = {name: f".{name}" for name in (*self.numbers, "m", *(["v"] if self.squared else []))}

    def shapes(self, p):
        dtype = precise(p.dtype)
        m = {"m": (p.shape, dtype)}
        return {**m, "v": (p.shape, dtype.to_real())} if self.squared else m

    def rate(self, step: int) -> float:
        """The rate, a, at this step, from 0."""
        x = min(1.0, step / self.horizon)
        warm = math.exp(min(0.0, math.log((step + 1) / self.horizon) - self.log_warmup))
        shape = {"constant": 1.0, "linear": 1 - x, "cosine": 0.5 * (1 + math.cos(math.pi * x))}[self.decay]
        return math.exp(self.log_rate + _along(self.rate_curve, x)) * warm * (self.least + (1 - self.least) * shape)

    def b1(self, step: int) -> tuple[float, float]:
        """What `m` keeps and what it takes, b1 and 1 - b1, at this step, from 0."""
        logit = self.logit_b1 + _along(self.b1_curve, min(1.0, step / self.horizon))
        return _sigmoid(logit), _sigmoid(-logit)

    def move_(self, params, gradients, states, lr):
        # Those that have taken the same steps, and are of one dtype, go together: nearly always, all of them.
        together: dict[Any, list[int]] = {}
        for i, (p, state) in enumerate(zip(params, states, strict=True)):
            together.setdefault((*(state[name] for name in self.numbers), p.dtype), []).append(i)
        for (step, seen1, seen2, _), indices in together.items():
            factors = self._factors(step, seen1, seen2)
            now = {"step": step + 1, "seen1": factors.seen1, "seen2": factors.seen2}
            for i in indices:
                states[i].update(now)
            now = chosen(params, indices), chosen(gradients, indices), chosen(states, indices)
            self._move(*now, lr, factors)

    def _factors(self, step, seen1, seen2) -> _Factors:
        b1, rest1 = self.b1(step)
        seen1 = b1 * seen1 + rest1
        rate = -self.rate(step)
        of_m, of_g = rate, 0.0
        if self.nesterov:
            ahead, ahead_rest = self.b1(step + 1)
            of_m, of_g = rate * ahead, rate * ahead_rest
            if self.bias_correction:
                of_m, of_g = of_m / (ahead * seen1 + ahead_rest), of_g / seen1
        elif self.bias_correction:
            of_m /= seen1
        if not self.squared:
            return _Factors(rest1, 0.0, seen1, seen2, of_m, of_g, 0.0)
        seen2 = self.b2 * seen2 + self.rest2
        # (v / seen)^p + eps is (v^p + eps seen^p) / seen^p: so v need not be divided.
        root = seen2**self.power if self.bias_correction else 1.0
        return _Factors(rest1, self.rest2, seen1, seen2, of_m * root, of_g * root, self.eps * root)

    def _move(self, params, gradients, states, lr, factors):
        params, gradients, m = _real(params), _real(gradients), _real([s["m"] for s in states])
        torch._foreach_lerp_(m, gradients, factors.rest1)
        over = self._denominators(gradients, [s["v"] for s in states], factors) if self.squared else None
        if lr == 0:
            return
        for factor, directions in ((factors.of_m, m), (factors.of_g, gradients)):
            if factor == 0:
                continue
            if over is None:
                torch._foreach_add_(params, directions, alpha=lr * factor)
            else:
                torch._foreach_addcdiv_(params, directions, over, value=lr * factor)

    def _denominators(self, gradients, v, factors):
        in_parts = gradients[0].dim() > v[0].dim()  # of complex numbers, of which v has the squared magnitudes
        torch._foreach_mul_(v, self.b2)
        if in_parts:
            torch._foreach_add_(v, [g.square().sum(-1) for g in gradients], alpha=factors.rest2)
        else:
            torch._foreach_addcmul_(v, gradients, gradients, value=factors.rest2)
        if self.power == 0:  # learned: for a logarithm of v = 0 that would be nothing
            over = [torch.ones_like(x) for x in v]
        elif self.power in (0.25, 0.5):
            over = torch._foreach_sqrt(v)
            if self.power == 0.25:
                torch._foreach_sqrt_(over)
        else:  # torch's own power takes longer
            over = torch._foreach_log(v)
            torch._foreach_mul_(over, self.power)
            torch._foreach_exp_(over)
        torch._foreach_add_(over, factors.eps)
        if factors.eps < _SMALL_EPS:
            for x, square in zip(over, v, strict=True):
                x.masked_fill_(square == 0, 1.0)
        return [x.unsqueeze(-1) for x in over] if in_parts else over


def build(
    arrays: dict[str, Tensor],
    *,
    horizon: int,
    decay: str = "constant",
    rate_curve: Sequence[float] = (),
    b1_curve: Sequence[float] = (),
    power: float = 0.5,
    learn_power: bool = False,
    nesterov: bool = True,
    bias_correction: bool = True,
) -> Momentum:
    """The rule from a weights file's arrays; arguments as of `l2o.Momentum`. Of a curve the arrays have the values.

    **Raises:** `ValueError` if an array is missing or of another shape.
    """
    names = ["log_rate", "log_warmup", "logit_least", "logit_b1"]
    names += ["logit_b2", "log_eps"] if learn_power or power > 0 else []
    names += ["logit_power"] if learn_power else []
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(names, ())
    expected |= {name: (len(c),) for name, c in (("rate_curve", rate_curve), ("b1_curve", b1_curve)) if len(c)}
    for name, shape in expected.items():
        found = tuple(arrays[f".{name}"].shape) if f".{name}" in arrays else "nothing"
        if found != shape:
            raise ValueError(f"These weights do not fit their arguments (leaf .{name}: {found} vs {shape}).")
    constants = {name: float(arrays[f".{name}"]) for name in names}
    curves = [arrays[f".{name}"].tolist() if name in expected else [] for name in ("rate_curve", "b1_curve")]
    return Momentum(
        constants,
        *curves,
        horizon=horizon,
        decay=decay,
        power=_sigmoid(constants["logit_power"]) if learn_power else power,
        nesterov=nesterov,
        bias_correction=bias_correction,
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _along(curve: Sequence[float], x: float) -> float:
    """Linear between 0 at the start and the curve's values at equal distances after it."""
    return float(np.interp(x, np.linspace(0.0, 1.0, len(curve) + 1), [0.0, *curve])) if len(curve) else 0.0


def _real(tensors: list[Tensor]) -> list[Tensor]:
    """Complex tensors by their two parts."""
    return [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in tensors]
