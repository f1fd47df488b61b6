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

`family` draws contents from a set of pictures, all of one size, to meta-train and compare optimizers on; `between` is the task
of any two pictures.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PRNGKeyArray, UInt8

from l2o.core.checks import counts, not_negative
from l2o.core.task import AbstractTask, TaskFamily, task_key
from l2o.io import data as data_sets
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
    crop: int | None = eqx.field(static=True)
    weights: tuple[float, float, float] = eqx.field(static=True)
    start: str = eqx.field(static=True)

    def __call__(self, key):
        content = (
            _synthetic(key, self.size)
            if self.pictures is None
            else _unit(self.pictures[_which(key, len(self.pictures))])
        )
        if self.crop is not None:
            corner = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, self.size - self.crop + 1)
            content = jax.lax.dynamic_slice(content, (*corner, 0), (self.crop, self.crop, 3))
        # Computed with the task, not in its loss: a loop over steps does it once.
        targets = self.features(content, self.content_layers)
        return Style(self.features, content, targets, self.style_targets, self.weights, self.start)


def _which(key, num):
    """The index of the picture that a key draws."""
    return jax.random.randint(key, (), 0, num)


def family(
    *,
    data: str = "synthetic",
    split: str = "train",
    style: str = "synthetic",
    size: int = 16,
    crop: int | None = None,
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
    - `split`: which of its pictures are drawn: "train", "val" or "test".
    - `size`: of the pictures, [size, size, 3].
    - `crop`: paint windows of [crop, crop, 3], cut from the pictures at random: a cheaper problem of the same kind, to
        meta-train on. The loss is multiplied by (crop / size)^2, so that a pixel's gradient is as large as in a whole picture.
    - `style`: "synthetic", stripes, or a painting for `l2o.data.load_style`: "starry_night", "scream", "composition_vii".
    - `features`: "vgg16", or "random": a small net of its kind with random weights, always the same. Style transfer works
        with random weights too (He, Wang & Hopcroft 2016).
    - `content_layers`, `style_layers`: default Gatys et al.'s, for "vgg16" conv4_2 and conv1_1, conv2_1, ..., conv5_1. Layers
        above the deepest one are not computed.
    - `content_weight`, `style_weight`, `variation_weight`: $\alpha$, $\beta$, $\gamma$. Their common factor matters to
        SGD alone: with 10, its best rate is near 1 at 64 x 64 pixels.
    - `start`: "content", the content image, or "noise", N(0.5, 0.1^2) for every value.

    **Raises:** `ValueError` for a name that does not exist, a size or weight out of its range, pictures of another size, or
    images too small for the layers;
    `FileNotFoundError` saying where a file was looked for.
    """
    _check_start(start)
    counts(size=size)
    for name, weight in (("content", content_weight), ("style", style_weight), ("variation", variation_weight)):
        not_negative(f"{name}_weight", weight)
    net, content_layers, style_layers = _network(features, content_layers, style_layers)
    if crop is not None and not 0 < crop <= size:
        raise ValueError(f"`crop` must be from 1 to the size of the pictures, got crop={crop} and size={size}.")
    _check_size((crop or size,), content_layers + style_layers)
    picture = None if style == "synthetic" else jnp.asarray(data_sets.load_style(style, size))
    targets = _style_targets(net, picture, style_layers, size)
    pictures = None if data == "synthetic" else _pictures(data, split, size)
    scale = 1.0 if crop is None else (crop / size) ** 2
    weights = (scale * content_weight, scale * style_weight, scale * variation_weight)
    return _Family(net, pictures, targets, content_layers, size, crop, weights, start)


def between(
    content: ArrayLike,
    style: ArrayLike,
    *,
    features: str = "vgg16",
    content_layers: Sequence[str] | None = None,
    style_layers: Sequence[str] | None = None,
    content_weight: float = 10.0,
    style_weight: float = 10.0,
    variation_weight: float = 10.0,
    start: str = "content",
) -> Style:
    """The task of painting one picture in the style of another; they may be of any two sizes.

    Pictures are RGB, [height, width, 3]: uint8 from 0 to 255, or floats from 0 to 1. The result has the content's size. A Gram
    matrix has no positions, so the style's size only sets how large its strokes become; Gatys et al. take pictures of equal size.

    ```python
    task = between(photo, painting)
    optimizer = l2o.load("lstm-mnist")
    key = jax.random.key(0)
    state, losses = l2o.unroll(task, optimizer, l2o.start(task, optimizer, key), key, length=128)
    painted = task.image(state.params)
    ```

    **Arguments:** as `family`'s.

    **Raises:** `ValueError` for arrays that are no pictures or are too small for the layers, and for a name that does not exist;
    `FileNotFoundError` saying where VGG-16's weights were looked for.
    """
    _check_start(start)
    photo, painting = _picture("content", content), _picture("style", style)
    net, content_layers, style_layers = _network(features, content_layers, style_layers)
    for picture in (photo, painting):
        _check_size(picture.shape[:2], content_layers + style_layers)
    content_targets, style_targets = _targets(net, photo, painting, content_layers, style_layers)
    weights = (content_weight, style_weight, variation_weight)
    return Style(net, photo, content_targets, style_targets, weights, start)


def each_picture(family: TaskFamily, key: PRNGKeyArray) -> Key[Array, " num_pictures"]:
    """Keys of runs in which each picture of `family` is painted once, in the set's order: to report on a whole test set.

    ```python
    pictures = family(data="content_64", split="test", style="starry_night", size=64, features="vgg16")
    test_keys = each_picture(pictures, jax.random.key(0))  # 100, for `l2o.compare`
    ```

    **Raises:** `ValueError` for a family that is not one of `family`, or has no set of pictures ("synthetic").
    """
    if not isinstance(family, _Family) or family.pictures is None:
        raise ValueError("`each_picture` needs a family of `l2o.tasks.style.family` with a set of pictures, `data`.")
    num, keys = len(family.pictures), jax.random.split(key, 0)
    while True:  # some num * log(num) draws see them all; hardly ever is a second round needed
        keys = jnp.concatenate([keys, jax.random.split(jax.random.fold_in(key, len(keys)), 20 * num)])
        found, first = np.unique(jax.vmap(lambda key: _which(task_key(key), num))(keys), return_index=True)
        if len(found) == num:
            return keys[first]


def least_size(features: str = "vgg16") -> int:
    """The side in pixels of one position of the deepest default layer: an image's least size.

    Sides that are multiples of it leave no pixels over at the edges when features are pooled.

    **Raises:** `ValueError` for features that do not exist.
    """
    return _vgg.stride(sum(_vgg.default_layers(features), ()))


def _check_start(start):
    if start not in STARTS:
        raise ValueError(f"No start named {start!r}. Starts: {', '.join(STARTS)}.")


def _network(features, content_layers, style_layers):
    defaults = _vgg.default_layers(features)
    content_layers = tuple(defaults[0] if content_layers is None else content_layers)
    style_layers = tuple(defaults[1] if style_layers is None else style_layers)
    return _vgg.load(features, content_layers + style_layers), content_layers, style_layers


def _check_size(sides, layers):
    if min(sides) < _vgg.stride(layers):
        size = " x ".join(map(str, sides))
        raise ValueError(
            f"Images of {size} pixels are too small for layer {max(layers)}, which needs {_vgg.stride(layers)} a side."
        )


def _picture(name, x):
    x = jnp.asarray(x)
    if x.ndim != 3 or x.shape[-1] != 3 or not (x.dtype == jnp.uint8 or jnp.issubdtype(x.dtype, jnp.floating)):
        raise ValueError(
            f"`{name}` must be an RGB picture, [height, width, 3], uint8 or floats in [0, 1]; got {x.dtype} {list(x.shape)}."
        )
    return _unit(x) if x.dtype == jnp.uint8 else x.astype(jnp.result_type(float))


@eqx.filter_jit
def _targets(net, content, style, content_layers, style_layers) -> tuple[dict[str, Array], dict[str, Array]]:
    return net(content, content_layers), {layer: _gram(x) for layer, x in net(style, style_layers).items()}


@eqx.filter_jit  # one program: operation by operation it takes seconds to compile
def _style_targets(net, picture, layers, size):
    picture = _synthetic_style(size) if picture is None else _unit(picture)
    return {layer: _gram(x) for layer, x in net(picture, layers).items()}


def _pictures(data, split, size):
    splits = data_sets.load_pictures(data)
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
