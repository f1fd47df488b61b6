"""Layers of the convolutional families, as functions of their parameters.

Images are [groups, channels, height, width, images]: with the images last, slices and elementwise work run over contiguous
memory; in groups (`grouped`), what a layer computes of a group stays in a CPU's cache until the next step of it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.tasks._start import Normal

# Of a group, on a CPU: eight images of CIFAR-10; and with fewer images than this, rows are too short to work along.
_GROUP_PIXELS = 2**13
_LEAST_IMAGES = 4


def grouped(x: Array) -> Array:
    """[batch, height, width, channels] -> [groups, channels, height, width, images], in groups as large as the cache likes."""
    batch, height, width, _ = x.shape
    size = batch
    if jax.default_backend() == "cpu":
        size = max(
            (d for d in range(_LEAST_IMAGES, batch + 1) if batch % d == 0 and d * height * width <= _GROUP_PIXELS),
            default=batch,
        )
    return jnp.transpose(x.reshape(batch // size, size, *x.shape[1:]), (0, 4, 2, 3, 1))


def ungrouped(x: Float[Array, "groups *features images"]) -> Float[Array, "batch _"]:
    """Features of every image, flat, in the order of the batch."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0] * x.shape[-1], -1)


def conv(
    x: Float[Array, "groups channels height width images"],
    w: Float[Array, "rows columns channels out"],
    stride: int = 1,
) -> Float[Array, "groups out out_height out_width images"]:
    """Convolution with zero padding ("SAME"; odd kernels), as a matrix product for every row of the kernel.

    The filters are what is optimized: under `vmap` over tasks and learning rates they carry a batch axis, and XLA turns
    `conv_general_dilated` into a grouped convolution, whose derivative by the filters has no fast path on CPUs. The derivative
    is our own too: in reverse mode, of any order, but `jax.jvp` does not go through.
    """
    # One gradient of the paper's net on CIFAR-10, minibatch 128, one busy core: `conv_general_dilated` 1,750 ms (under
    # `vmap` over four tasks 3,400 ms each); its patches by `conv_general_dilated_patches` 460 ms; a product for every
    # row and column of the kernel 550 ms; patches by slicing and one product 125 ms, or as here 128 ms. A net of 8-8
    # channels on MNIST, minibatch 32: these two 8.1 and 8.5 ms, but 2.1 and 1.6 s to compile; with channels last 12.7 ms.
    # Another day, side by side: the batch as one group 76 ms, groups of 16 and 8 images 64 and 58, and with the derivative
    # below 58 and 52.
    if stride == 1:
        return _conv(x, w)
    return _for_groups(lambda x: _conv_group(x, w, stride), x)


@jax.custom_vjp
def _conv(x, w):
    return _for_groups(lambda x: _conv_group(x, w, 1), x)


def _conv_fwd(x, w):
    return _conv(x, w), (x, w)


def _conv_bwd(residuals, cotangent):
    """By the input, a convolution as well: what autodiff has, sums of shifted arrays, goes through memory many times."""
    x, w = residuals
    _, columns, depth, out = w.shape

    def by_filters(total, group):
        x, cotangent = group
        flat = cotangent.reshape(out, -1)
        products = [row.reshape(columns * depth, -1) @ flat.T for row in _rows(x, w, 1)]
        return total + jnp.stack(products).reshape(w.shape), None

    ct_w, _ = jax.lax.scan(by_filters, jnp.zeros_like(w), (x, cotangent))
    return _conv(cotangent, jnp.flip(w, (0, 1)).swapaxes(2, 3)), ct_w


_conv.defvjp(_conv_fwd, _conv_bwd)


def _for_groups(function, x):
    # Patches are cut again for the derivative, not stored.
    return function(x[0])[None] if len(x) == 1 else jax.lax.map(jax.checkpoint(function), x)


def _conv_group(x, w, stride):
    _, columns, depth, out = w.shape
    patches = _rows(x, w, stride)
    products = [
        filters.reshape(columns * depth, out).T @ row.reshape(columns * depth, -1)
        for filters, row in zip(w, patches, strict=True)
    ]
    return sum(products[1:], products[0]).reshape(out, *patches[0].shape[1:])


def _rows(x, w, stride):
    """What every row of the kernel is multiplied with, of one group: [columns * channels, height, width, images] each."""
    rows, columns, *_ = w.shape
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + width : stride] for j in range(columns)])
    return [x[:, i : i + height : stride] for i in range(rows)]


def batch_norm(
    x: Float[Array, "groups channels height width images"],
    scale: Float[Array, " channels"],
    offset: Float[Array, " channels"],
    epsilon: float = 1e-5,
) -> Float[Array, "groups channels height width images"]:
    """Batch normalisation by the statistics of this batch, in training and evaluation alike (Ioffe & Szegedy 2015)."""
    centred = x - jnp.mean(x, axis=(0, 2, 3, 4), keepdims=True)
    variance = jnp.mean(centred**2, axis=(0, 2, 3, 4), keepdims=True)
    scale, offset = (p[None, :, None, None, None] for p in (scale, offset))
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale) + offset


def max_pool(
    x: Float[Array, "groups channels height width images"],
) -> Float[Array, "groups channels out_height out_width images"]:
    """Largest of every 2 x 2 square; an odd last row or column is left out."""
    # Not `jnp.max`, whose derivative asks which entries *equal* the result. XLA may recompute them for that, rounded otherwise
    # than the result was: then none does, and the gradient is wrong, or 0 / 0. A comparison always has one winner.
    *outer, height, width, images = x.shape
    x = x[:, :, : height // 2 * 2, : width // 2 * 2].reshape(*outer, height // 2, 2, width // 2, 2, images)
    x = _larger(x[:, :, :, 0], x[:, :, :, 1])
    return _larger(x[:, :, :, :, 0], x[:, :, :, :, 1])


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
