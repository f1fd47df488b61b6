r"""A small residual net classifying images (He et al. 2016, "Deep residual learning", section 4.2: the nets for CIFAR-10).

A 3 x 3 convolution, then a stage of `blocks` residual blocks for every number of channels, and average pooling before a
linear map to the classes. A block is $x \mapsto \mathrm{relu}(s(x) + \mathrm{bn}(w_2 * \mathrm{relu}(\mathrm{bn}(w_1 * x))))$;
the first of every stage but the first has stride 2. The shortcut $s$ has no parameters: it subsamples and pads with channels
of zeros (the paper's option A). The loss is the mean cross-entropy of a minibatch, in nats.
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from l2o.core.checks import count, not_negative, sizes
from l2o.core.task import AbstractTask, TaskFamily
from l2o.tasks import _images, _layers, _start
from l2o.tasks._one_task import OneTask

HORIZON = 100


class ResNet(AbstractTask):
    """Cross-entropy of a residual net on minibatches drawn with replacement. Pixels are scaled to [0, 1].

    Params and batch statistics are as in `l2o.tasks.convnet`: `{"conv": [...], "dense": [...]}`, statistics of the batch at hand.
    """

    images: _images.Images
    channels: tuple[int, ...] = eqx.field(static=True)
    blocks: int = eqx.field(static=True)
    init_std: float | None = eqx.field(static=True)

    def init(self, key):
        depths = [self.images.x_train.shape[3], self.channels[0]]
        for channels in self.channels:
            depths += [channels] * (2 * self.blocks)
        return _start.draw(
            key,
            {
                "conv": [
                    _layers.start_conv(3, fan_in, fan_out, self.init_std)
                    for fan_in, fan_out in itertools.pairwise(depths)
                ],
                "dense": [_layers.start_dense(depths[-1], self.images.num_classes, self.init_std)],
            },
        )

    def loss(self, params, key, *, split="train"):
        x, y = self.images.batch(key, split)
        return _images.cross_entropy(self._logits(params, x), y)

    def metrics(self, params, key, *, split="test"):
        return {"accuracy": self.images.accuracy(lambda x: self._logits(params, x), split)}

    def _logits(self, params, x):
        layers = iter(params["conv"])
        x = jax.nn.relu(_conv_bn(x, next(layers)))
        for stage in range(len(self.channels)):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                residual = _conv_bn(jax.nn.relu(_conv_bn(x, next(layers), stride)), next(layers))
                x = jax.nn.relu(_shortcut(x, stride, residual.shape[1]) + residual)
        return _layers.dense(_layers.ungrouped(jnp.mean(x, axis=(2, 3))), params["dense"][0])


def _conv_bn(x, layer, stride=1):
    return _layers.batch_norm(_layers.conv(x, layer["w"], stride), layer["scale"], layer["offset"])


def _shortcut(x, stride, channels):
    x = x[:, :, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, channels - x.shape[1]), (0, 0), (0, 0), (0, 0)))


def family(
    *,
    data: str = "mnist_sample",
    labels: Sequence[int] | None = None,
    downscale: int = 2,
    channels: tuple[int, ...] = (8, 16),
    blocks: int = 1,
    init_std: float | None = None,
    batch_size: int = 32,
    outer_batch_size: int = 256,
) -> TaskFamily:
    """Residual nets on an image set. The defaults make a small one.

    ResNet-20 as He et al. train it on CIFAR-10, but for augmentation, is

    ```python
    family(data="cifar10", downscale=1, channels=(16, 32, 64), blocks=3, batch_size=128)
    ```

    **Arguments:**

    - `data`: a name known to `l2o.data`. - `labels`: only the images of these labels, renumbered in this order.
    - `downscale`: images are averaged over squares of so many pixels.
    - `channels`: of each stage, never fewer than of the stage before. - `blocks`: in each stage; there are
        2 `len(channels)` `blocks` + 2 layers.
    - `init_std`: weights (and the last layer's biases) start from N(0, `init_std`^2); `None` scales weights by
        sqrt(2 / fan-in) (He et al. 2015), biases at 0. Batch norm starts at scale 1, offset 0.
    - `batch_size`: examples a minibatch; `outer_batch_size`: of the independent batches of the "outer" and "test" splits.

    **Raises:** `ValueError` for labels the set does not have, and for channels that decrease.
    """
    if not channels or list(channels) != sorted(channels) or blocks < 1:
        raise ValueError(
            "`channels` must name one stage or more and not decrease (shortcuts only add channels), and `blocks` be at "
            f"least 1, got channels={channels} and blocks={blocks}."
        )
    channels = sizes("channels", channels)
    count("blocks", blocks)
    if init_std is not None:
        not_negative("init_std", init_std)
    images = _images.load(
        data, labels=labels, downscale=downscale, batch_size=batch_size, outer_batch_size=outer_batch_size
    )
    return OneTask(ResNet(images, channels, blocks, init_std))
