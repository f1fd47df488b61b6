# %% [markdown]
# # Comparing honestly
#
# You want to know whether a rule is better than what you have. This tutorial compares a shipped rule with tuned baselines:
# on problems that it was made for, and on problems that it was not.
#
# An honest comparison has three parts:
#
# 1. Every baseline is tuned, by the same number of trials.
# 2. All optimizers then run on the *same* fresh problems. No tuning saw them.
# 3. The answer is an interval, not a number.
#
# `l2o.compare` does all three.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import l2o
from l2o.evaluation import analysis
from l2o.tasks import quadratic

l2o.use_all_cores()  # before JAX computes anything

panels = {
    "10 dimensions": l2o.Panel(quadratic.family, horizon=100, run_to=100, source="Andrychowicz et al. 2016, 3.1"),
    "30 dimensions": l2o.Panel.of(quadratic.family(dim=30), horizon=100),
}

# %% [markdown]
# A *panel* is a family of problems, and for how many steps an optimizer may run on one. The optimizers are judged at the
# `horizon`. Curves go on to `run_to`.
#
# A *search* says what may be tuned. Here it is the learning rate, with and without cosine decay to the horizon. The schedule
# matters. A learned rule can know how late it is; a constant rate cannot.

# %%
comparison = l2o.compare(
    panels,
    ["lstm-quadratic", "nag", "adam"],
    key=jax.random.key(0),
    num_tasks=128,
    tune_tasks=32,
    search=l2o.Search(14, rates=(1e-3, 10.0), schedules=("constant", "cosine")),
)
print(comparison.table())

# %% [markdown]
# Look at NAG in 10 dimensions. Its rate was the best on 32 tuning problems, and is too large for at least one of the 128
# others. `compare` keeps such runs in the mean. More tuning problems would help NAG.
#
# `lstm-quadratic` was meta-trained on the first panel. There it is ahead, also of baselines with a schedule. In 30
# dimensions, which it has never seen, it loses. Both facts are on [its card](../cards/lstm-quadratic.md).
#
# ## Is the difference larger than the noise?
#
# All optimizers ran on the same problems, so the ratio of their mean losses has a *paired* interval. If the whole interval is
# below 1, the rule wins. If the interval contains 1, it is a tie.

# %%
for name, records in comparison.records.items():
    best, ratio, low, high = analysis.ratio_to_best(records, "lstm-quadratic", 100)
    verdict = "wins" if high < 1 else "loses" if low > 1 else "ties"
    print(f"{name}: {ratio:.2f} ({low:.2f} to {high:.2f}) of the loss of {best}. The rule {verdict}.")

# %% [markdown]
# ## What does it cost?
#
# Count what a step costs. A learned rule pays back in seconds only if the gradient costs more than the rule does.

# %%
for name, cost in comparison.costs["10 dimensions"].items():
    print(
        f"{name:15} {1000 * cost.ms_optimizer:4.0f} µs a step, {cost.state_bytes / cost.num_params:3.0f} bytes per parameter"
    )

# %% [markdown]
# ## The picture
#
# The mean loss over all problems, and the median (dashed). Where the two
# are far apart, a few hard problems decide the mean.

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for axis, (name, records) in zip(axes, comparison.records.items(), strict=True):
    for optimizer, record in records.items():
        (line,) = axis.plot(np.mean(record.curves.losses, axis=0), label=optimizer)
        axis.plot(np.median(record.curves.losses, axis=0), color=line.get_color(), linestyle="--", linewidth=1)
    axis.set(title=name, xlabel="step", ylabel="loss: mean, and median (dashed)", yscale="log", ylim=(1e-2, 1e2))
    axis.grid(alpha=0.25)
axes[0].legend()

# %% [markdown]
# ## What to remember
#
# - Tune the baselines on other problems than those you report. `compare` does, with keys of their own.
# - Offer the baselines schedules. Part of what looks learned may be only a schedule.
# - A run that diverges stays in, and makes the mean infinite.
# - Say where the rule loses.
#
# Next: [what a comparison does, in detail](../comparison.md), and [reports](../report.md). From the shell it is
# `l2o compare my_module:family my_weights.safetensors adam nag`.
