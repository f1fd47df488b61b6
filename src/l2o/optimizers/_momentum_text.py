"""A `l2o.Momentum` told: as a formula with its numbers, and as code of optax that needs no l2o.

A number is written with as few digits as give the very float that the rule holds: a `b1` of 0.9 is "0.9", though what is stored
is its logit in single precision.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from l2o.optimizers.momentum import Momentum


class _Numbers(NamedTuple):
    """The rule's constants as text; None for what it has not."""

    rate: str
    warmup: str | None  # steps
    least: str
    rate_curve: list[str]
    b1: str
    logit_b1: str
    b1_curve: list[str]
    b2: str | None
    eps: str | None
    power: str


def formula(rule: "Momentum") -> str:
    """The rule with its numbers, in plain text: a line for each average, the update, and what its factors are."""
    n = _numbers(rule)
    b1, rest = ("b(t)", "(1 − b(t))") if n.b1_curve else (n.b1, _rest(n.b1))
    lines = ["Of each parameter, with its gradient g at the steps t = 0, 1, 2, ..., and averages that start at 0:", ""]
    direction, factors = "g", []
    if _remembers(n):
        lines.append(f"m ← {b1} m + {rest} g")
        direction = "m"
        if rule.nesterov:
            ahead, ahead_rest = ("b(t+1)", "(1 − b(t+1))") if n.b1_curve else (b1, rest)
            over = (" / c(t+1)", " / c(t)") if rule.bias_correction else ("", "")
            direction = f"({ahead} m{over[0]} + {ahead_rest} g{over[1]})"
        elif rule.bias_correction:
            direction = "m / c(t)"
        if rule.bias_correction:
            factors.append("c(t) = 1 − b(0) b(1) ... b(t)" if n.b1_curve else f"c(t) = 1 − {b1}^(t+1)")
        if n.b1_curve:
            factors.append(f"b(t) = 1 / (1 + exp(−({n.logit_b1} + h(x))))")
            factors.append(f"h: {_knots(n.b1_curve)}")
    if n.b2 is not None:
        lines.append(f"v ← {n.b2} v + {_rest(n.b2)} g²")
        square = "v"
        if rule.bias_correction:
            square = "(v / d(t))"
            factors.append(f"d(t) = 1 − {n.b2}^(t+1)")
        root = {0.5: f"√{square}", 1.0: square.removeprefix("(").removesuffix(")") if n.eps != "0" else square}.get(
            float(n.power), f"{square}^{n.power}"
        )
        direction = f"{direction} / ({root}{'' if n.eps == '0' else f' + {n.eps}'})"
    lines.append(f"update = −a(t) · {direction}")
    lines += [f"a(t) = {' · '.join(_rate_factors(rule, n))}", *factors]
    if n.rate_curve:
        lines.append(f"k: {_knots(n.rate_curve)}")
    if n.rate_curve or (_remembers(n) and n.b1_curve) or rule.decay != "constant":
        lines.append(f"x = min(1, t / {rule.horizon})")
    return "\n".join([lines[0], "", *(f"    {line}" for line in lines[2:])])


def optax_code(rule: "Momentum") -> str:
    """Python that makes the rule as `optimizer` with optax and JAX alone: by an optimizer of optax's if it is one, or in full.

    For params in single or double precision. Where optax divides by nothing but `eps`, an entry whose gradients have all been
    zero stays where it is, as here.
    """
    n = _numbers(rule)
    scale = 1.0
    call = _known(rule, n)
    if call is not None:
        name, arguments = call
        if name == "sgd" and "momentum" in arguments:
            scale = 1 - float(n.b1)  # optax's momentum is a sum of gradients, ours their mean
        given = "".join(f", {key}={value}" for key, value in arguments.items())
        body = [f"optimizer = optax.{name}(learning_rate{given})"]
    else:
        body = list(_in_full(rule, n))
    schedule = _schedule(rule, n, scale)
    imports = [f"import {x}" for x in ("jax", "jax.numpy as jnp", "optax")]
    used = [line for line in imports if _is_used(line, [*schedule, *body])]
    function = len(schedule) > 1
    gap = ["", ""] if function or body[0].startswith("def ") else []
    return "\n".join([*used, "", *([""] if function else []), *schedule, *gap, *body, ""])


def _numbers(rule) -> _Numbers:
    steps = float(_of_log(rule.log_warmup)) * rule.horizon
    power = rule.fixed_power
    return _Numbers(
        rate=_of_log(rule.log_rate),
        warmup=f"{steps:.12g}" if steps > 1 else None,
        least=_of_logit(rule.logit_least),
        rate_curve=_curve(rule.rate_curve),
        b1=_of_logit(rule.logit_b1),
        logit_b1=str(np.asarray(rule.logit_b1)),
        b1_curve=_curve(rule.b1_curve),
        b2=None if rule.logit_b2 is None else _of_logit(rule.logit_b2),
        eps=None if rule.log_eps is None else _of_log(rule.log_eps),
        power=_of_logit(rule.logit_power) if power is None else repr(power),
    )


def _shortest(stored, value_of: Callable[[float], float], stored_of: Callable[[float], float]) -> str:
    """The decimal number with the fewest digits that is stored as this one."""
    stored = np.asarray(stored)
    value = value_of(float(stored))
    for digits in range(1, 17):
        text = f"{value:.{digits}g}"
        if float(text) > 0 and stored.dtype.type(stored_of(float(text))) == stored:
            return text
    return repr(value)


def _of_log(stored) -> str:
    return "0" if stored < -700 else _shortest(stored, math.exp, math.log)


def _of_logit(stored) -> str:
    if abs(float(stored)) > 700:
        return "0" if stored < 0 else "1"

    def logit(p):
        return math.inf if p >= 1 else math.log(p) - math.log1p(-p)

    return _shortest(stored, lambda x: 1 / (1 + math.exp(-x)), logit)


def _curve(curve) -> list[str]:
    return [] if curve is None else [str(value) for value in np.asarray(curve)]


def _rest(number: str) -> str:
    return f"{1 - float(number):.7g}"


def _remembers(n) -> bool:
    return float(n.b1) > 0


def _knots(values: list[str]) -> str:
    points = [f"{value} at {f'{(i + 1) / len(values):.4g}'}" for i, value in enumerate(values)]
    return f"straight lines through 0 at x = 0, {', '.join(points)}"


def _rate_factors(rule, n) -> Iterator[str]:
    yield n.rate
    if n.warmup is not None:
        yield f"min(1, (t + 1) / {n.warmup})"
    shape = {"linear": "(1 − x)", "cosine": "(1 + cos πx) / 2"}.get(rule.decay)
    if shape is not None:
        yield shape if n.least == "0" else f"({n.least} + {_rest(n.least)} {shape})"
    if n.rate_curve:
        yield "exp(k(x))"


def _known(rule, n) -> tuple[str, dict[str, str]] | None:
    """The optimizer of optax that the rule is, and its arguments; None if it is none."""
    if n.b1_curve and _remembers(n):
        return None
    if n.b2 is None:
        if not _remembers(n):
            return "sgd", {}
        ahead = {"nesterov": "True"} if rule.nesterov else {}
        return None if rule.bias_correction else ("sgd", {"momentum": n.b1, **ahead})
    if float(n.power) != 0.5 or n.eps == "0" or n.eps is None:
        return None
    if rule.bias_correction:
        return "nadam" if rule.nesterov and _remembers(n) else "adam", {"b1": n.b1, "b2": n.b2, "eps": n.eps}
    return None if _remembers(n) else ("rmsprop", {"decay": n.b2, "eps": n.eps, "eps_in_sqrt": "False"})


def _schedule(rule, n, scale) -> list[str]:
    """What makes `learning_rate`, a number or a function of the step."""
    rate, steps = f"{float(n.rate) * scale:.12g}", rule.horizon
    if n.warmup is None and not n.rate_curve:
        last = f"{float(n.rate) * scale * float(n.least):.12g}"
        made = {
            "constant": rate,
            "linear": f"optax.linear_schedule({rate}, {last}, {steps})",
            "cosine": f"optax.cosine_decay_schedule({rate}, {steps}, alpha={n.least})",
        }[rule.decay]
        return [f"learning_rate = {made}"]
    factors = [rate]
    if n.warmup is not None:
        factors.append(f"jnp.minimum(1, (t + 1) / {n.warmup})")
    shape = {"linear": "(1 - x)", "cosine": "(1 + jnp.cos(jnp.pi * x)) / 2"}.get(rule.decay)
    if shape is not None:
        factors.append(shape if n.least == "0" else f"({n.least} + {_rest(n.least)} * {shape})")
    if n.rate_curve:
        factors.append(f"jnp.exp({_interpolated(n.rate_curve)})")
    lines = ["def learning_rate(t):"]
    if shape is not None or n.rate_curve:
        lines.append(f"    x = jnp.minimum(1, t / {steps})")
    return [*lines, *(f"    {line}" for line in _product(factors))]


def _product(factors) -> list[str]:
    """Code that returns it, in lines that can be read."""
    whole = f"return {' * '.join(factors)}"
    if len(whole) < 100:
        return [whole]
    return ["return (", *(f"    {'* ' if i else ''}{factor}" for i, factor in enumerate(factors)), ")"]


def _interpolated(curve: list[str]) -> str:
    return f"jnp.interp(x, jnp.linspace(0, 1, {len(curve) + 1}), jnp.array([0, {', '.join(curve)}]))"


def _in_full(rule, n) -> Iterator[str]:
    """`optimizer` by its `init` and `update`."""
    corrected, remembers, squared = rule.bias_correction, _remembers(n), n.b2 is not None
    moving = bool(n.b1_curve) and remembers
    constants = [("b1", n.b1)] if remembers and not moving else []
    constants += [("b2", n.b2), ("eps", n.eps)] if squared else []
    yield from (f"{name} = {value}" for name, value in constants)
    yield from ("", "") if constants else ()
    if moving:
        yield "def b1_at(t):"
        yield f"    x = jnp.minimum(1, t / {rule.horizon})"
        yield f"    return jax.nn.sigmoid({n.logit_b1} + {_interpolated(n.b1_curve)})"
        yield from ("", "")
    kept = (["m"] if remembers else []) + (["v"] if squared else [])
    seen = [f"n_{name}" for name in kept] if corrected else []
    yield "def init(params):"
    yield '    state = {"t": jnp.zeros((), int)}'
    if remembers:
        yield '    state["m"] = jax.tree.map(jnp.zeros_like, params)'
    if squared:
        yield '    state["v"] = jax.tree.map(lambda p: jnp.zeros_like(jnp.abs(p)), params)'
    if seen:
        yield "    # Averages of ones, by which the others are divided, since all start at zero."
        yield from (f'    state["{name}"] = jnp.zeros(())' for name in seen)
    yield "    return state"
    yield from ("", "")
    yield "def update(gradients, state, params=None):"
    yield '    t = state["t"]'
    ahead = "ahead" if moving else "b1"
    if moving:
        yield "    b1, ahead = b1_at(t), b1_at(t + 1)"
    if remembers:
        yield '    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["m"], gradients)'
        if corrected:
            yield '    n_m = b1 * state["n_m"] + (1 - b1)'
    if squared:
        yield '    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.abs(g) ** 2, state["v"], gradients)'
        if corrected:
            yield '    n_v = b2 * state["n_v"] + (1 - b2)'
    if not _is_number(rule, n):
        yield "    rate = learning_rate(t)"
    yield ""
    yield f"    def step({', '.join([*kept, 'g'])}):"
    direction = "g"
    if remembers and rule.nesterov:
        parts = f"{ahead} * m", f"(1 - {ahead}) * g"
        if corrected:
            parts = f"{parts[0]} / ({ahead} * n_m + (1 - {ahead}))", f"{parts[1]} / n_m"
        direction = f"({' + '.join(parts)})"
    elif remembers:
        direction = "m / n_m" if corrected else "m"
    if squared:
        yield f"        square = jnp.where(v > 0, v{' / n_v' if corrected else ''}, 1)  # where it is 0, so is the rest"
        root = {0.5: "jnp.sqrt(square)", 1.0: "square"}.get(float(n.power), f"square**{n.power}")
        direction = f"{direction} / ({root} + eps)"
    yield f"        return -{'learning_rate' if _is_number(rule, n) else 'rate'} * {direction}"
    yield ""
    yield f"    updates = jax.tree.map(step, {', '.join([*kept, 'gradients'])})"
    state = "".join(f', "{name}": {name}' for name in [*kept, *seen])
    yield f'    return updates, {{"t": t + 1{state}}}'
    yield from ("", "")
    yield "optimizer = optax.GradientTransformation(init, update)"


def _is_number(rule, n) -> bool:
    return rule.decay == "constant" and n.warmup is None and not n.rate_curve


def _is_used(line, code) -> bool:
    prefix = {"import jax": "jax.", "import jax.numpy as jnp": "jnp.", "import optax": "optax."}[line]
    return any(prefix in x for x in code)
