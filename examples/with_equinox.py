import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import l2o

images = l2o.data.load("mnist_sample")
x, y = jnp.asarray(images.x_train).reshape(-1, 784) / 255, jnp.asarray(images.y_train)
model = eqx.nn.MLP(784, 10, width_size=20, depth=1, activation=jax.nn.sigmoid, key=jax.random.key(0))
optimizer = l2o.load("lstm-mnist")
state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))


@eqx.filter_value_and_grad
def loss_and_gradient(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()


@eqx.filter_jit
def step(model, state, key):
    batch = jax.random.randint(key, (128,), 0, len(y))
    loss, gradient = loss_and_gradient(model, x[batch], y[batch])
    updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, loss


for i in range(100):
    model, state, loss = step(model, state, jax.random.key(i))
print(loss)
