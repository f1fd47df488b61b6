r"""Update rules with a handful of constants, fitted to the updates of another rule.

All of them are cases of one formula. With the gradient $g_t$ of a coordinate at step $t = 1, 2, \dots$,

$$x_t = \frac{g_t}{1 + |g_t| / \tau}, \qquad
m_t = \beta m_{t-1} + (1 - \beta) x_t, \qquad n_t = \beta n_{t-1} + (1 - \beta) m_t, \qquad
v_t = \beta_2 v_{t-1} + (1 - \beta_2) x_t^2,$$

$$\hat u_t = -\frac{a_0(t)\, x_t + a_1(t)\, m_t + a_2(t)\, n_t}{1 + \sqrt{v_t} / \varepsilon}.$$

Saturation at $\tau$; memory $\beta$ (what the average $m$ holds of a gradient decays exponentially, what the average's average
$n$ holds first rises, then decays); normalisation by the gradient's root mean square beyond $\varepsilon$; step sizes that may
depend on the step. SGD has $a_0$ alone, momentum $a_1$ and $\beta$, Adam $a_1$, $\beta$, $\beta_2$ and $\varepsilon$ with the
averages corrected for their start at zero; its learning rate is $a_1 \varepsilon$.
"""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Int

from l2o.core.optimizer import AbstractCoordinatewise
from l2o.evaluation.forms import FORMS as FORMS
from l2o.evaluation.forms import Fitted, Form

_ORDERS = 3  # of memory: the gradient, its average, the average's average
_NUM_KNOTS = 6
_RIDGE = 1e-7
_NEVER = 1e3  # saturation and normalisation that set in beyond so many times the largest gradient are none


class Surrogate(AbstractCoordinatewise):
    r"""The formula of this module, as an optimizer. $\tau = \infty$: no saturation; $\varepsilon = \infty$: no normalisation.

    **Arguments:** `step_sizes`: $a_j$ at `knots` (steps, the first is 1), between them linear in $\log t$, beyond them constant.
    `decay`: $\beta$; `saturation`: $\tau$; `square_decay`: $\beta_2$; `epsilon`: $\varepsilon$. `corrected`: 1 to divide $m$,
    $n$ and $v$ by the same averages of ones, as Adam does; 0 not to.
    """

    step_sizes: Float[Array, "num_knots 3"]
    knots: Float[Array, " num_knots"]
    decay: Float[Array, ""]
    saturation: Float[Array, ""]
    square_decay: Float[Array, ""]
    epsilon: Float[Array, ""]
    corrected: Float[Array, ""]

    def init_coordinates(self, num):
        zeros = jnp.zeros(num, self.step_sizes.dtype)
        return zeros, _Averages(*[zeros] * len(_Averages._fields))

    def update_coordinates(self, gradients, state, params=None):
        step, averages = state[0] + 1, state[1]
        constants = _Constants(self.decay, self.saturation, self.square_decay, self.epsilon)
        found, averages = _directions(gradients, averages, constants, self.corrected)
        sizes = [jnp.interp(jnp.log(step), jnp.log(self.knots), self.step_sizes[:, j]) for j in range(_ORDERS)]
        return -(sizes[0] * found[0] + sizes[1] * found[1] + sizes[2] * found[2]), (step, averages)


class _Constants(NamedTuple):
    """Those that the update is not linear in; floats, or arrays of JAX."""

    decay: Any = 0.0
    saturation: Any = np.inf
    square_decay: Any = 0.0
    epsilon: Any = np.inf


class _Averages(NamedTuple):
    m: Any = 0.0
    n: Any = 0.0
    v: Any = 0.0
    # The same averages of ones.
    ones_m: Any = 0.0
    ones_n: Any = 0.0
    ones_v: Any = 0.0


def _directions(gradient, averages, constants, corrected):
    """What the step sizes multiply, one for each order of memory, and the new averages. For NumPy (the fit) and JAX alike."""
    b, b2 = constants.decay, constants.square_decay
    x = gradient / (1 + abs(gradient) / constants.saturation)
    m = b * averages.m + (1 - b) * x
    n = b * averages.n + (1 - b) * m
    v = b2 * averages.v + (1 - b2) * x**2
    ones_m = b * averages.ones_m + (1 - b)
    ones_n = b * averages.ones_n + (1 - b) * ones_m
    ones_v = b2 * averages.ones_v + (1 - b2)
    mean_m, mean_n, mean_v = (
        average / (corrected * ones + 1 - corrected) for average, ones in ((m, ones_m), (n, ones_n), (v, ones_v))
    )
    scale = 1 + mean_v**0.5 / constants.epsilon
    return (x / scale, mean_m / scale, mean_n / scale), _Averages(m, n, v, ones_m, ones_n, ones_v)


class Samples(NamedTuple):
    """Histories of gradients with the updates that a rule proposed on them. A sample is one coordinate of one run."""

    gradients: Float[np.ndarray, "horizon num_samples"]
    updates: Float[np.ndarray, "horizon num_samples"]
    weights: Float[np.ndarray, "horizon num_samples"]


def samples(
    gradients: Float[np.ndarray, "num_runs horizon num_coordinates"],
    updates: Float[np.ndarray, "num_runs horizon num_coordinates"],
    group: Int[np.ndarray, " num_coordinates"],
    *,
    floor: float = 1e-4,
) -> Samples:
    r"""Samples weighted so that every run, every step and every group of coordinates (an array of the params) counts alike.

    Updates are heavy-tailed: they shrink by orders of magnitude within a run, and differ as much between layers and tasks. So
    errors are counted relative to the size of the update vector at their own step,
    $w = 1 / (N_G (\overline{u^2}_t + \delta\, \overline{u^2}))$ with $\overline{u^2}_t$ the mean square over the group's $N_G$
    coordinates at that step of that run, and $\overline{u^2}$ its mean over all steps. $\delta$ = `floor`: updates below a
    hundredth of the run's root mean square stop gaining weight, so that rounding in a run that has converged counts for nothing.
    """
    gradients, updates = np.asarray(gradients, float), np.asarray(updates, float)
    weights = np.empty_like(updates)
    for one in np.unique(group):
        member = group == one
        square = (updates[:, :, member] ** 2).mean(axis=2, keepdims=True)
        limit = np.maximum(square + floor * square.mean(axis=1, keepdims=True), np.finfo(float).tiny)
        weights[:, :, member] = 1 / (limit * member.sum())
    horizon = updates.shape[1]
    return Samples(*(np.moveaxis(x, 1, 0).reshape(horizon, -1) for x in (gradients, updates, weights)))


def fit(form: Form, fitting: Samples, held_out: Samples, *, num_trials: int = 150) -> Fitted:
    r"""The constants of `form` with the smallest $\sum w (u - \hat u)^2$ on `fitting`.

    The update is linear in the step sizes, which are solved for. The others are searched: the best of a coarse grid, then at
    most `num_trials` trials of the simplex method of Nelder & Mead, in the logit of decays and the logarithm of the rest.

    **Raises:** `ValueError` if all updates are zero.
    """
    total = float((fitting.weights * fitting.updates**2).sum())
    if not total > 0:
        raise ValueError("The rule proposes no updates (all are zero): there is nothing to fit.")
    hats = _hats(len(fitting.updates), form.timed)

    def lost(values):
        constants = _Constants(**dict(zip(form.free, values, strict=True)))
        return _solved(_features(form, fitting.gradients, constants), fitting, hats)[1] / total

    values: tuple[float, ...] = ()
    if form.free:
        values = min(itertools.product(*(_grid(name, fitting.gradients) for name in form.free)), key=lost)
        bounded = [name.endswith("decay") for name in form.free]
        start = [np.log(v / (1 - v)) if b else np.log(v) for v, b in zip(values, bounded, strict=True)]

        def unbounded(found):
            found = np.clip(
                found, *np.where(bounded, 10.0, 40.0) * np.array([[-1.0], [1.0]])
            )  # averages that fill at all
            return tuple(1 / (1 + np.exp(-x)) if b else np.exp(x) for x, b in zip(found, bounded, strict=True))

        options = {"maxfev": num_trials, "xatol": 1e-3, "fatol": 1e-9}
        best = scipy.optimize.minimize(lambda x: lost(unbounded(x)), start, method="Nelder-Mead", options=options)
        values = unbounded(best.x)
    found = dict(zip(form.free, values, strict=True))
    largest = np.abs(fitting.gradients).max()
    found |= {name: np.inf for name in found if not name.endswith("decay") and found[name] > _NEVER * largest}
    constants = _Constants(**found)
    sizes, left = _solved(_features(form, fitting.gradients, constants), fitting, hats)
    # The sign: updates are minus what the step sizes multiply.
    negative = np.einsum("tp,pj,jtn->tn", hats, sizes, _features(form, held_out.gradients, constants))
    missed = (held_out.weights * (held_out.updates + negative) ** 2).sum()
    step_sizes = np.zeros((len(_knots(len(hats))), _ORDERS))
    step_sizes[:, form.orders] = sizes
    rule = Surrogate(
        *(jnp.asarray(x, jnp.float32) for x in (step_sizes, _knots(len(hats)), *constants, float(form.corrected)))
    )
    return Fitted(form, rule, 1 - left / total, float(1 - missed / (held_out.weights * held_out.updates**2).sum()))


def _knots(horizon):
    return np.unique(np.round(np.geomspace(1, max(horizon, 2), _NUM_KNOTS)))


def _hats(horizon, timed):
    """[horizon, num_knots]: the part that each knot's step size has in each step's; all in one where it is constant."""
    if not timed:
        return np.ones((horizon, 1))
    knots, steps = np.log(_knots(horizon)), np.log(np.arange(1, horizon + 1))
    return np.stack([np.interp(steps, knots, one) for one in np.eye(len(knots))], axis=1)


def _grid(name, gradients):
    if name.endswith("decay"):
        return (0.5, 0.9, 0.99) if name.startswith("square") else (0.3, 0.6, 0.8, 0.9, 0.97)
    sizes = np.abs(gradients[gradients != 0])
    low, middle, high = np.quantile(sizes, [0.05, 0.5, 0.95]) if sizes.size else (1.0, 1.0, 1.0)
    return (1e-3 * low, low, middle) if name == "epsilon" else (low, middle, high, 10 * high)


def _features(form, gradients, constants):
    """What the step sizes multiply: [num_orders, horizon, num_samples]."""
    found = np.empty((len(form.orders), *gradients.shape))
    averages = _Averages()
    for t, gradient in enumerate(gradients):
        directions, averages = _directions(gradient, averages, constants, float(form.corrected))
        for j, order in enumerate(form.orders):
            found[j, t] = directions[order]
    return found


def _solved(features, fitting, hats):
    """Step sizes [num_hats, num_orders] by least squares, and the weighted sum of squares that they leave."""
    x = np.moveaxis(features, 0, 2)  # [horizon, num_samples, num_orders]
    weighted = np.swapaxes(x * fitting.weights[:, :, None], 1, 2)
    gram, moment = weighted @ x, -(weighted @ fitting.updates[:, :, None])[:, :, 0]  # of every step
    size = hats.shape[1] * x.shape[2]
    matrix = np.einsum("tp,tq,tij->piqj", hats, hats, gram).reshape(size, size)
    right = np.einsum("tp,ti->pi", hats, moment).reshape(size)
    scale = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
    # A trace of a ridge: at the first steps the orders of memory differ by a factor only.
    sizes = np.linalg.solve(matrix / scale / scale[:, None] + _RIDGE * np.eye(size), right / scale) / scale
    total = (fitting.weights * fitting.updates**2).sum()
    return sizes.reshape(hats.shape[1], -1), float(total - 2 * sizes @ right + sizes @ matrix @ sizes)
