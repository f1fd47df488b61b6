r"""A hand-designed optimizer with its rate and schedule, as a rule that can be saved and loaded like a learned one.

$u_t = -a\, s(t)\, d_t$ where $d_t$ is the direction of the baseline of that name (`l2o.baselines`), $a$ its rate and $s$ its
schedule over the horizon. What `l2o.design` returns where nothing it found beats tuning.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from l2o.core.checks import count, not_negative, positive
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, with_extra_args
from l2o.optimizers import baselines


class HandDesigned(AbstractLearnedOptimizer):
    r"""The baseline `name` at `rate`, after a `schedule` over `horizon` steps. Its one meta-parameter is $\log a$.

    **Arguments:** `schedule`: one of `l2o.baselines.SCHEDULES`. `weight_decay`: of those that have one; None: optax's default.

    **Raises:** `ValueError` if there is no such baseline or schedule, the baseline has no rate, or numbers are out of range.
    """

    log_rate: Float[Array, ""]
    name: str = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    schedule: str = eqx.field(static=True)
    weight_decay: float | None = eqx.field(static=True)

    def __init__(
        self,
        name: str,
        horizon: int,
        *,
        rate: float = 1e-3,
        schedule: str = "constant",
        weight_decay: float | None = None,
    ):
        found = baselines.get(name)
        if not found.tuned:
            raise ValueError(f"{name} has no learning rate: use it as it is, `l2o.baselines.get({name!r}).make(None)`.")
        if schedule not in baselines.SCHEDULES:
            raise ValueError(f"No schedule named {schedule!r}. Schedules: {', '.join(baselines.SCHEDULES)}.")
        if weight_decay is not None and not found.weight_decay:
            raise ValueError(f"{name} has no weight decay, got weight_decay={weight_decay}.")
        self.log_rate = jnp.log(jnp.asarray(positive("rate", rate), jnp.float32))
        self.name = name
        self.horizon = count("horizon", horizon)
        self.schedule = schedule
        self.weight_decay = None if weight_decay is None else not_negative("weight_decay", weight_decay)

    @property
    def rate(self) -> float:
        """$a$, the peak of the schedule."""
        return float(jnp.exp(self.log_rate))

    def as_baseline(self) -> Optimizer:
        """Optax's own rule."""
        options = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        rate = jnp.exp(self.log_rate)
        if self.schedule == "constant":
            return baselines.get(self.name).make(rate, **options)
        scale = baselines.schedule(self.schedule, self.horizon)
        return baselines.get(self.name).make(lambda step: rate * scale(step), **options)

    def to_spec(self):
        arguments = {"name": self.name, "horizon": self.horizon, "schedule": self.schedule}
        return {"architecture": "hand_designed", "arguments": {**arguments, "weight_decay": self.weight_decay}}

    def init(self, params):
        return self.as_baseline().init(params)

    def update(self, updates, state, params=None, **extra):
        found, state = with_extra_args(self.as_baseline()).update(updates, state, params, **extra)
        # A rate in single precision would make steps of bfloat16 params wider than they are.
        return jax.tree.map(lambda u, g: u.astype(jnp.result_type(g)), found, updates), state

    def eval_params(self, opt_state, params):
        where = getattr(self.as_baseline(), "eval_params", None)
        return params if where is None else where(opt_state, params)

    @property
    def has_eval_params(self):
        return hasattr(self.as_baseline(), "eval_params")

    def __str__(self):
        """As one would say it: "adam at 0.003 with cosine decay"."""
        schedule = {
            "constant": "",
            "cosine": " with cosine decay",
            "warmup_cosine": " with a warm-up and cosine decay",
        }[self.schedule]
        decay = "" if self.weight_decay is None else f", weight decay {self.weight_decay:.2g}"
        return f"{self.name} at {self.rate:.3g}{schedule}{decay}"


def build(key: PRNGKeyArray | None = None, *, name: str = "adam", horizon: int = 100, **arguments) -> HandDesigned:
    """A `HandDesigned`; nothing in it is random.

    **Raises:** as `HandDesigned`.
    """
    return HandDesigned(name, horizon, **arguments)
