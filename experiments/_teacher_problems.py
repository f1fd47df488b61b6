"""What `search_teacher.py` searches for: rules, where their constants start, and the nets that they are judged on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cifar
import jax.numpy as jnp
import numpy as np
import optax
import style
import train_mnist
import train_mnist_mixture
import train_mnist_pair
from _teacher import between, by_annealing, momentum, together
from train_mnist import blurred

import l2o
from l2o.tasks import convnet, mlp, quadratic
from l2o.tasks import style as style_task

KNOTS = tuple(train_mnist_pair.RATES["hidden"])
Constants = Mapping[str, Mapping[str, Any]]


class Net(NamedTuple):
    """What a rule is run on, and what its losses weigh."""

    family: l2o.TaskFamily
    weights: Mapping[int, float]  # of the logarithm of the loss at this step


class Problem(NamedTuple):
    """A rule that is looked for."""

    nets: Callable[[bool], dict[str, Net]]  # whether quick
    build: Callable[[Constants], optax.GradientTransformation]
    start: Constants
    used: Callable[[], optax.GradientTransformation] | None  # what stands in the train script
    window: int  # losses are means over so many last steps
    num_populations: int
    num_seeds: int = 4  # of each net, for each population
    num_fresh: int = 40  # of each net, on which the result is reported


def by_knots(constants: Constants) -> optax.GradientTransformation:
    """A rule for each group, rates through `KNOTS`."""

    def rule(rates, **others):
        return momentum(between(KNOTS, jnp.log(rates)), **others)

    return together({group: rule(**found) for group, found in constants.items()})


def flat(rates, **others):
    """Constants of a rule by knots whose rate is constant."""
    return {"rates": np.full(len(KNOTS), rates), **others}


def as_constants(module):
    """Those of a train script."""
    return {g: {"rates": np.array([*r.values()]), **module.OTHERS[g]} for g, r in module.RATES.items()}


def _mnist(quick, nets, weights):
    families = [blurred(mlp.family(data="mnist_sample" if quick else "mnist", **net)) for net in nets]
    return {str(net or "base"): Net(f, w) for net, f, w in zip(nets, families, weights, strict=True)}


def _base(quick):
    return _mnist(quick, [{}], [{100: 1.0, 200: 1.0}])


def _four(quick):
    weights = [{100: 1.5, 200: 1.2}, {100: 1.0, 200: 0.3}, {100: 0.4}, {100: 0.6}]
    return _mnist(quick, train_mnist_mixture.NETS, weights)


def _quadratics(quick):
    return {"ten dimensions": Net(quadratic.family(), {100: 1.0})}


def _small_cifar(quick):
    net = {"downscale": 4, "channels": (8, 8), "dense": (16,), "batch_size": 64}
    family = (
        convnet.family(data="mnist_sample", **{**net, "channels": (4,)})
        if quick
        else convnet.family(data="cifar10", **net)
    )
    return {"8 x 8 pixels": Net(family, {100 if quick else 1000: 1.0})}


def _windows(quick):
    family = style_task.family(crop=8) if quick else style_task.family(crop=32, **style.PICTURES)
    return {"windows of 32 x 32": Net(family, {32: 0.1, 128: 1.0})}


COMMON = {"b1": 0.8, "b2": 0.99, "eps": 1e-6}
PROBLEMS = {
    "lstm-mnist": Problem(
        _base,
        by_annealing,
        {
            "schedule": {"warmup": 5.0, "num_steps": 150.0, "exponent": 1.0, "least": 0.1},
            "all": {"rate": 0.1, "power": 0.4, **COMMON},
        },
        lambda: train_mnist.ANNEALED,
        window=10,
        num_populations=44,
    ),
    "pair": Problem(
        _base,
        by_knots,
        {"hidden": flat(0.1, power=0.4, **COMMON), "output": flat(0.1, power=0.4, **COMMON)},
        lambda: together(train_mnist_pair.TEACHERS),
        window=10,
        num_populations=66,
    ),
    "mixture": Problem(
        _four,
        by_knots,
        as_constants(train_mnist_pair),
        lambda: together(train_mnist_mixture.TEACHERS),
        window=10,
        num_populations=240,
        num_seeds=2,
    ),
    "quadratic": Problem(
        _quadratics,
        by_annealing,
        {
            "schedule": {"warmup": 5.0, "num_steps": 150.0, "exponent": 1.0, "least": 0.1},
            "all": {"rate": 0.3, "power": 0.5, **COMMON},
        },
        None,
        window=1,
        num_populations=100,
        num_seeds=256,
        num_fresh=1024,
    ),
    "cifar": Problem(
        _small_cifar,
        by_annealing,
        {
            "schedule": {"warmup": 2.0, "num_steps": 1000.0, "exponent": 1.0, "least": 0.1},
            "conv": {"rate": 0.01, "power": 0.5, **COMMON},
            "dense": {"rate": 0.01, "power": 0.5, **COMMON},
        },
        lambda: together(cifar.TEACHERS),
        window=100,
        num_populations=38,
        num_seeds=2,
        num_fresh=8,
    ),
    "style": Problem(
        _windows,
        by_annealing,
        {
            "schedule": {"warmup": 4.0, "num_steps": 140.0, "exponent": 1.0, "least": 0.05},
            "all": {"rate": 0.03, "power": 0.5, **COMMON},
        },
        lambda: style.TEACHER,
        window=1,
        num_populations=12,
        num_seeds=1,
        num_fresh=8,
    ),
}
