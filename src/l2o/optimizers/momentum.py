r"""Momentum over a power of the mean square, with a learned schedule: a rule of a few learned constants, at Adam's price.

SGD, Nesterov's momentum, RMSprop, Adam and NAdam are points of it, with constant, linear or cosine decay (`PRESETS`). Per
parameter, with $t$ counted from 0 and every operation elementwise:

$$m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
u_t = -a_t\, \frac{\bar m_t}{\hat v_t^{\,p} + \epsilon}$$

* $\bar m_t = \beta_1 \hat m_t + (1 - \beta_1)\, \hat g_t$ is where $m$ will be if the next gradient is like this one (Nesterov
  1983, Dozat 2016), or without `nesterov` $\hat m_t$. With `bias_correction`, hats divide by $1 - \prod_{s \le t} \beta$ (for
  the $\hat m_t$ in Nesterov's $\bar m_t$ one step further), as optax's NAdam does; without, they change nothing.
* $p$ is the `power`: 0 is SGD with momentum, which needs no $v$; 1/2 is Adam; what is best is often between the two.
* The rate runs through a warm-up, a decay and a curve of its own over the horizon $T$, and stays where it is after that. With
  $x = t / T$,

$$a_t = a \cdot \min\left(1, \frac{t + 1}{w T}\right) \cdot \big[\alpha + (1 - \alpha)\, d(x)\big] \cdot e^{\kappa(x)}, \qquad
d(x) = 1,\ 1 - x\ \text{or}\ \tfrac12 (1 + \cos \pi x)$$

  where $\kappa$ is linear between 0 at the start and the learned `rate_curve` at equal distances after it. $\beta_1$ may move
  over the run in the same way, by `b1_curve` on its logit.

What is learned are free numbers: logarithms of $a$, $w$ and $\epsilon$, logits of $\alpha$, $\beta_1$, $\beta_2$ and $p$. So any
of `l2o.search`, BPTT, PES and the gradient through whole runs (`l2o.SecondOrder`) may move them freely.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from l2o.core import coordinates
from l2o.core.checks import count, flags, kind, not_negative, positive, real
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.optimizers import _momentum_text

DECAYS = ("constant", "linear", "cosine")

# Rules that everyone knows as points of this one; rates and schedules are the caller's. NAG's rate is divided by 1 - b1 in
# it, since its momentum is a sum, not a mean. RMSprop has its `eps` outside of the root.
PRESETS: dict[str, dict[str, Any]] = {
    "sgd": {"b1": 0.0, "power": 0.0, "bias_correction": False, "nesterov": False},
    "momentum": {"b1": 0.9, "power": 0.0, "bias_correction": False, "nesterov": False},
    "nag": {"b1": 0.9, "power": 0.0, "bias_correction": False},
    "rmsprop": {"b1": 0.0, "b2": 0.9, "bias_correction": False, "nesterov": False},
    "adam": {"nesterov": False},
    "nadam": {},
}

_OFF = -1e4  # a logarithm or logit of what is zero: finite, as weights files want it, and zero in every precision


class MomentumState(NamedTuple):
    """Of all params; `m` and `v` have their structure, with `None` for leaves that are no floating or complex arrays.

    They are in single precision if the params are in less: the weight of a new square, 0.001, is nothing to a bfloat16.
    """

    step: Int[Array, ""]
    seen1: Float[Array, ""]  # the average of ones in the place of m: 1 minus the product of all b1 so far
    seen2: Float[Array, ""]  # of v
    m: PyTree
    v: PyTree | None  # of the squared magnitudes, and so real; None where the power is 0

    def joined(self) -> "MomentumState":
        """As it is in a file (`l2o.optimizers.states`): `m` and `v` as vectors, their coordinates one after the other."""
        v = None if self.v is None else coordinates.flatten(self.v)[0]
        return self._replace(m=coordinates.flatten(self.m)[0], v=v)

    def split(self, like: "MomentumState") -> "MomentumState":
        """The inverse of `joined`, of a state that was `like` that."""
        apart = lambda vector, tree: jax.tree.unflatten(
            jax.tree.structure(tree), coordinates.split(vector, jax.tree.leaves(tree))
        )
        return self._replace(m=apart(self.m, like.m), v=None if self.v is None else apart(self.v, like.v))


class Momentum(AbstractLearnedOptimizer):
    r"""The rule of this module; equations in its docstring. State: two floats a parameter, one where `power` is fixed at 0.

    ```python
    rule = l2o.Momentum(150, rate=0.01, decay="linear", least=0.03, learn_power=True)
    ```

    **Arguments:**

    - `horizon`: $T$, the steps that a run takes.
    - `rate`: $a$. `warmup`: $w$, the share of the horizon in which the rate rises; 0: none. `decay`: $d$. `least`: $\alpha$.
    - `rate_curve`: $\kappa$ at $T/K, 2T/K \dots T$. Empty: none is learned.
    - `b1`, `b2`, `eps`: $\beta_1$, $\beta_2$, $\epsilon$. `b1_curve`: as `rate_curve`, added to the logit of $\beta_1$.
    - `power`: $p$, from 0 to 1. It stays what it is unless `learn_power`: powers 0, 1/4 and 1/2 cost no more than Adam, any
        other takes a logarithm and an exponential for each parameter.
    - `nesterov`, `bias_correction`: as in the equations.

    **Raises:** `ValueError` for a `horizon` that is no positive whole number, a rate or `eps` that is negative or not finite,
    shares outside of 0 to 1, and a decay that does not exist.
    """

    log_rate: Float[Array, ""]
    log_warmup: Float[Array, ""]
    logit_least: Float[Array, ""]
    rate_curve: Float[Array, " knots"] | None
    logit_b1: Float[Array, ""]
    b1_curve: Float[Array, " knots"] | None
    logit_b2: Float[Array, ""] | None
    log_eps: Float[Array, ""] | None
    logit_power: Float[Array, ""] | None
    horizon: int = eqx.field(static=True)
    decay: str = eqx.field(static=True)
    fixed_power: float | None = eqx.field(static=True)
    nesterov: bool = eqx.field(static=True)
    bias_correction: bool = eqx.field(static=True)

    def __init__(
        self,
        horizon: int,
        *,
        rate: float = 1e-3,
        warmup: float = 0.0,
        decay: str = "constant",
        least: float = 0.0,
        rate_curve: Sequence[float] = (),
        b1: float = 0.9,
        b1_curve: Sequence[float] = (),
        b2: float = 0.999,
        eps: float = 1e-8,
        power: float = 0.5,
        learn_power: bool = False,
        nesterov: bool = True,
        bias_correction: bool = True,
    ):
        flags(learn_power=learn_power, nesterov=nesterov, bias_correction=bias_correction)
        if decay not in DECAYS:
            raise ValueError(f"`decay` must be one of {', '.join(DECAYS)}, got {decay!r}.")
        shares = {"warmup": warmup, "least": least, "b1": b1, "b2": b2, "power": power}
        for name, value in shares.items():
            if not 0 <= real(name, value) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")
        for name, value in (("b1", b1), ("b2", b2)):
            if value == 1:
                raise ValueError(f"`{name}` must be below 1, got {value}: the average would never move.")
        self.horizon = count("horizon", horizon)
        self.decay = decay
        self.fixed_power = None if learn_power else float(power)
        self.nesterov = nesterov
        self.bias_correction = bias_correction
        squared = learn_power or power > 0
        self.log_rate = _log(positive("rate", rate))
        self.log_warmup = _log(warmup)
        self.logit_least = _logit(least)
        self.rate_curve = _curve("rate_curve", rate_curve)
        self.logit_b1 = _logit(b1)
        self.b1_curve = _curve("b1_curve", b1_curve)
        self.logit_b2 = _logit(b2) if squared else None
        self.log_eps = _log(not_negative("eps", eps)) if squared else None
        self.logit_power = _logit(power) if learn_power else None

    @property
    def power(self) -> float | Float[Array, ""]:
        """$p$: a number where it is fixed, an array where it is learned."""
        if self.fixed_power is not None:
            return self.fixed_power
        assert self.logit_power is not None
        return jax.nn.sigmoid(self.logit_power)

    def rates(self, step: Int[Array, "*steps"] | int) -> Float[Array, "*steps"]:
        r"""$a_t$ at these steps, from 0."""
        t = jnp.asarray(step, self.log_rate.dtype)
        x = jnp.minimum(1.0, t / self.horizon)
        # In logarithms, so that no warm-up, of length zero, has no derivative rather than an infinite one.
        warm = jnp.exp(jnp.minimum(0.0, jnp.log((t + 1) / self.horizon) - self.log_warmup))
        least = jax.nn.sigmoid(self.logit_least)
        shape = {"constant": jnp.ones_like(x), "linear": 1 - x, "cosine": 0.5 * (1 + jnp.cos(jnp.pi * x))}[self.decay]
        return jnp.exp(self.log_rate + _along(self.rate_curve, x)) * warm * (least + (1 - least) * shape)

    def b1s(self, step: Int[Array, "*steps"] | int) -> Float[Array, "*steps"]:
        r"""$\beta_1$ at these steps, from 0."""
        return self._b1s(step)[0]

    def formula(self) -> str:
        """The rule with its numbers, in plain text."""
        return _momentum_text.formula(self)

    def optax_code(self) -> str:
        """Python that makes the rule as `optimizer`, with optax and JAX alone: to use it where there is no l2o."""
        return _momentum_text.optax_code(self)

    def for_horizon(self, horizon: int) -> "Momentum":
        """The same rule for runs of so many steps: its schedule is one of shares of the horizon."""
        return _copied(self, horizon=count("horizon", horizon))

    def with_power(self, power: float, rms: float) -> "Momentum":
        """The same rule with a fixed power, its steps as large as before where gradients have a root mean square of `rms`."""
        moved = float(np.clip(rms, 1e-15, 1e15)) ** (2 * (power - float(self.power)))
        eps = None if self.log_eps is None else self.log_eps + np.float32(np.log(moved))
        changes = {"fixed_power": power, "logit_power": None, "log_rate": self.log_rate + np.float32(np.log(moved))}
        return _copied(self, **changes, **({"log_eps": eps} if power else {"log_eps": None, "logit_b2": None}))

    def to_spec(self):
        arguments = {
            "horizon": self.horizon,
            "decay": self.decay,
            "rate_curve": _zeros(self.rate_curve),
            "b1_curve": _zeros(self.b1_curve),
            "power": 0.5 if self.fixed_power is None else self.fixed_power,
            "learn_power": self.fixed_power is None,
            "nesterov": self.nesterov,
            "bias_correction": self.bias_correction,
        }
        return {"architecture": "momentum", "arguments": arguments}

    def init(self, params):
        coordinates.check(params)
        zeros = lambda like: jax.tree.map(lambda p: jnp.zeros_like(p, dtype=like(p)) if _moves(p) else None, params)
        zero = jnp.zeros((), self.log_rate.dtype)
        v = None if self.fixed_power == 0 else zeros(lambda p: jnp.finfo(_precise(p)).dtype)
        return MomentumState(jnp.zeros((), jnp.int32), zero, jnp.copy(zero), zeros(_precise), v)

    def update(self, updates, state, params=None, **extra):
        gradients, _, rebuild = coordinates.align(updates, params)
        old, treedef = jax.tree.flatten(state.m)
        precise = [jnp.asarray(g, m.dtype) for g, m in zip(gradients, old, strict=True)]
        b1, rest1 = self._b1s(state.step)
        ahead_b1, ahead_rest = self._b1s(state.step + 1)
        seen1, seen2 = b1 * state.seen1 + rest1, state.seen2
        m = [_averaged(a, g, b1, rest1) for a, g in zip(old, precise, strict=True)]
        # Factors of scalars are worked out first, so that each parameter costs as few operations as it can.
        rate = -self.rates(state.step)
        if self.nesterov:
            now, ahead = (seen1, ahead_b1 * seen1 + ahead_rest) if self.bias_correction else (1.0, 1.0)
            of_m, of_g = rate * ahead_b1 / ahead, rate * ahead_rest / now
        else:
            of_m, of_g = rate / seen1 if self.bias_correction else rate, None
        steps = [_direction(a, g, of_m, of_g) for a, g in zip(m, precise, strict=True)]
        v = None
        if self.logit_b2 is not None and self.log_eps is not None:
            b2, rest2 = jax.nn.sigmoid(self.logit_b2), jax.nn.sigmoid(-self.logit_b2)
            seen2 = b2 * seen2 + rest2
            correction = 1 / seen2 if self.bias_correction else jnp.ones_like(b2)
            v = [_averaged(a, _squared(g), b2, rest2) for a, g in zip(jax.tree.leaves(state.v), precise, strict=True)]
            eps = jnp.exp(self.log_eps)
            steps = [s / self._denominator(a, correction, eps) for s, a in zip(steps, v, strict=True)]
            v = jax.tree.unflatten(treedef, v)
        steps = [s.astype(g.dtype) for s, g in zip(steps, gradients, strict=True)]
        return rebuild(steps), MomentumState(state.step + 1, seen1, seen2, jax.tree.unflatten(treedef, m), v)

    def _b1s(self, step):
        """b1 and 1 - b1, which a subtraction would round to the precision of 1."""
        x = jnp.minimum(1.0, jnp.asarray(step, self.logit_b1.dtype) / self.horizon)
        logit = self.logit_b1 + _along(self.b1_curve, x)
        return jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit)

    def _denominator(self, v, correction, eps):
        v = v * correction.astype(v.dtype)
        v = jnp.where(v > 0, v, 1)  # m is zero there too, and the derivative of a root is not
        p = self.fixed_power
        if p == 0.5:
            root = jnp.sqrt(v)
        elif p == 0.25:
            root = jnp.sqrt(jnp.sqrt(v))
        else:
            root = jnp.exp(jnp.asarray(self.power, v.dtype) * jnp.log(v))
        return root + eps.astype(v.dtype)


def build(key: PRNGKeyArray | None = None, *, preset: str = "nadam", horizon: int = 100, **arguments) -> Momentum:
    """A `Momentum` with a preset's constants (`PRESETS`), any of which `arguments` override. Nothing in it is random.

    **Raises:** `ValueError` if there is no such preset, and as `Momentum`.
    """
    kind("preset", preset, str, "the name of a preset")
    if preset not in PRESETS:
        raise ValueError(f"No preset named {preset!r}. Presets of momentum: {', '.join(PRESETS)}.")
    return Momentum(horizon, **{**PRESETS[preset], **arguments})


def _copied(rule, **changes):
    """The rule with other values in some fields: its constructor takes constants, of which fields are logarithms."""
    new = object.__new__(type(rule))
    for field in dataclasses.fields(rule):
        object.__setattr__(new, field.name, changes.get(field.name, getattr(rule, field.name)))
    return new


def _log(value):
    return jnp.asarray(np.log(value) if value > 0 else _OFF, jnp.float32)


def _logit(value):
    if value in (0, 1):
        return jnp.asarray(_OFF if value == 0 else -_OFF, jnp.float32)
    return jnp.asarray(np.log(value) - np.log1p(-value), jnp.float32)


def _curve(name, values):
    kind(name, values, Sequence, "a sequence of numbers")
    return jnp.asarray([real(name, x) for x in values], jnp.float32) if len(values) else None


def _zeros(curve):
    return [0.0] * (0 if curve is None else curve.size)


def _along(curve, x):
    """Linear between 0 at the start and the curve's values at equal distances after it."""
    if curve is None:
        return jnp.zeros_like(x)
    knots = jnp.arange(1, curve.size + 1, dtype=x.dtype).reshape((1,) * x.ndim + (-1,))
    where = x[..., None] * curve.size - knots  # from each knot, in distances between knots
    return jnp.maximum(0.0, 1 - jnp.abs(where)) @ curve.astype(x.dtype)


def _moves(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _precise(leaf):
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def _squared(g):
    return jnp.real(g * jnp.conj(g)) if jnp.iscomplexobj(g) else g * g


def _averaged(average, new, decay, rest):
    dtype = jnp.finfo(average.dtype).dtype  # a real one
    return decay.astype(dtype) * average + rest.astype(dtype) * new


def _direction(m, g, of_m, of_g):
    dtype = jnp.finfo(m.dtype).dtype
    direction = of_m.astype(dtype) * m
    return direction if of_g is None else direction + of_g.astype(dtype) * g
