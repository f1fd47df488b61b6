"""Image classifiers: perceptrons, convolutional nets and a small ResNet, each on MNIST, Fashion-MNIST, CIFAR-10 and smiles."""

import functools

from l2o.evaluation.panel import Panel
from l2o.tasks import convnet, mlp, resnet

DATA = ("mnist", "fashion_mnist", "cifar10", "smile")

_MLP = "784-32-10 or alike, ReLU, fan-in scaled start (ours)"
_CONVNET = "the convolutional net of Andrychowicz et al. 2016, 3.3"
_RESNET = "ResNet-8: He et al. 2016, 4.2, one block a stage"


def panels(quick: bool = False) -> dict[str, Panel]:
    """A panel for every net and data set. Quick: smaller nets, on MNIST's sample only."""
    if quick:
        nets = {
            "mlp": (mlp.family, {"hidden": (32,), "activation": "relu", "init_std": None}, 50, _MLP),
            "convnet": (convnet.family, {}, 20, _CONVNET + ", made smaller"),
            "resnet": (resnet.family, {}, 20, _RESNET + ", made smaller"),
        }
        return {f"{net}_mnist": _panel("mnist_sample", *what, batch_size=32) for net, what in nets.items()}
    conv = {"downscale": 1, "channels": (16, 16, 16), "dense": (32,)}
    nets = {
        "mlp": (mlp.family, {"hidden": (32,), "activation": "relu", "init_std": None}, 500, _MLP),
        "convnet": (convnet.family, conv, 500, _CONVNET),
        "resnet": (resnet.family, {"downscale": 1, "channels": (16, 32, 64)}, 500, _RESNET),
    }
    return {f"{net}_{data}": _panel(data, *what, batch_size=128) for net, what in nets.items() for data in DATA}


def _panel(data, family, settings, horizon, source, *, batch_size):
    return Panel(
        functools.partial(family, data=data, batch_size=batch_size, **settings),
        horizon,
        2 * horizon,
        f"{source}; {data}",
        window=horizon // 10,
        batch_size=None if family is mlp.family else 1,
        data=(data,),
    )
