"""Test functions of global optimization: valleys and many minima."""

from functools import partial

from l2o.evaluation.panel import Panel
from l2o.tasks import landscape, rosenbrock


def panels(quick: bool = False) -> dict[str, Panel]:
    """Rosenbrock's valley and every function of `l2o.tasks.landscape`. Those of any dimension: in 10, or 2 if `quick`."""
    horizon = 100 if quick else 500
    valley = Panel(rosenbrock.family, horizon, 2 * horizon, "Rosenbrock 1960, 2 dimensions, from N(0, I)")
    return {"rosenbrock": valley} | {name: _panel(name, quick, horizon) for name in landscape.FUNCTIONS}


def _panel(name, quick, horizon):
    function = landscape.FUNCTIONS[name]
    dim = 2 if quick or isinstance(function.minimizer, tuple) else 10
    # Moved by up to a tenth of the way to the wall: nothing is gained by knowing where the minimum usually is.
    max_shift = 0.05 * (function.high - function.low)
    source = (
        f"Jamil and Yang 2013 (survey of benchmark functions), {dim} dimensions, uniform start in "
        f"[{function.low:g}, {function.high:g}], moved at random by up to {max_shift:g}"
    )
    return Panel(partial(landscape.family, name=name, dim=dim, max_shift=max_shift), horizon, 2 * horizon, source)
