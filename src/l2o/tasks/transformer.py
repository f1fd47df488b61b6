r"""A small transformer that predicts a text character by character: a decoder with layer norm before each part.

With token embeddings $E$, position embeddings $P$, and $L$ layers,

$$h = E[x] + P,\qquad L \times \begin{cases} h \leftarrow h + \mathrm{Attention}(\mathrm{LN}(h)) \\
h \leftarrow h + \mathrm{MLP}(\mathrm{LN}(h)) \end{cases},\qquad \text{logits} = \mathrm{LN}(h)\,E^\top,$$

attention causal and with several heads (Vaswani et al. 2017, section 3.2), the MLP two layers with GELU between and 4 times
the width. Layer norm before the parts, initial values and tied embeddings as in GPT-2 (Radford et al. 2019, section 2.3):
weights start from N(0, 0.02²), those that write into the stream $h$ scaled by $1/\sqrt{2L}$, biases from 0, gains from 1 (stored
as what they are more than 1). Cross-entropy in nats per character on random windows of the text.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from l2o.core.checks import counts, not_negative
from l2o.core.task import AbstractTask, TaskFamily
from l2o.tasks import _characters, _start
from l2o.tasks._characters import Characters
from l2o.tasks._one_task import OneTask
from l2o.tasks._start import Normal

HORIZON = 200


class Transformer(AbstractTask):
    """`num_layers` blocks of width `width`."""

    text: Characters
    width: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    init_std: float = eqx.field(static=True)

    def init(self, key):
        return _start.draw(key, self._starts())

    def loss(self, params, key, *, split="train"):
        return self._loss(params, self.text.batch(key, split))

    def metrics(self, params, key, *, split="test"):
        """`loss` in nats and `bits_per_character`, on the whole test text or as much of the training text."""
        return _characters.metrics(self._loss(params, self.text.all_windows(split)))

    def _starts(self):
        """How every parameter starts; that also says which there are."""
        width, std = self.width, self.init_std
        into_stream = std / math.sqrt(2 * self.num_layers)

        def norm():
            return {"gain": Normal((width,)), "b": Normal((width,))}  # the gain is 1 + this

        def linear(fan_in, fan_out, std):
            return {"w": Normal((fan_in, fan_out), std), "b": Normal((fan_out,))}

        def layer():
            return {
                "attention_norm": norm(),
                "qkv": linear(width, 3 * width, std),
                "out": linear(width, width, into_stream),
                "mlp_norm": norm(),
                "up": linear(width, 4 * width, std),
                "down": linear(4 * width, width, into_stream),
            }

        return {
            "embedding": Normal((self.text.vocabulary_size, width), std),
            "position": Normal((self.text.length, width), std),
            "layers": [layer() for _ in range(self.num_layers)],
            "norm": norm(),
        }

    def _loss(self, params, windows):
        logits = jax.vmap(lambda ids: self.logits(params, ids))(windows[:, :-1])
        return _characters.cross_entropy(logits, windows[:, 1:])

    def logits(self, params, ids):
        """[length] characters -> [length, vocabulary]; row i depends on characters 0 to i only."""
        h = params["embedding"][ids] + params["position"]
        for layer in params["layers"]:
            h = h + self._attention(layer, _layer_norm(layer["attention_norm"], h))
            h = h + _linear(layer["down"], jax.nn.gelu(_linear(layer["up"], _layer_norm(layer["mlp_norm"], h))))
        return _layer_norm(params["norm"], h) @ params["embedding"].T

    def _attention(self, layer, h):
        length, width = h.shape
        split_heads = (length, 3, self.num_heads, width // self.num_heads)
        q, k, v = jnp.moveaxis(_linear(layer["qkv"], h).reshape(split_heads), (1, 2), (0, 1))  # [heads, length, d]
        similarity = q @ jnp.swapaxes(k, 1, 2) / math.sqrt(q.shape[-1])
        past = jnp.tril(jnp.ones((length, length), bool))[None]
        weights = jax.nn.softmax(jnp.where(past, similarity, -jnp.inf))
        return _linear(layer["out"], jnp.moveaxis(weights @ v, 0, 1).reshape(length, width))


def _linear(layer, x):
    return x @ layer["w"] + layer["b"][None]


def _layer_norm(layer, x):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    return centred * scale * (1 + layer["gain"])[None] + layer["b"][None]


def family(
    *,
    text: str = "persuasion",
    width: int = 32,
    num_layers: int = 1,
    num_heads: int = 2,
    init_std: float = 0.02,
    length: int = 16,
    batch_size: int = 16,
    outer_batch_size: int = 64,
) -> TaskFamily:
    """Transformers on a text.

    **Arguments:**

    - `text`: a name known to `l2o.data.load_text`; "persuasion", half a novel, ships with the package.
    - `width`: of the stream; `num_heads` must divide it. - `init_std`: of weights and embeddings, at first.
    - `length`: characters read in a window.
    - `batch_size`: windows a minibatch; `outer_batch_size`: of the independent batches of the "outer" and "test" splits.

    **Raises:** `ValueError` for a text that does not exist, a size that is not a positive whole number, or
    if `num_heads` does not divide `width`.
    """
    counts(width=width, num_layers=num_layers, num_heads=num_heads)
    not_negative("init_std", init_std)
    if width % num_heads:
        raise ValueError(f"`num_heads` must divide `width`, got num_heads={num_heads} and width={width}.")
    windows = _characters.load(text, length=length, batch_size=batch_size, outer_batch_size=outer_batch_size)
    return OneTask(Transformer(windows, width, num_layers, num_heads, init_std))
