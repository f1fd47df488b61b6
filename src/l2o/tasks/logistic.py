r"""Logistic regression with L2 regularisation on random data or real tables, strongly convex in the weights.

With two classes, $y_i \in \{-1, 1\}$,

$$f(w, b) = \frac{1}{n}\sum_i \log(1 + e^{-y_i (w^\top x_i + b)}) + \frac{\lambda}{2}\lVert w \rVert^2;$$

with more, the same with the cross-entropy of $\mathrm{softmax}(W^\top x_i + b)$ (multinomial logistic regression).

Random data: each task draws $x_i \sim N(0, \mathrm{diag}(s^2))$ with feature scales $s$ spread log-uniformly, and labels from a
random true $w$. Real tables come from `l2o.data`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from l2o.core.checks import counts, not_negative, positive
from l2o.core.task import AbstractTask, TaskFamily
from l2o.io import data as data_sets
from l2o.tasks._one_task import OneTask

HORIZON = 100


class Logistic(AbstractTask):
    """Logistic regression on the rows of `x`: on all of them, or on minibatches drawn with replacement."""

    x: Float[Array, "num_examples dim"]
    y: Float[Array, " num_examples"] | Int[Array, " num_examples"]  # two classes: -1.0 or 1.0; more: their numbers
    weight_decay: float = eqx.field(static=True)
    x_test: Float[Array, "num_test dim"] | None = None  # default: nothing is held out, "test" is `x` again
    y_test: Float[Array, " num_test"] | Int[Array, " num_test"] | None = None
    num_classes: int = eqx.field(static=True, default=2)
    init_std: float = eqx.field(static=True, default=0.0)
    batch_size: int | None = eqx.field(static=True, default=None)  # of the "train" split; default: all

    def init(self, key):
        outputs = () if self.num_classes == 2 else (self.num_classes,)
        w = self.init_std * jax.random.normal(key, (self.x.shape[1], *outputs))
        return {"w": w, "b": jnp.zeros(outputs)}

    def loss(self, params, key, *, split="train"):
        x, y = self._rows(split)
        if split == "train" and self.batch_size is not None:
            index = jax.random.randint(key, (self.batch_size,), 0, len(y))
            x, y = x[index], y[index]
        scores = self._scores(params, x)
        if self.num_classes == 2:
            losses = jax.nn.softplus(-y * scores)
        else:
            losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], axis=1)
        return jnp.mean(losses) + 0.5 * self.weight_decay * jnp.sum(params["w"] ** 2)

    def metrics(self, params, key, *, split="test"):
        x, y = self._rows(split)
        scores = self._scores(params, x)
        right = y * scores > 0 if self.num_classes == 2 else jnp.argmax(scores, axis=1) == y
        return {"accuracy": jnp.mean(right)}

    def _rows(self, split):
        if split == "test" and self.x_test is not None and self.y_test is not None:
            return self.x_test, self.y_test
        return self.x, self.y

    def _scores(self, params, x):
        return x @ params["w"] + jnp.broadcast_to(params["b"], (len(x), *params["b"].shape))


def family(
    *,
    data: str | None = None,
    dim: int = 20,
    num_examples: int = 200,
    scale_spread: float = 10.0,
    weight_decay: float = 1e-3,
    init_std: float = 0.0,
    batch_size: int | None = None,
) -> TaskFamily:
    r"""Logistic regressions on data sets drawn at random, or on a real table.

    **Arguments:**

    - `data`: the name of a table of `l2o.data`: "breast_cancer" (2 classes), "wine" (3) or "digits" (10), all in the package.
        Features are standardised by the training split's mean and standard deviation. Default: random data, two classes.
    - `dim`, `num_examples`, `scale_spread`: of random data; the last is the ratio of the largest to the smallest feature scale.
    - `weight_decay`: $\lambda$; the bias is not decayed.
    - `init_std`: weights start from N(0, `init_std`^2). With 0 and all rows at once, all tasks on a table are the same.
    - `batch_size`: rows a minibatch of the "train" split, drawn with replacement; default: all rows.

    **Raises:** `ValueError` if `data` is not a table, a size is not a positive whole number, or a number out of its range.
    """
    counts(dim=dim, num_examples=num_examples, batch_size=batch_size)
    positive("scale_spread", scale_spread)
    not_negative("weight_decay", weight_decay)
    not_negative("init_std", init_std)
    if data is not None:
        return OneTask(_on_table(data, weight_decay=weight_decay, init_std=init_std, batch_size=batch_size))

    def logistic(key):
        x_key, scale_key, w_key, y_key = jax.random.split(key, 4)
        scales = scale_spread ** (jax.random.uniform(scale_key, (dim,)) - 0.5)
        x = scales[None] * jax.random.normal(x_key, (num_examples, dim))
        logits = x @ jax.random.normal(w_key, (dim,))
        y = jnp.where(jax.random.uniform(y_key, (num_examples,)) < jax.nn.sigmoid(logits), 1.0, -1.0)
        return Logistic(x, y, weight_decay, init_std=init_std, batch_size=batch_size)

    return logistic


def _on_table(name, **settings):
    if name not in data_sets.names("table"):
        raise ValueError(f"No table named {name!r}. Tables: {', '.join(data_sets.names('table'))}.")
    x_train, y_train, x_test, y_test = data_sets.load(name)
    mean, std = x_train.mean(axis=0, keepdims=True), x_train.std(axis=0, keepdims=True)
    std = np.where(std > 0, std, 1)  # a constant feature becomes 0
    num_classes = int(y_train.max()) + 1
    x_train, x_test = (jnp.asarray((x - mean) / std) for x in (x_train, x_test))
    y_train, y_test = (jnp.asarray(2.0 * y - 1 if num_classes == 2 else y) for y in (y_train, y_test))
    return Logistic(x_train, y_train, x_test=x_test, y_test=y_test, num_classes=num_classes, **settings)
