r"""A small convolutional net classifying images (Andrychowicz et al. 2016, section 3.3: CIFAR-10, 16-16-16 channels).

Blocks $x \mapsto \mathrm{relu}(\mathrm{pool}(\mathrm{bn}(w * x)))$ with a 5 x 5 convolution, batch norm and 2 x 2
max-pooling, then dense layers with ReLU and a linear map to the classes. The loss is the mean cross-entropy of a
minibatch, in nats.
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax

from l2o.core.checks import count, not_negative, sizes
from l2o.core.task import AbstractTask, TaskFamily
from l2o.tasks import _images, _layers, _start
from l2o.tasks._one_task import OneTask

HORIZON = 100


class ConvNet(AbstractTask):
    """Cross-entropy of a convolutional net on minibatches drawn with replacement. Pixels are scaled to [0, 1].

    The params are `{"conv": [...], "dense": [...]}`, so an optimizer can treat the two kinds apart, as the paper's does.
    Batch norm uses the statistics of the batch at hand everywhere: of the minibatch in the loss, of chunks of about 500
    examples in the accuracy. (There are no running averages: they would be state that the loss is not a function of.)
    """

    images: _images.Images
    channels: tuple[int, ...] = eqx.field(static=True)
    dense: tuple[int, ...] = eqx.field(static=True)
    kernel: int = eqx.field(static=True)
    init_std: float | None = eqx.field(static=True)

    def init(self, key):
        height, width, depth = self.images.x_train.shape[1:]
        shrink = 2 ** len(self.channels)
        flat = (height // shrink) * (width // shrink) * (self.channels[-1] if self.channels else depth)
        sizes = (flat, *self.dense, self.images.num_classes)
        return _start.draw(
            key,
            {
                "conv": [
                    _layers.start_conv(self.kernel, fan_in, fan_out, self.init_std)
                    for fan_in, fan_out in itertools.pairwise((depth, *self.channels))
                ],
                "dense": [
                    _layers.start_dense(fan_in, fan_out, self.init_std) for fan_in, fan_out in itertools.pairwise(sizes)
                ],
            },
        )

    def loss(self, params, key, *, split="train"):
        x, y = self.images.batch(key, split)
        return _images.cross_entropy(_logits(params, x), y)

    def metrics(self, params, key, *, split="test"):
        return {"accuracy": self.images.accuracy(lambda x: _logits(params, x), split)}


def _logits(params, x):
    for layer in params["conv"]:
        x = _layers.batch_norm(_layers.conv(x, layer["w"]), layer["scale"], layer["offset"])
        x = jax.nn.relu(_layers.max_pool(x))  # the two commute, and this way ReLU has a quarter of the work
    x = _layers.ungrouped(x)
    for layer in params["dense"][:-1]:
        x = jax.nn.relu(_layers.dense(x, layer))
    return _layers.dense(x, params["dense"][-1])


def family(
    *,
    data: str = "mnist_sample",
    labels: Sequence[int] | None = None,
    downscale: int = 2,
    channels: tuple[int, ...] = (8, 8),
    dense: tuple[int, ...] = (16,),
    kernel: int = 5,
    init_std: float | None = None,
    batch_size: int = 32,
    outer_batch_size: int = 256,
) -> TaskFamily:
    """Convolutional nets on an image set. The defaults make a small one.

    The paper's is

    ```python
    family(data="cifar10", downscale=1, channels=(16, 16, 16), dense=(32,), batch_size=128)
    ```

    **Arguments:**

    - `data`: a name known to `l2o.data`. - `labels`: only the images of these labels, renumbered in this order: CIFAR-5 is
        `labels=(0, 1, 2, 3, 4)`, what is held out from it `(5, 6, 7, 8, 9)`.
    - `downscale`: images are averaged over squares of so many pixels.
    - `channels`: of each block. - `dense`: units of each hidden dense layer. - `kernel`: side of the filters, odd.
    - `init_std`: `None` scales weights by sqrt(2 / fan-in) (He et al. 2015), biases at 0; a number starts both from
        N(0, `init_std`^2): 0.01 in the authors' public code, with which the loss stays at its start for tens of steps. (The
        paper does not say.) Batch norm starts at scale 1, offset 0.
    - `batch_size`: examples a minibatch; `outer_batch_size`: of the independent batches of the "outer" and "test" splits.

    **Raises:** `ValueError` for sizes that are not positive whole numbers, labels the set does not have, an even kernel,
    or more blocks than the images can be halved.
    """
    channels, dense = sizes("channels", channels), sizes("dense", dense, may_be_empty=True)
    count("kernel", kernel)
    if init_std is not None:
        not_negative("init_std", init_std)
    images = _images.load(
        data, labels=labels, downscale=downscale, batch_size=batch_size, outer_batch_size=outer_batch_size
    )
    side = min(images.x_train.shape[1:3])
    if side < 2 ** len(channels):
        raise ValueError(f"Images {side} pixels wide cannot be halved once for each of `channels`, {channels}.")
    if kernel % 2 == 0:
        raise ValueError(f"`kernel` must be odd, so that the padding is the same on both sides, got {kernel}.")
    return OneTask(ConvNet(images, channels, dense, kernel, init_std))
