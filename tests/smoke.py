"""What must run in a base installation: a shipped optimizer is loaded, and takes a step."""

import jax
import jax.numpy as jnp
import optax

import l2o


def loss(params):
    return jnp.sum(params["w"] ** 2) + jnp.sum((params["b"] - 1) ** 2)


rule = l2o.load("lstm-mnist", beyond=None)
params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
updates, state = rule.update(jax.grad(loss)(params), rule.init(params), params)
assert loss(optax.apply_updates(params, updates)) < loss(params)
