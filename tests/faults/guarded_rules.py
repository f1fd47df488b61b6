"""Rules to be guarded, and a loop that takes their steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import l2o


def steps(optimizer, loss_fn, params, num, *, donate=False, told=("value", "value_fn"), after=lambda updates: updates):
    """Params and states before every step, and after the last, from a loop as a user writes it."""
    conj = lambda tree: jax.tree.map(jnp.conj, tree)

    def step(params, state):
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        given = {"value": loss, "value_fn": loss_fn}
        updates, state = optimizer.update(conj(gradient), state, params, **{name: given[name] for name in told})
        return optax.apply_updates(params, after(updates)), state

    step = jax.jit(step, donate_argnums=(0, 1) if donate else ())
    state = optimizer.init(params)
    found = [(params, state)]
    for _ in range(num):
        found.append(step(*found[-1]))
    return found


class Rule(l2o.AbstractLearnedOptimizer):
    """u = rule(x, g, step), leaf by leaf."""

    rule: object = eqx.field(static=True)

    def init(self, params):
        return jnp.zeros((), jnp.int32)

    def update(self, updates, state, params=None, **extra):
        return jax.tree.map(lambda p, g: self.rule(p, g, state).astype(p.dtype), params, updates), state + 1


GROWING = Rule(lambda x, g, step: 500 * (1 + jnp.abs(x)))
UPHILL = Rule(lambda x, g, step: 0.1 * g)
DESCENT = Rule(lambda x, g, step: -0.1 * g)
