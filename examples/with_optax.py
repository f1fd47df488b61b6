import jax
import optax

import l2o
from l2o.tasks import mlp

task = mlp.family()(jax.random.key(0))  # MNIST sample, 784-20-10; any loss and params of yours will do
params = task.init(jax.random.key(1))
optimizer = optax.chain(optax.clip_by_global_norm(10.0), l2o.load("lstm-mnist"))
state = optimizer.init(params)


@jax.jit
def step(params, state, key):
    loss, gradient = jax.value_and_grad(task.loss)(params, key)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


for i in range(100):
    params, state, loss = step(params, state, jax.random.key(i))
print(loss, task.metrics(params, jax.random.key(2)))
