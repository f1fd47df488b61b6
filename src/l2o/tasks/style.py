r"""Neural art: the pixels of an image, optimized to show one picture's content in another's style.

$$f(\theta) = \alpha \frac{1}{|C|} \sum_{l \in C} \frac{\lVert F_l(\theta) - F_l(c) \rVert^2}{\lVert F_l(c) \rVert^2}
+ \beta \frac{1}{|S|} \sum_{l \in S} \frac{\lVert G_l(\theta) - G_l(s) \rVert^2}{\lVert G_l(s) \rVert^2}
+ \gamma\, \mathrm{TV}(\theta)$$

with the features $F_l$ of a network's layer $l$, their Gram matrices $G_l = F_l^\top F_l / (\text{positions})$ over channels, a
content image $c$, a style image $s$, and the total variation TV: the mean squared difference of neighbouring pixels, down
plus across. (Gatys, Ecker & Bethge 2015; as a learned optimizer's problem, Andrychowicz et al. 2016, section 3.4, who
neither give the weights nor the form of the regulariser.) Gatys et al. divide by constants, 2 and $4 N_l^2 M_l^2$, where we
divide by the targets' norms: layers then count alike whatever the scale of a network's activations, so that its weights
need no rescaling and one choice of $\alpha, \beta, \gamma$ serves for all networks.

$\theta$ is in units of the range of a pixel: 0 is black and 1 is white. It may leave [0, 1]; `image` clips it.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

import l2o.data
from l2o._task import AbstractTask, TaskFamily
from l2o.tasks import _vgg

HORIZON = 128

STARTS = ("content", "noise")


class Style(AbstractTask):
    """One content image, to be painted in the family's style. There are no minibatches: the loss ignores its key."""

    features: _vgg.Features
    content: Float[Array, "height width 3"]
    content_targets: dict[str, Float[Array, "_ _ _"]]  # by layer: [rows, columns, channels]
    style_targets: dict[str, Float[Array, "_ _"]]  # by layer: [channels, channels]
    weights: tuple[float, float, float] = eqx.field(static=True)
    start: str = eqx.field(static=True)

    def init(self, key):
        if self.start == "content":
            return self.content
        return 0.5 + 0.1 * jax.random.normal(key, self.content.shape, self.content.dtype)

    def loss(self, params, key, *, split="train"):
        content, style, variation = self._terms(params)
        alpha, beta, gamma = self.weights
        return alpha * content + beta * style + gamma * variation

    def metrics(self, params, key, *, split="test"):
        """The three terms, unweighted."""
        content, style, variation = self._terms(params)
        return {"content": content, "style": style, "variation": variation}

    def image(self, params):
        return jnp.clip(params, 0, 1)

    def _terms(self, params):
        found = self.features(params, [*self.content_targets, *self.style_targets])
        content = [_relative_error(found[layer], target) for layer, target in self.content_targets.items()]
        style = [_relative_error(_gram(found[layer]), target) for layer, target in self.style_targets.items()]
        variation = jnp.mean(jnp.diff(params, axis=0) ** 2) + jnp.mean(jnp.diff(params, axis=1) ** 2)
        return jnp.mean(jnp.stack(content)), jnp.mean(jnp.stack(style)), variation


def _relative_error(x, target):
    # A layer that is silent on the target would divide by 0; no target of a real picture is.
    return jnp.sum((x - target) ** 2) / jnp.sum(target**2)


def _gram(x):
    flat = x.reshape(-1, x.shape[-1])
    return flat.T @ flat / len(flat)


class _Family(eqx.Module):
    """Holds the pictures, the network and the style's targets once; a task adds a content image, drawn by the key."""

    features: _vgg.Features
    pictures: UInt8[Array, "num height width 3"] | None
    style_targets: dict[str, Float[Array, "_ _"]]  # by layer: [channels, channels]
    content_layers: tuple[str, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)
    weights: tuple[float, float, float] = eqx.field(static=True)
    start: str = eqx.field(static=True)

    def __call__(self, key):
        if self.pictures is None:
            content = _synthetic(key, self.size)
        else:
            content = _unit(self.pictures[jax.random.randint(key, (), 0, len(self.pictures))])
        # Computed with the task, not in its loss: a loop over steps does it once.
        targets = self.features(content, self.content_layers)
        return Style(self.features, content, targets, self.style_targets, self.weights, self.start)


def family(
    *,
    data: str = "synthetic",
    split: str = "train",
    style: str = "synthetic",
    size: int = 16,
    features: str = "random",
    content_layers: Sequence[str] | None = None,
    style_layers: Sequence[str] | None = None,
    content_weight: float = 10.0,
    style_weight: float = 10.0,
    variation_weight: float = 10.0,
    start: str = "content",
) -> TaskFamily:
    r"""Neural art on the pictures of one set, in one style. The defaults make a small problem that needs no data.

    The paper's is

    ```python
    family(data="content_64", style="starry_night", size=64, features="vgg16")
    ```

    **Arguments:**

    - `data`: "synthetic", discs of random colours, or the name of a file of pictures for `l2o.data.load_pictures`.
    - `split`: which of its pictures are drawn: "train", "val" or "test". - `size`: of the images, [size, size, 3].
    - `style`: "synthetic", stripes, or a painting for `l2o.data.load_style`: "starry_night", "scream", "composition_vii".
    - `features`: "vgg16", or "random": a small net of its kind with random weights, always the same. Style transfer works
        with random weights too (He, Wang & Hopcroft 2016).
    - `content_layers`, `style_layers`: default Gatys et al.'s, for "vgg16" conv4_2 and conv1_1, conv2_1, ..., conv5_1. Layers
        above the deepest one are not computed.
    - `content_weight`, `style_weight`, `variation_weight`: $\alpha$, $\beta$, $\gamma$. Their common factor matters to
        SGD alone: with 10, its best rate is near 1 at 64 x 64 pixels.
    - `start`: "content", the content image, or "noise", N(0.5, 0.1^2) for every value.

    **Raises:** `ValueError` for a name that does not exist, pictures of another size, or images too small for the layers;
    `FileNotFoundError` saying where a file was looked for.
    """
    if start not in STARTS:
        raise ValueError(f"No start named {start!r}. Starts: {', '.join(STARTS)}.")
    default_content, default_style = _vgg.DEFAULT_LAYERS.get(features, ((), ()))
    content_layers = tuple(default_content if content_layers is None else content_layers)
    style_layers = tuple(default_style if style_layers is None else style_layers)
    net = _vgg.load(features, content_layers + style_layers)
    if size < 2 ** (len(net.weights) - 1):
        raise ValueError(f"Images of {size} pixels are too small for layer {max(content_layers + style_layers)}.")
    picture = None if style == "synthetic" else jnp.asarray(l2o.data.load_style(style, size))
    targets = _style_targets(net, picture, style_layers, size)
    pictures = None if data == "synthetic" else _pictures(data, split, size)
    weights = (content_weight, style_weight, variation_weight)
    return _Family(net, pictures, targets, content_layers, size, weights, start)


@eqx.filter_jit  # one program: operation by operation it takes seconds to compile
def _style_targets(net, picture, layers, size):
    picture = _synthetic_style(size) if picture is None else _unit(picture)
    return {layer: _gram(x) for layer, x in net(picture, layers).items()}


def _pictures(data, split, size):
    splits = l2o.data.load_pictures(data)
    if getattr(splits, split, None) is None:
        there = [name for name, value in splits._asdict().items() if value is not None]
        raise ValueError(f"{data} has no split {split!r}. It has: {', '.join(there)}.")
    pictures = getattr(splits, split)
    if pictures.shape[1:3] != (size, size):
        raise ValueError(f"`size` must be that of the pictures: {data} has {pictures.shape[1:3]}, got size={size}.")
    return jnp.asarray(pictures)


def _unit(x):
    return x.astype(jnp.result_type(float)) / 255


def _grid(size):
    position = (jnp.arange(size) + 0.5) / size
    return jnp.meshgrid(position, position, indexing="ij")


def _synthetic(key, size, num_discs=6):
    """Discs of random places, sizes and colours, one over the other."""
    y, x = _grid(size)
    canvas_key, disc_key = jax.random.split(key)
    canvas = jnp.broadcast_to(jax.random.uniform(canvas_key, (1, 1, 3)), (size, size, 3))
    row, column, radius, *colour = jax.random.uniform(disc_key, (6, num_discs))
    for i in range(num_discs):
        distance = jnp.sqrt((y - row[i]) ** 2 + (x - column[i]) ** 2)
        inside = jax.nn.sigmoid((0.1 + 0.25 * radius[i] - distance) * size)[..., None]  # edges one pixel wide
        canvas = canvas + inside * (jnp.stack([c[i] for c in colour])[None, None] - canvas)
    return canvas


def _synthetic_style(size):
    """Wavy diagonal stripes, dark blue to yellow, about eight pixels apart."""
    y, x = _grid(size)
    wave = 0.5 + 0.5 * jnp.sin(2 * jnp.pi * size / 8 * (x + y + 0.1 * jnp.sin(8 * jnp.pi * x)))[..., None]
    blue, yellow = (jnp.array(c)[None, None] for c in ((0.1, 0.2, 0.5), (0.95, 0.85, 0.3)))
    return blue + wave * (yellow - blue)
