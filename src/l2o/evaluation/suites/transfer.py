"""One step away from the MNIST net of Andrychowicz et al. 2016, section 3.2: what changes for an optimizer trained on it."""

import functools

from l2o.evaluation.panel import Panel
from l2o.tasks import mlp


def panels(quick: bool = False) -> dict[str, Panel]:
    """784-20-10, sigmoid, minibatch 128, 100 steps, and one thing changed at a time. Quick: on MNIST's sample, half the steps."""
    data, size, horizon = ("mnist_sample", 32, 50) if quick else ("mnist", 128, 100)
    changed = {
        "base": {},
        "relu": {"activation": "relu"},
        "tanh": {"activation": "tanh"},
        "units_5": {"hidden": (5,)},
        "units_100": {"hidden": (100,)},
        "layers_2": {"hidden": (20, 20), "init_std": None},
        "layers_3": {"hidden": (20, 20, 20), "init_std": None},
        "fan_in": {"init_std": None},
        **({} if quick else {"fashion_mnist": {"data": "fashion_mnist"}, "smile": {"data": "smile"}}),
        "batch_quarter": {"batch_size": size // 4},
        "batch_x4": {"batch_size": size * 4},
    }
    families = {name: {"data": data, "batch_size": size, **settings} for name, settings in changed.items()}
    found = {name: _panel(settings, horizon, changed[name]) for name, settings in families.items()}
    return {**found, "horizon_x10": _panel(families["base"], 10 * horizon, {"horizon": 10 * horizon})}


def _panel(settings, horizon, changed):
    what = ", ".join(f"{name} {value}" for name, value in changed.items()) or "as it is"
    return Panel(
        functools.partial(mlp.family, **settings),
        horizon,
        horizon,
        f"Andrychowicz et al. 2016, 3.2 ({settings['data']}); {what}",
        window=horizon // 10,
        data=(settings["data"],),
    )
