"""Layers of the convolutional families, as functions of their parameters.

Images are [channels, height, width, batch]: with the batch last, slices and elementwise work run over contiguous memory.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.tasks._start import Normal

# On a CPU, convolutions whose patches take more bytes than this go through so many images at a time.
_CACHE = 2**22
_CHUNK = 16


def conv(
    x: Float[Array, "channels height width batch"], w: Float[Array, "rows columns channels out"], stride: int = 1
) -> Float[Array, "out out_height out_width batch"]:
    """Convolution with zero padding ("SAME"; odd kernels), as a matrix product for every row of the kernel.

    The filters are what is optimized: under `vmap` over tasks and learning rates they carry a batch axis, and XLA turns
    `conv_general_dilated` into a grouped convolution, whose derivative by the filters has no fast path on CPUs.
    """
    # One gradient of the paper's net on CIFAR-10, minibatch 128, one busy core: `conv_general_dilated` 1,750 ms (under
    # `vmap` over four tasks 3,400 ms each); its patches by `conv_general_dilated_patches` 460 ms; a product for every
    # row and column of the kernel 550 ms; patches by slicing and one product 125 ms, or as here 128 ms. A net of 8-8
    # channels on MNIST, minibatch 32: these two 8.1 and 8.5 ms, but 2.1 and 1.6 s to compile; with channels last 12.7 ms.
    # On an idle core 88 ms; some images at a time, so that their patches stay in the cache, 69 (8, 16, 32 of them: 73, 69, 81).
    batch = x.shape[-1]
    in_cache = jax.default_backend() != "cpu" or w.shape[1] * x.size * x.dtype.itemsize <= _CACHE
    if in_cache or batch <= _CHUNK or batch % _CHUNK:
        return _conv(x, w, stride)
    chunks = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, _CHUNK), -2, 0)
    products = jax.lax.map(jax.checkpoint(lambda x: _conv(x, w, stride)), chunks)  # patches are cut again, not stored
    return jnp.moveaxis(products, 0, -2).reshape(*products.shape[1:-1], batch)


def _conv(x, w, stride):
    rows, columns, depth, out = w.shape
    height, width, batch = x.shape[1:]
    x = jnp.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + width : stride] for j in range(columns)])
    products = [
        w[i].reshape(columns * depth, out).T @ x[:, i : i + height : stride].reshape(columns * depth, -1)
        for i in range(rows)
    ]
    return sum(products[1:], products[0]).reshape(out, -(-height // stride), -(-width // stride), batch)


def batch_norm(
    x: Float[Array, "channels height width batch"],
    scale: Float[Array, " channels"],
    offset: Float[Array, " channels"],
    epsilon: float = 1e-5,
) -> Float[Array, "channels height width batch"]:
    """Batch normalisation by the statistics of this batch, in training and evaluation alike (Ioffe & Szegedy 2015)."""
    centred = x - jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    variance = jnp.mean(centred**2, axis=(1, 2, 3), keepdims=True)
    scale, offset = (p[:, None, None, None] for p in (scale, offset))
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale) + offset


def max_pool(x: Float[Array, "channels height width batch"]) -> Float[Array, "channels out_height out_width batch"]:
    """Largest of every 2 x 2 square; an odd last row or column is left out."""
    # Not `jnp.max`, whose derivative asks which entries *equal* the result. XLA may recompute them for that, rounded otherwise
    # than the result was: then none does, and the gradient is wrong, or 0 / 0. A comparison always has one winner.
    channels, height, width, batch = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(channels, height // 2, 2, width // 2, 2, batch)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(a, b):
    return jnp.where((a > b) | jnp.isnan(a), a, b)


def start_conv(kernel: int, channels: int, out: int, std: float | None):
    """Filters from N(0, std^2), by default He et al.'s 2 / fan-in, and the parameters of the batch norm that follows."""
    std = math.sqrt(2 / (kernel**2 * channels)) if std is None else std
    return {
        "w": Normal((kernel, kernel, channels, out), std),
        "scale": Normal((out,), mean=1.0),
        "offset": Normal((out,)),
    }


def start_dense(size: int, out: int, std: float | None):
    """Weights from N(0, std^2), by default 2 / fan-in; biases likewise, by default 0."""
    return {"w": Normal((size, out), math.sqrt(2 / size) if std is None else std), "b": Normal((out,), std or 0.0)}


def dense(x: Float[Array, "batch size"], layer) -> Float[Array, "batch out"]:
    """An affine map."""
    return x @ layer["w"] + layer["b"][None]
