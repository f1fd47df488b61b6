"""Features of images: VGG-16, cut off above the deepest layer asked for, and a small net of its kind with random weights."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import l2o.data

# Convolutions of each stage; convS_I is the Ith of stage S, and stages are separated by pooling.
_VGG16 = (2, 2, 3, 3, 3)
_RANDOM = (16, 32, 64)  # channels of the random net's stages, one convolution each

_MEAN_BGR = (103.939, 116.779, 123.68)


class Features(eqx.Module):
    """Convolutions 3 x 3 with ReLU in stages, separated by average pooling; layers are named conv1_1, conv1_2, conv2_1, ...

    Average pooling, as Gatys et al. prefer to the maximum that VGG was trained with: the gradient reaches every pixel.
    """

    weights: list[list[tuple[Float[Array, "3 3 _ _"], Float[Array, " _"]]]]  # [stage][layer]: filters, biases
    scale: float = eqx.field(static=True)  # of the pixels
    mean: tuple[float, float, float] = eqx.field(static=True)  # of the pixels, after scaling; blue, green, red

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
        return found


def load(name: str, layers: Sequence[str]) -> Features:
    """The features named "vgg16" or "random", up to the deepest of `layers`.

    **Raises:** `ValueError` for other features or layers; `FileNotFoundError` saying where VGG-16's weights were looked for.
    """
    if name not in DEFAULT_LAYERS:
        raise ValueError(f"No features named {name!r}. Features: {', '.join(DEFAULT_LAYERS)}.")
    counts = _VGG16 if name == "vgg16" else [1] * len(_RANDOM)
    known = [f"conv{s}_{i}" for s, count in enumerate(counts, start=1) for i in range(1, count + 1)]
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not layers:
        raise ValueError(f"Layers of {name} are {', '.join(known)}; got {', '.join(unknown) or 'none'}.")
    kept = known[: 1 + max(known.index(layer) for layer in layers)]
    weights = _vgg16_weights(kept) if name == "vgg16" else _random_weights(kept)
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


def _vgg16_weights(layers):
    arrays = l2o.data.load_vgg16()
    return {
        layer: (
            jnp.asarray(arrays[f"{layer}.weight"].transpose(2, 3, 1, 0)),  # OIHW -> HWIO
            jnp.asarray(arrays[f"{layer}.bias"]),
        )
        for layer in layers
    }


def _random_weights(layers):
    # He et al.'s initialisation, always the same.
    keys = jax.random.split(jax.random.key(0), len(layers))
    depths = (3, *_RANDOM)
    return {
        layer: (math.sqrt(2 / (9 * depth)) * jax.random.normal(key, (3, 3, depth, out)), jnp.zeros(out))
        for key, layer, depth, out in zip(keys, layers, depths[:-1], depths[1:], strict=False)
    }


def _conv(x, w):
    # As one matrix product over patches. One gradient of neural art at 64 x 64 on one busy core, inside a scan, where XLA's
    # convolutions on CPUs are slow: 74 ms, with `conv_general_dilated` 207 ms (four tasks under `vmap`: 75 and 188 ms each).
    # Unlike in `_layers`, the weights are shared by all tasks, and there are channels enough to keep them last.
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, axis=-1) @ w.reshape(-1, w.shape[-1])


def _average_pool(x):
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, axis=(2, 4))
