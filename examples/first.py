import jax
import jax.numpy as jnp
import optax

import l2o

a = jax.random.normal(jax.random.key(0), (10, 10))
loss = lambda x: jnp.sum((a @ x - 1) ** 2)  # any loss of yours
x = jnp.zeros(10)

optimizer = l2o.load("lstm-quadratic")  # no learning rate: the size of the steps is learned
state = optimizer.init(x)
for _ in range(100):
    updates, state = optimizer.update(jax.grad(loss)(x), state, x)
    x = optax.apply_updates(x, updates)
print(loss(x), "from", loss(jnp.zeros(10)))
