# %% [markdown]
# # Research: a new update rule
#
# You have an idea for an update rule. This tutorial writes one in twenty lines, meta-trains its constants, and compares it.
#
# A rule is a class with two methods, as in optax. Its array fields are what is learned, φ. A rule that treats every parameter
# alike derives from `l2o.AbstractCoordinatewise`. It sees all parameters as one vector, and keeps vectors of that length as its
# state.
#
# Our rule is momentum over a *power* of the mean square, with a step size that may fall, or grow, as the run goes on:
#
# $$u_t = -e^{a} \, (1 + t / 20)^{-p} \; m_t \,/\, (v_t^{\,q/2} + 10^{-8})$$
#
# With $p = 0$ and $q = 1$ it is close to Adam; with $q = 0$ it is momentum. Which is best? Let the problems decide.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float

import l2o
from l2o.evaluation import analysis
from l2o.tasks import quadratic

l2o.use_all_cores()  # before JAX computes anything


class Powered(l2o.AbstractCoordinatewise):
    """Momentum over a power of the mean square, annealed. Five learned numbers."""

    log_step: Float[Array, ""]  # a
    memory: Float[Array, ""]  # β = sigmoid(memory)
    slow_memory: Float[Array, ""]  # β₂, likewise
    power: Float[Array, ""]  # q
    annealing: Float[Array, ""]  # p

    def __init__(self, rate=0.1):
        self.log_step = jnp.log(rate)
        self.memory, self.slow_memory = jnp.array(2.2), jnp.array(4.6)  # β = 0.9 and 0.99
        self.power, self.annealing = jnp.array(1.0), jnp.array(0.0)

    def init_coordinates(self, num):
        return jnp.zeros(num), jnp.zeros(num), jnp.zeros(num)  # averages, and the step: all one number per parameter

    def update_coordinates(self, gradients, state, params=None):
        m, v, t = state
        b, b2 = jax.nn.sigmoid(self.memory), jax.nn.sigmoid(self.slow_memory)
        m, v, t = b * m + (1 - b) * gradients, b2 * v + (1 - b2) * gradients**2, t + 1
        m_hat, v_hat = m / (1 - b**t), v / (1 - b2**t) + 1e-16
        step = jnp.exp(self.log_step) * (1 + t / 20) ** -self.annealing
        return -step * m_hat / (v_hat ** (self.power / 2) + 1e-8), (m, v, t)


# %% [markdown]
# ## Meta-train it
#
# An *inner problem* says what an episode is: problems of this family, 100 steps. An *estimator* gives the derivative of the
# mean loss along an episode with respect to φ. Here it is back-propagation through all 100 steps. The validation keeps the best
# φ, for the meta-gradient of long unrolls is noisy.

# %%
family = quadratic.family()  # ‖Wθ − y‖² in ten dimensions, W and y random
problem = l2o.InnerTraining(family, horizon=100, truncation=100)
trained = l2o.meta_train(
    Powered(),
    l2o.BPTT(problem, num_tasks=32),
    l2o.default_outer_optimizer(3e-2),
    num_steps=80,
    key=jax.random.key(0),
    validation=l2o.Validation(family, horizon=100, num_tasks=64, every=20, final_steps=1),
)
rule = trained.optimizer
print(
    f"step {jnp.exp(rule.log_step):.3f}, β {jax.nn.sigmoid(rule.memory):.3f}, β₂ {jax.nn.sigmoid(rule.slow_memory):.3f}"
)
print(f"power {rule.power:.2f}, annealing {rule.annealing:.2f}")
print(f"validation: {[round(row['validation_loss'], 3) for row in trained.history if 'validation_loss' in row]}")

# %% [markdown]
# Another estimator is one word. `l2o.PES` needs no derivative, so it also learns rules that have none. Only the two lines
# below change:
#
# ```python
# problem = l2o.InnerTraining(family, horizon=100, truncation=10)
# estimator = l2o.PES(problem, num_tasks=64)
# ```
#
# ## Compare it
#
# The comparison is the same for every rule: baselines are tuned on other problems, then all run on the same fresh ones.

# %%
comparison = l2o.compare(
    {"quadratics": l2o.Panel(quadratic.family, horizon=100, run_to=100, source="Andrychowicz et al. 2016, 3.1")},
    {"powered": trained, "lstm-quadratic": "lstm-quadratic", "adam": "adam", "nag": "nag"},
    key=jax.random.key(1),
    num_tasks=128,
    tune_tasks=32,
)
print(comparison.table())

# %% [markdown]
# The intervals above are those of the means. Whether one rule is better than another is decided on the same problems, by pairs:

# %%
records = comparison.records["quadratics"]
for name in ("powered", "lstm-quadratic"):
    best, ratio, low, high = analysis.ratio_to_best(records, name, 100)
    print(f"{name}: {ratio:.2f} ({low:.2f} to {high:.2f}) of the loss of {best}")

# %% [markdown]
# Five numbers, found in seconds, run at the price of Adam. An LSTM has thousands of them. So compare a network with the best
# *cheap* rule too, not with Adam alone. [The results](../results/quadratics.md) do: there a search without derivatives found
# nine constants that are at 0.54 of a tuned Adam, and the LSTM is at 0.93 of *that* rule.

# %%
fig, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, record in records.items():
    axis.plot(np.mean(record.curves.losses, axis=0), label=name)
axis.set(xlabel="step", ylabel="mean loss", yscale="log")
axis.grid(alpha=0.25)
axis.legend()

# %% [markdown]
# ## Make it part of l2o
#
# Put the class into one file, with `build(key, ...)` beside it. Register the file under the entry point `l2o.optimizers` of
# your package, and `l2o train --optimizer`, the contract tests and saved weights know it by name
# ([CONTRIBUTING.md](../contributing.md)).
