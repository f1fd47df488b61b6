"""The panels of Andrychowicz et al. 2016: quadratics, MNIST and its transfers, CIFAR-10 and its subsets, neural art.

Where the paper is silent (how nets start, which labels CIFAR-5 and CIFAR-2 have, the weights of neural art), the choices are
the families' defaults or stand here.
"""

import functools

from l2o.evaluation.panel import Panel
from l2o.tasks import convnet, mlp, quadratic, style

# Section 3.3; `l2o.tasks.convnet.family` has the rest.
CIFAR_NET = {"data": "cifar10", "downscale": 1, "channels": (16, 16, 16), "dense": (32,), "batch_size": 128}


def panels(quick: bool = False) -> dict[str, Panel]:
    """The paper's panels, in its order. Quick: MNIST's sample also stands in for CIFAR-10, and drawn shapes for pictures."""
    return {"quadratic": _quadratic(), **_mnist(quick), **_conv(quick), **_style(quick)}


def _quadratic():
    return Panel(quadratic.family, 100, 200, "Andrychowicz et al. 2016, 3.1: Gaussian quadratics, 10 dimensions")


def _mnist(quick):
    data = "mnist_sample" if quick else "mnist"
    problems = {
        "mnist": ({}, 200, "3.2: 784-20-10, sigmoid"),
        "mnist_40_units": ({"hidden": (40,)}, 100, "3.2: 40 hidden units"),
        "mnist_2_layers": ({"hidden": (20, 20)}, 100, "3.2: two hidden layers; started from N(0, 0.01^2), ours"),
        "mnist_2_layers_fan_in": (
            {"hidden": (20, 20), "init_std": None},
            100,
            "3.2: two hidden layers; weights scaled by 1/sqrt(fan-in), ours",
        ),
        "mnist_relu": ({"activation": "relu"}, 100, "3.2: ReLU"),
    }
    return {
        name: Panel(
            functools.partial(mlp.family, data=data, batch_size=32 if quick else 128, **settings),
            50 if quick else 100,
            run_to // 2 if quick else run_to,
            f"Andrychowicz et al. 2016, {source}",
            window=5 if quick else 10,
            data=(data,),
            metrics_splits=("train", "test"),
        )
        for name, (settings, run_to, source) in problems.items()
    }


def _conv(quick):
    # Which labels are in the subsets, the paper does not say: the first ones.
    problems = {
        "cifar10": (None, "3.3: CIFAR-10, 16-16-16 channels, 32 dense units"),
        "cifar5": ((0, 1, 2, 3, 4), "3.3: CIFAR-5, the first five labels"),
        "cifar2": ((0, 1), "3.3: CIFAR-2, the first two labels"),
    }
    if quick:
        settings = {"data": "mnist_sample", "downscale": 2, "channels": (8,), "dense": (16,), "batch_size": 32}
    else:
        settings = CIFAR_NET
    return {
        name: Panel(
            functools.partial(convnet.family, labels=labels, **settings),
            20 if quick else 1000,
            40 if quick else 1000,
            f"Andrychowicz et al. 2016, {source}" + (" (here of MNIST, 8 channels, 16 dense units)" if quick else ""),
            window=2 if quick else 100,
            batch_size=None if quick else 1,
            data=(settings["data"],),
            metrics_splits=("train", "test"),
        )
        for name, (labels, source) in problems.items()
    }


def _style(quick):
    # (images, style, side); quick ones need no data.
    problems = {
        "style_64": ("synthetic", "synthetic", 16) if quick else ("content_64", "starry_night", 64),
        "style_128": ("synthetic", "synthetic", 32) if quick else ("content_128_eval", "scream", 128),
    }
    horizon = 32 if quick else 128
    return {
        name: Panel(
            functools.partial(
                style.family,
                data=data,
                split="test",
                style=painting,
                size=size,
                features="random" if quick else "vgg16",
            ),
            horizon,
            horizon,
            f"Andrychowicz et al. 2016, 3.4: neural art, {data} at {size} x {size} pixels, style {painting}",
            batch_size=None if quick else 1,
            data=() if quick else (data, "styles", "vgg16"),
        )
        for name, (data, painting, size) in problems.items()
    }
