"""A multilayer perceptron classifying images (Andrychowicz et al. 2016, section 3.2: MNIST, 784-20-10, sigmoid)."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt

from l2o.core.checks import counts, not_negative, sizes
from l2o.core.task import AbstractTask, TaskFamily
from l2o.io import data as data_sets
from l2o.tasks import _start
from l2o.tasks._one_task import OneTask
from l2o.tasks._start import Normal

HORIZON = 100

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}


class MLP(AbstractTask):
    """Cross-entropy of a perceptron on minibatches drawn with replacement. Pixels are scaled to [0, 1].

    The params are `{"hidden": [...], "output": {...}}`, layers with weights "w" and biases "b", so an optimizer can treat the
    last one apart.
    """

    x_train: UInt[Array, "num_train pixels"]
    y_train: Int[Array, " num_train"]
    x_test: UInt[Array, "num_test pixels"]
    y_test: Int[Array, " num_test"]
    sizes: tuple[int, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    init_std: float | None = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    outer_batch_size: int = eqx.field(static=True)

    def init(self, key):
        *hidden, output = (
            {"w": Normal((fan_in, fan_out), self._std(fan_in)), "b": Normal((fan_out,), self.init_std or 0.0)}
            for fan_in, fan_out in itertools.pairwise(self.sizes)
        )
        return _start.draw(key, {"hidden": hidden, "output": output})

    def loss(self, params, key, *, split="train"):
        x, y = self._batch(key, split)
        log_probs = jax.nn.log_softmax(self._logits(params, x))
        return -jnp.mean(jnp.take_along_axis(log_probs, y[:, None], axis=1))

    def metrics(self, params, key, *, split="test"):
        x, y = (self.x_test, self.y_test) if split == "test" else (self.x_train, self.y_train)
        return {"accuracy": jnp.mean(jnp.argmax(self._logits(params, x), axis=1) == y)}

    def _std(self, fan_in):
        return 1 / math.sqrt(fan_in) if self.init_std is None else self.init_std

    def _batch(self, key, split):
        x, y = (self.x_test, self.y_test) if split == "test" else (self.x_train, self.y_train)
        size = self.batch_size if split == "train" else self.outer_batch_size
        index = jax.random.randint(key, (size,), 0, len(y))
        return x[index], y[index]

    def _logits(self, params, x):
        output = params["output"]
        x = x.astype(output["w"].dtype) / 255
        for layer in params["hidden"]:
            x = ACTIVATIONS[self.activation](x @ layer["w"] + layer["b"][None])
        return x @ output["w"] + output["b"][None]


def family(
    *,
    data: str = "mnist_sample",
    hidden: tuple[int, ...] = (20,),
    activation: str = "sigmoid",
    init_std: float | None = 0.01,
    batch_size: int = 128,
    outer_batch_size: int = 1024,
) -> TaskFamily:
    """Perceptrons on an image set.

    **Arguments:**

    - `data`: a name known to `l2o.data`; "mnist_sample", a small real sample of MNIST, ships with the package.
    - `hidden`: units of each hidden layer. - `activation`: "sigmoid", "relu" or "tanh".
    - `init_std`: weights and biases start from N(0, `init_std`^2); `None` scales weights by 1/sqrt(fan-in), biases at 0.
        (The paper does not say how it starts.)
    - `batch_size`: examples a minibatch; `outer_batch_size`: of the independent batches of the "outer" and "test" splits.

    **Raises:** `ValueError` for sizes that are not positive whole numbers, a negative `init_std`, and unknown names.
    """
    counts(batch_size=batch_size, outer_batch_size=outer_batch_size)
    hidden = sizes("hidden", hidden, may_be_empty=True)
    if init_std is not None:
        not_negative("init_std", init_std)
    if activation not in ACTIVATIONS:
        raise ValueError(f"No activation named {activation!r}. Activations: {', '.join(ACTIVATIONS)}.")
    images = data_sets.load(data)
    if data not in data_sets.names("images"):
        raise ValueError(f"{data!r} is not a set of images. Image sets: {', '.join(data_sets.names('images'))}.")
    x_train = images.x_train.reshape(len(images.x_train), -1)
    x_test = images.x_test.reshape(len(images.x_test), -1)
    num_classes = int(images.y_train.max()) + 1
    return OneTask(
        MLP(
            jnp.asarray(x_train),
            jnp.asarray(images.y_train, jnp.int32),
            jnp.asarray(x_test),
            jnp.asarray(images.y_test, jnp.int32),
            sizes=(x_train.shape[1], *hidden, num_classes),
            activation=activation,
            init_std=init_std,
            batch_size=batch_size,
            outer_batch_size=outer_batch_size,
        )
    )
