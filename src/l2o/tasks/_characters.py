"""What language models have in common: windows of a text, and the cross-entropy of the next character."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from l2o.core.checks import counts
from l2o.io import data as data_sets


class Characters(eqx.Module):
    """A text cut into windows of `length` characters to read, each with the character to predict after it."""

    train: Int[Array, " num_train"]
    test: Int[Array, " num_test"]
    vocabulary_size: int = eqx.field(static=True)
    length: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    outer_batch_size: int = eqx.field(static=True)

    def batch(self, key, split) -> Int[Array, "batch length_plus_1"]:
        """Windows from random places, of the training text unless `split` is "test"."""
        text = self.test if split == "test" else self.train
        size = self.batch_size if split == "train" else self.outer_batch_size
        starts = jax.random.randint(key, (size,), 0, len(text) - self.length)
        return self._windows(text, starts)

    def all_windows(self, split) -> Int[Array, "num_windows length_plus_1"]:
        """Windows side by side over the test text, or over as much of the training text."""
        text = self.test if split == "test" else self.train
        return self._windows(text, jnp.arange(0, len(self.test) - self.length, self.length))

    def _windows(self, text, starts):
        return text[starts[:, None] + jnp.arange(self.length + 1)[None]]


def load(name: str, *, length: int, batch_size: int, outer_batch_size: int) -> Characters:
    """The text `name` of `l2o.data`, in windows of `length`.

    **Raises:** `ValueError` if there is no such text, or a split of it is shorter than a window.
    """
    counts(batch_size=batch_size, outer_batch_size=outer_batch_size)
    train, test, vocabulary = data_sets.load_text(name)
    if length < 1 or len(test) <= length:
        raise ValueError(
            f"`length` must be at least 1 and less than the test split of {name!r}, of {len(test)} characters; got {length}."
        )
    arrays = jnp.asarray(train), jnp.asarray(test)
    return Characters(*arrays, len(vocabulary), length, batch_size, outer_batch_size)


def cross_entropy(
    logits: Float[Array, "batch length vocabulary"], targets: Int[Array, "batch length"]
) -> Float[Array, ""]:
    """Mean over all characters, in nats."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1))


def metrics(loss: Float[Array, ""]) -> dict[str, Array]:
    """The metrics of a language model whose mean cross-entropy is `loss` nats a character."""
    return {"loss": loss, "bits_per_character": loss / jnp.log(2)}
