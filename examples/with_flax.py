import jax
import jax.numpy as jnp
import optax
from flax import nnx

import l2o

images = l2o.data.load("mnist_sample")
x, y = jnp.asarray(images.x_train).reshape(-1, 784) / 255, jnp.asarray(images.y_train)


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(784, 20, rngs=rngs)
        self.out = nnx.Linear(20, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.sigmoid(self.hidden(x)))


model = Perceptron(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, l2o.load("lstm-mnist").as_optax(), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer, x, y):
    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    loss, gradient = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, gradient)
    return loss


for i in range(100):
    batch = jax.random.randint(jax.random.key(i), (128,), 0, len(y))
    loss = step(model, optimizer, x[batch], y[batch])
print(loss)
