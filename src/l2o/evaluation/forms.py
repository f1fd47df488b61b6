"""Which surrogates there are, and what one was found to be: read without JAX. Their formula is in `l2o.evaluation.surrogates`."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from l2o.evaluation.surrogates import Surrogate


class Form(NamedTuple):
    """Which constants of the formula a surrogate has."""

    name: str
    equation: str  # readable as text
    orders: tuple[int, ...] = (0,)  # which of x, m and n it adds up
    saturated: bool = False
    normalised: bool = False
    corrected: bool = False
    timed: bool = False  # step sizes depend on the step

    @property
    def free(self) -> tuple[str, ...]:
        """The constants it has beside its step sizes."""
        found = ["decay"] if set(self.orders) - {0} else []
        found += ["saturation"] if self.saturated else []
        return (*found, "square_decay", "epsilon") if self.normalised else tuple(found)


_MEMORY = (0, 1, 2)
# Averages start as those of the optimizers they are named after: momentum's and RMSprop's at zero, Adam's corrected.
FORMS = (
    Form("SGD", "-a g"),
    Form("SGD, a(t)", "-a(t) g", timed=True),
    Form("momentum", "-a m", (1,)),
    Form("memory", "-(a0 g + a1 m + a2 n)", _MEMORY),
    Form("saturation", "-a x", saturated=True),
    Form("RMSprop", "-a g / (1 + √v/ε)", normalised=True),
    Form("Adam", "-a m / (1 + √v/ε)", (1,), normalised=True, corrected=True),
    Form("saturation, memory", "-(a0 x + a1 m + a2 n)", _MEMORY, saturated=True, corrected=True),
    Form("normalisation, memory", "-(a0 g + a1 m + a2 n) / (1 + √v/ε)", _MEMORY, normalised=True, corrected=True),
    Form(
        "saturation, memory, a(t)",
        "-(a0(t) x + a1(t) m + a2(t) n)",
        _MEMORY,
        saturated=True,
        corrected=True,
        timed=True,
    ),
    Form(
        "normalisation, memory, a(t)",
        "-(a0(t) g + a1(t) m + a2(t) n) / (1 + √v/ε)",
        _MEMORY,
        normalised=True,
        corrected=True,
        timed=True,
    ),
    Form(
        "everything",
        "-(a0(t) x + a1(t) m + a2(t) n) / (1 + √v/ε)",
        _MEMORY,
        saturated=True,
        normalised=True,
        corrected=True,
        timed=True,
    ),
)


class Fitted(NamedTuple):
    """A surrogate, and how much of the rule it explains."""

    form: Form
    rule: "Surrogate"
    r2_fit: float  # 1 - sum w (u - û)² / sum w u², on the samples fitted
    r2: float  # the same on held-out samples

    @property
    def num_constants(self) -> int:
        """How many numbers were fitted."""
        return len(self.form.orders) * (len(self.rule.knots) if self.form.timed else 1) + len(self.form.free)

    def step_size(self, step: int) -> float:
        r"""$a_0 + a_1 + a_2$ at a step: what a small, constant gradient is multiplied by once the averages have filled."""
        sizes = np.asarray(self.rule.step_sizes, float).sum(axis=1)
        return float(np.interp(np.log(step), np.log(np.asarray(self.rule.knots, float)), sizes))

    @property
    def constants(self) -> dict[str, float]:
        """Those of `form.free` by name, and what follows: the memory's time constant in steps, the learning rate of Adam.

        There is no such rate where normalisation sets in nowhere, at an infinite epsilon.
        """
        found = {name: float(getattr(self.rule, name)) for name in self.form.free}
        if "decay" in found:
            found["time_constant"] = -1 / np.log(found["decay"]) if 0 < found["decay"] < 1 else float("nan")
        if self.form.normalised and np.isfinite(found["epsilon"]):
            found["normalised_step"] = self.step_size(1) * found["epsilon"]
        return found

    @property
    def mean_lag(self) -> float:
        r"""Age in steps of the gradients that an update is made of: 0 for SGD, $\beta / (1 - \beta)$ for momentum.

        $\sum_k k |c_k| / \sum_k |c_k|$ with $c_k$ the weight of the gradient $k$ steps ago, step sizes averaged over the knots.
        """
        kernel = np.abs(self.kernel(400))
        return float((np.arange(400) * kernel).sum() / kernel.sum())

    def kernel(self, length: int, step: int | None = None) -> Float[np.ndarray, " length"]:
        """Weights of present and past (saturated) gradients in the update, averages full; at a step, or the knots' mean."""
        b, lags = float(self.rule.decay), np.arange(length)
        orders = np.stack([lags == 0, (1 - b) * b**lags, (1 - b) ** 2 * (lags + 1) * b**lags])
        sizes, knots = np.asarray(self.rule.step_sizes, float), np.asarray(self.rule.knots, float)
        if step is None:
            return sizes.mean(axis=0) @ orders
        return np.array([np.interp(np.log(step), np.log(knots), sizes[:, j]) for j in range(sizes.shape[1])]) @ orders
