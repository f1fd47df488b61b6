import jax
import optax

import l2o
from l2o.tasks import mlp

task = mlp.family(activation="relu", init_std=None)(jax.random.key(0))  # not the net that lstm-mnist was trained for
params = task.init(jax.random.key(1))
optimizer = l2o.Guarded(l2o.load("lstm-mnist"), optax.adam(1e-3))
state = optimizer.init(params)


@jax.jit
def step(params, state, key):
    loss_fn = lambda params: task.loss(params, key)  # of this minibatch, at any params
    loss, gradient = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(gradient, state, params, value=loss, value_fn=loss_fn)
    return optax.apply_updates(params, updates), state, loss


for i in range(100):
    params, state, loss = step(params, state, jax.random.key(i))
print(loss, "handed over:", state.handed_over, "skipped:", state.num_skipped, "raced:", state.num_raced)
