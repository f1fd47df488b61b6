r"""A recurrent network that predicts a text character by character: a GRU or an LSTM.

Cross-entropy in nats per character on random windows of the text; the hidden state starts from 0 in every window. The GRU
(Cho et al. 2014, with the reset gate after the matrix product, as in cuDNN), from $x_t$ = one character:

$$r, z = \sigma(W_{r,z} x_t + U_{r,z} h + b_{r,z}),\quad n = \tanh(W_n x_t + b_n + r \odot U_n h),$$
$$h' = (1 - z) \odot n + z \odot h.$$

The LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000):

$$i, f, o = \sigma(W_{i,f,o} x_t + U_{i,f,o} h + b_{i,f,o}),\quad g = \tanh(W_g x_t + U_g h + b_g),$$
$$c' = f \odot c + i \odot g,\quad h' = o \odot \tanh c'.$$

Character models of this kind are among the tasks of Metz et al. 2020, "Using a thousand optimization tasks to learn
hyperparameter search strategies", appendix.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from l2o.core.checks import count
from l2o.core.task import AbstractTask, TaskFamily
from l2o.tasks import _characters
from l2o.tasks._characters import Characters
from l2o.tasks._one_task import OneTask

HORIZON = 200

NUM_GATES = {"gru": 3, "lstm": 4}


class CharRNN(AbstractTask):
    r"""One recurrent layer of `hidden` units. Weights start from $U(-1/\sqrt{h}, 1/\sqrt{h})$, $h$ = `hidden`; biases from 0."""

    text: Characters
    cell: str = eqx.field(static=True)
    hidden: int = eqx.field(static=True)

    def init(self, key):
        bound = 1 / math.sqrt(self.hidden)
        gates = NUM_GATES[self.cell] * self.hidden
        vocabulary_size = self.text.vocabulary_size
        bounds = {
            "W": jnp.full((vocabulary_size, gates), bound),
            "U": jnp.full((self.hidden, gates), bound),
            "b": jnp.zeros(gates),
            "W_out": jnp.full((self.hidden, vocabulary_size), bound),
            "b_out": jnp.zeros(vocabulary_size),
        }
        flat, unravel = ravel_pytree(bounds)
        return unravel(
            flat * jax.random.uniform(key, flat.shape, minval=-1, maxval=1)
        )  # one draw: each takes long to compile

    def loss(self, params, key, *, split="train"):
        return self._loss(params, self.text.batch(key, split))

    def metrics(self, params, key, *, split="test"):
        """`loss` in nats and `bits_per_character`, on the whole test text or as much of the training text."""
        return _characters.metrics(self._loss(params, self.text.all_windows(split)))

    def _loss(self, params, windows):
        inputs, targets = windows[:, :-1], windows[:, 1:]
        start = jnp.zeros((len(windows), self.hidden))
        step = _gru if self.cell == "gru" else _lstm
        # The product of W with a one-hot character is a row of W. Scans run over the first axis, time.
        given = params["W"][inputs.T] + params["b"][None, None]  # [length, batch, gates]
        _, h = jax.lax.scan(lambda state, x: step(x, state, params["U"]), (start, start), given)
        logits = h @ params["W_out"] + params["b_out"][None, None]
        return _characters.cross_entropy(logits, targets.T)


def _gru(x, state, U):
    h, unused = state
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ U, 3, axis=-1)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
    h = (1 - z) * n + z * h
    return (h, unused), h


def _lstm(x, state, U):
    h, c = state
    i, f, o, g = jnp.split(x + h @ U, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def family(
    *,
    text: str = "persuasion",
    cell: str = "gru",
    hidden: int = 32,
    length: int = 16,
    batch_size: int = 16,
    outer_batch_size: int = 64,
) -> TaskFamily:
    """Recurrent networks on a text.

    **Arguments:**

    - `text`: a name known to `l2o.data.load_text`; "persuasion", half a novel, ships with the package.
    - `cell`: "gru" or "lstm". - `hidden`: its units. - `length`: characters read in a window.
    - `batch_size`: windows a minibatch; `outer_batch_size`: of the independent batches of the "outer" and "test" splits.

    **Raises:** `ValueError` for a text or cell that does not exist, or a size that is not a positive whole number.
    """
    if cell not in NUM_GATES:
        raise ValueError(f"No cell named {cell!r}. Cells: {', '.join(NUM_GATES)}.")
    count("hidden", hidden)
    windows = _characters.load(text, length=length, batch_size=batch_size, outer_batch_size=outer_batch_size)
    return OneTask(CharRNN(windows, cell, hidden))
