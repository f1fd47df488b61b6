"""The hand-designed rules that learned optimizers imitate before they are meta-trained further."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def momentum(schedule: optax.Schedule, *, b1, b2, eps, power):
    r"""Nesterov momentum over a `power` of the mean square, $-a_t\, \bar m_t / (\hat v_t^p + \epsilon)$, $a_t$ by `schedule`."""

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return jnp.zeros(()), zeros, zeros

    def update(gradient, state, params=None):
        t, m, v = state
        m = optax.tree.update_moment(gradient, m, b1, 1)
        v = optax.tree.update_moment(gradient, v, b2, 2)
        ahead = optax.tree.bias_correction(optax.tree.update_moment(gradient, m, b1, 1), b1, t + 1)
        v_hat = optax.tree.bias_correction(v, b2, t + 1)
        rate = schedule(t)
        step = jax.tree.map(lambda m, v: -rate * m / ((v + 1e-20) ** power + eps), ahead, v_hat)
        return step, (t + 1, m, v)

    return optax.GradientTransformation(init, update)


def annealed(rate, *, warmup, num_steps, exponent, least):
    r"""`rate` times $\min(1, (t + 1) / \text{warmup})\, \max(\text{least}, (1 - t / \text{num\_steps})^\text{exponent})$."""

    def schedule(t):
        left = jnp.maximum(0.0, 1 - t / num_steps) ** exponent
        return rate * jnp.minimum(1.0, (t + 1) / warmup) * jnp.maximum(least, left)

    return schedule


def together(rules):
    """One rule for each group of params, their top-level keys, as one optimizer."""
    if len(rules) == 1:
        return next(iter(rules.values()))
    return optax.partition(rules, lambda params: {group: group for group in params})


def through(rates):
    """Through these `rates` by step, linear in the logarithm between them, and constant after the last."""
    return between([*rates], np.log([*rates.values()], dtype=np.float32))


def between(steps, log_rates):
    """Through the rates of these logarithms at these steps, which may be traced."""
    steps = np.array(steps, np.float32)
    return lambda t: jnp.exp(jnp.interp(t, steps, log_rates))


def by_annealing(constants):
    """A rule for each group but "schedule", which holds for all of them; each group's `rate` is the largest."""
    schedule = constants["schedule"]

    def rule(rate, **others):
        return momentum(annealed(rate, **schedule), **others)

    return together({group: rule(**found) for group, found in constants.items() if group != "schedule"})
