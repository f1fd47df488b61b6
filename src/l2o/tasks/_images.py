"""Labelled images as tasks see them: minibatches, cross-entropy, accuracy. Shared by the convolutional families."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from l2o.core.checks import count, counts
from l2o.io import data as data_sets
from l2o.tasks import _layers

# Examples that go through a network together when a whole split is evaluated.
_CHUNK = 500


class Images(eqx.Module):
    """An image set, and how many of its examples make a minibatch."""

    x_train: UInt8[Array, "num_train height width channels"]
    y_train: Int[Array, " num_train"]
    x_test: UInt8[Array, "num_test height width channels"]
    y_test: Int[Array, " num_test"]
    num_classes: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    outer_batch_size: int = eqx.field(static=True)

    def batch(self, key, split):
        """A minibatch drawn with replacement: pixels in [0, 1], as `_layers.grouped` lays them out, and labels."""
        x, y = self._split(split)
        size = self.batch_size if split == "train" else self.outer_batch_size
        index = jax.random.randint(key, (size,), 0, len(y))
        return _pixels(x[index]), y[index]

    def accuracy(self, logits: Callable[[Array], Array], split: str) -> Float[Array, ""]:
        """Share of a whole split on which the largest of `logits(x)` is the label's, in chunks of about 500 examples."""
        x, y = self._split(split)
        num_chunks = -(-len(y) // _CHUNK)
        size = -(-len(y) // num_chunks)
        # The last chunk is filled up from the start, so that statistics over a chunk have equal sizes; not counted.
        position = jnp.arange(num_chunks * size).reshape(num_chunks, size)

        def num_right(position):
            index = position % len(y)
            right = jnp.argmax(logits(_pixels(x[index])), axis=1) == y[index]
            return jnp.sum(right & (position < len(y)))

        return jnp.sum(jax.lax.map(num_right, position)) / len(y)

    def _split(self, split):
        return (self.x_test, self.y_test) if split == "test" else (self.x_train, self.y_train)


def cross_entropy(logits: Float[Array, "batch classes"], y: Int[Array, " batch"]) -> Float[Array, ""]:
    """Mean over the batch of the negative log-probability of the label, in nats."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


def load(data: str, *, labels: Sequence[int] | None, downscale: int, batch_size: int, outer_batch_size: int) -> Images:
    """The image set named `data`, restricted to `labels` (renumbered in the order given) and made smaller.

    **Raises:** `ValueError` for labels that the set does not have or that repeat, and for a `downscale` that leaves no pixel.
    """
    counts(batch_size=batch_size, outer_batch_size=outer_batch_size)
    count("downscale", downscale, at_least=0)
    images = data_sets.load(data)
    present = np.unique(images.y_train)
    labels = [int(label) for label in (present if labels is None else labels)]
    if len(set(labels)) < max(2, len(labels)) or not set(labels) <= set(present.tolist()):
        raise ValueError(f"`labels` must be two or more different labels of {data} ({present.tolist()}), got {labels}.")
    if not 1 <= downscale <= min(images.x_train.shape[1:3]):
        raise ValueError(
            f"`downscale` must be between 1 and the image's side, got {downscale} for {images.x_train.shape[1:3]}."
        )

    def split(x, y):
        position = np.full(max(*present, *labels) + 1, -1, np.int32)
        position[labels] = np.arange(len(labels))
        kept = position[y] >= 0
        return jnp.asarray(_downscaled(x[kept], downscale)), jnp.asarray(position[y[kept]])

    return Images(
        *split(images.x_train, images.y_train),
        *split(images.x_test, images.y_test),
        num_classes=len(labels),
        batch_size=batch_size,
        outer_batch_size=outer_batch_size,
    )


def _downscaled(x, factor):
    """Means over squares of factor x factor pixels; what is left over at the right and the bottom is cut off."""
    if factor == 1:
        return x
    num, height, width, channels = x.shape
    height, width = height // factor, width // factor
    squares = x[:, : height * factor, : width * factor].reshape(num, height, factor, width, factor, channels)
    return np.rint(squares.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def _pixels(x):
    return _layers.grouped(x).astype(jnp.result_type(float)) / 255
