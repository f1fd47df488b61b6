"""Features of images: VGG-16, cut off above the deepest layer asked for, and a small net of its kind with random weights."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.io import data as data_sets

# Convolutions of each stage; convS_I is the Ith of stage S, and stages are separated by pooling.
_VGG16 = (2, 2, 3, 3, 3)
_RANDOM = (16, 32, 64)  # channels of the random net's stages, one convolution each

_WINOGRAD_FROM = 64  # channels, in and out

_MEAN_BGR = (103.939, 116.779, 123.68)


class Features(eqx.Module):
    """Convolutions 3 x 3 with ReLU in stages, separated by average pooling; layers are named conv1_1, conv1_2, conv2_1, ...

    Average pooling, as Gatys et al. prefer to the maximum that VGG was trained with: the gradient reaches every pixel.
    """

    weights: list[
        list[tuple[Float[Array, "n n _ _"], Float[Array, " _"]]]
    ]  # [stage][layer]: filters (see `_conv`), biases
    scale: float = eqx.field(static=True)  # of the pixels
    mean: tuple[float, float, float] = eqx.field(static=True)  # of the pixels, after scaling; blue, green, red

    @jax.named_scope("features")  # in profiles and in benchmarks/style_memory.py
    def __call__(
        self, pixels: Float[Array, "height width 3"], layers: Sequence[str]
    ) -> dict[str, Float[Array, "_ _ _"]]:
        """Activations of `layers` for an RGB image in [0, 1]."""
        x = (self.scale * pixels[..., ::-1] - jnp.asarray(self.mean, pixels.dtype)[None, None])[None]
        found = {}
        for s, stage in enumerate(self.weights, start=1):
            if s > 1:
                x = _average_pool(x)
            for i, (w, b) in enumerate(stage, start=1):
                x = jax.nn.relu(_conv(x, w) + b[None, None, None])
                if (name := f"conv{s}_{i}") in layers:
                    found[name] = x[0]
                if len(found) == len(set(layers)):
                    return found
        raise ValueError(f"This network has no layers {', '.join(sorted(set(layers) - set(found)))}.")


def load(name: str, layers: Sequence[str]) -> Features:
    """The features named "vgg16" or "random", up to the deepest of `layers`.

    **Raises:** `ValueError` for other features or layers; `FileNotFoundError` saying where VGG-16's weights were looked for.
    """
    default_layers(name)
    counts = _VGG16 if name == "vgg16" else [1] * len(_RANDOM)
    known = [f"conv{s}_{i}" for s, count in enumerate(counts, start=1) for i in range(1, count + 1)]
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not layers:
        raise ValueError(f"Layers of {name} are {', '.join(known)}; got {', '.join(unknown) or 'none'}.")
    kept = known[: 1 + max(known.index(layer) for layer in layers)]
    weights: dict[str, tuple[Any, Array]] = _vgg16_weights(kept) if name == "vgg16" else _random_weights(kept)
    stages = [[weights[layer] for layer in kept if layer[4] == s] for s in dict.fromkeys(layer[4] for layer in kept)]
    if name == "vgg16":
        return Features(stages, 255.0, _MEAN_BGR)
    return Features(stages, 1.0, (0.5, 0.5, 0.5))


# Gatys et al. take conv4_2 for the content and the first layer of every stage for the style, of VGG-19; in VGG-16 the
# layers of these names do the same, though stages 3 to 5 have three convolutions instead of four.
DEFAULT_LAYERS = {
    "vgg16": (("conv4_2",), ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")),
    "random": (("conv2_1",), ("conv1_1", "conv2_1", "conv3_1")),
}


def default_layers(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers of the content and of the style.

    **Raises:** `ValueError` naming the features there are.
    """
    if name not in DEFAULT_LAYERS:
        raise ValueError(f"No features named {name!r}. Features: {', '.join(DEFAULT_LAYERS)}.")
    return DEFAULT_LAYERS[name]


def stride(layers: Sequence[str]) -> int:
    """Pixels from one position of the deepest of `layers` to the next."""
    return 2 ** max(int(layer[4]) - 1 for layer in layers)


def _vgg16_weights(layers):
    arrays = data_sets.load_vgg16()
    filters = {layer: jnp.asarray(arrays[f"{layer}.weight"].transpose(2, 3, 1, 0)) for layer in layers}  # OIHW -> HWIO
    # Few channels make small products, which the sums of Winograd's tiles would outweigh.
    filters = {k: _winograd_filters(w) if min(w.shape[2:]) >= _WINOGRAD_FROM else w for k, w in filters.items()}
    return {layer: (filters[layer], jnp.asarray(arrays[f"{layer}.bias"])) for layer in layers}


def _random_weights(layers):
    # He et al.'s initialisation, always the same.
    keys = jax.random.split(jax.random.key(0), len(layers))
    depths = (3, *_RANDOM)
    return {
        layer: (math.sqrt(2 / (9 * depth)) * jax.random.normal(key, (3, 3, depth, out)), jnp.zeros(out))
        for key, layer, depth, out in zip(keys, layers, depths[:-1], depths[1:], strict=False)
    }


def _conv(x, w):
    if isinstance(w, list):
        return _winograd(x, w)
    # As one matrix product over patches, or in Winograd's tiles: XLA's own convolutions on CPUs are slow inside a scan. A
    # gradient of neural art at 64 x 64 pixels on one busy core takes 207 ms with them, 71 ms with patches and 48 ms with
    # tiles; of four tasks under `vmap` 188, 71 and 38 ms each.
    # Unlike in `_layers`, the weights are shared by all tasks, and there are channels enough to keep them last.
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, axis=-1) @ w.reshape(-1, w.shape[-1])


# Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(2 x 2, 3 x 3): outputs in tiles of 2 x 2, each of
# 16 products where its definition has 36, and sums. In float32 it is as near to the exact convolution as the definition.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_FILTER = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def _combine(matrix, parts) -> list[Any]:
    """The matrix times a list of arrays."""
    return [sum(c * part for c, part in zip(row, parts, strict=True) if c) for row in matrix]


def _winograd_filters(w):
    """[3, 3, in, out] -> 4 lists of 4 matrices [in, out]; once for a network."""
    return [_combine(_FILTER, row) for row in _combine(_FILTER, w)]


@jax.custom_vjp
def _winograd(x, w):
    batch, height, width, _ = x.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of tiles
    x = jnp.pad(x, ((0, 0), (1, 1 + 2 * rows - height), (1, 1 + 2 * columns - width), (0, 0)))
    bands = _combine(_INPUT, [x[:, i : i + 2 * rows : 2] for i in range(4)])
    tiles = [_combine(_INPUT, [band[:, :, j : j + 2 * columns : 2] for j in range(4)]) for band in bands]
    products = [[tiles[i][j] @ w[i][j] for j in range(4)] for i in range(4)]
    halves = [_combine(_OUTPUT, row) for row in products]
    outputs = [_combine(_OUTPUT, column) for column in zip(*halves, strict=True)]  # [column][row] of a tile
    whole = jnp.stack([jnp.stack(row, axis=3) for row in zip(*outputs, strict=True)], axis=2)
    return whole.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _winograd_fwd(x, w):
    return _winograd(x, w), w


def _winograd_bwd(w, cotangent):
    # A convolution again, with the filters turned by 180 degrees, which swaps the first and the last of the four. Left to
    # itself, autodiff would spread every tile out in an array of the image's size. The network is constant: no gradient.
    turned = (3, 1, 2, 0)
    return _winograd(cotangent, [[w[i][j].T for j in turned] for i in turned]), None


_winograd.defvjp(_winograd_fwd, _winograd_bwd)


def _average_pool(x):
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, axis=(2, 4))
