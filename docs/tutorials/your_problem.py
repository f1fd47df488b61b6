# %% [markdown]
# # Your own problems
#
# You solve the same kind of problem thousands of times. This tutorial describes such a class of problems by a loss, meta-trains
# an optimizer for it, and asks whether that was worth it.
#
# ## Describe the problems
#
# A *task* is one problem: a start and a loss. A *family* is a function from a random key to a task. Ours are linear systems
# in ten unknowns, to be solved by gradient steps. Everything that differs from problem to problem is drawn from the key.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import l2o
from l2o.evaluation import analysis

l2o.use_all_cores()  # before JAX computes anything


def family(key):
    a, y = jax.random.normal(key, (10, 10)), jax.random.normal(jax.random.fold_in(key, 1), (10,))
    return l2o.FunctionTask(lambda key: jnp.zeros(10), lambda x, key: jnp.sum((a @ x - y) ** 2))


l2o.check_family(family, jax.random.key(0))  # draws a few tasks, so that a mistake shows now

# %% [markdown]
# The `key` of the loss selects the minibatch. This loss has none, and ignores it. Params may be any pytree of arrays.
#
# ## Meta-train
#
# You say for how many steps an optimizer may run: the `horizon`. Each meta-step looks at `truncation` of them. The rule is the
# small LSTM of Andrychowicz et al. (2016). It sees one gradient at a time, of each parameter for itself.

# %%
problem = l2o.InnerTraining(family, horizon=100, truncation=20)
rule = l2o.LSTM(preprocessing=None, output_scale=1.0, key=jax.random.key(0))
trained = l2o.meta_train(
    rule,
    l2o.BPTT(problem, num_tasks=64),
    l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-2, 500)),
    num_steps=500,
    key=jax.random.key(1),
    validation=l2o.Validation(family, horizon=100, num_tasks=64, every=100, final_steps=1),
)
scores = [row["validation_loss"] for row in trained.history if "validation_loss" in row]
print("validation:", *(f"{score:.3f}" for score in scores))
print(
    f"{trained.num_episodes:.0f} runs, {trained.num_skipped} meta-steps skipped, {trained.num_diverged} runs diverged"
)

# %% [markdown]
# Other problems need other settings. If the validation does not fall, read [the FAQ](../faq.md): the two things to change first
# are `output_scale` and `preprocessing`.
#
# ## Compare
#
# Every baseline is tuned on 32 problems. Then all optimizers run on the same 128 others.

# %%
panels = {"linear systems": l2o.Panel.of(family, horizon=100, run_to=200)}
optimizers = {"learned": trained, "adam": "adam", "nag": "nag", "rmsprop": "rmsprop"}
comparison = l2o.compare(panels, optimizers, key=jax.random.key(2), num_tasks=128, tune_tasks=32)
print(comparison.table())

# %%
records = comparison.records["linear systems"]
best, ratio, low, high = analysis.ratio_to_best(records, "learned", 100)
print(f"The learned rule ends at {ratio:.2f} ({low:.2f} to {high:.2f}) of the loss of {best}.")

lbfgs = l2o.loss_curves(optax.lbfgs(), family, horizon=100, num_tasks=128, key=jax.random.key(3))
print(f"L-BFGS ends at {lbfgs[:, 100].mean():.0e}.")

# %% [markdown]
# Two answers, and both count. A ratio below 1 to the best *first-order* baseline says that meta-training found something. The
# loss of L-BFGS says not to use it *here*: gradients are exact and the problem is small, and L-BFGS was made for that. A learned
# rule has its place where L-BFGS cannot go: with minibatches, or where a line search is too expensive.

# %%
fig, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, record in records.items():
    axis.plot(np.mean(record.curves.losses, axis=0), label=name)
axis.axvline(100, color="0.6", linestyle="--", linewidth=1)
axis.set(xlabel="step", ylabel="mean loss", yscale="log", ylim=(1e-2, 20))
axis.grid(alpha=0.25)
axis.legend()

# %% [markdown]
# ## Does it pay back?
#
# Meta-training took many runs. After how many solves has it paid back, in steps and in seconds? You may otherwise *tune* a rate
# on every new problem. Or you know the best rate already, and save only the steps that it needs more. "inf" means never.

# %%
back = analysis.pay_back(comparison, "linear systems", "learned")
print(f"{back.best} needs {back.steps or 'more than 200'} steps for what the learned rule does in 100.")
for otherwise, solves in (("you tune", back.against_tuning), ("you know the rate", back.against_tuned)):
    print(f"If otherwise {otherwise}: {solves.steps:.0f} solves in steps, {solves.seconds:.0f} in seconds.")

# %% [markdown]
# ## Save it, and use it
#
# The file knows the horizon. After 100 steps `l2o.load` holds the params where they are, unless you ask for something else.

# %%
path = Path(tempfile.mkdtemp()) / "linear-systems.safetensors"
l2o.save(path, trained.optimizer, recipe={"task": "linear systems", "horizon": 100})
optimizer = l2o.load(path)

task, x = family(jax.random.key(7)), jnp.zeros(10)
state = optimizer.init(x)
step = jax.jit(lambda x, state: optimizer.update(jax.grad(task.loss)(x, None), state, x))
for _ in range(100):
    updates, state = step(x, state)
    x = optax.apply_updates(x, updates)
print(f"{task.loss(jnp.zeros(10), None):.2f} became {task.loss(x, None):.2g}")

# %% [markdown]
# ## Next
#
# - A rule of a few constants is cheaper to meta-train and to run, and often nearly as good: [a new rule](new_rule.md).
# - From the shell, with checkpoints and `--resume`: `l2o train my_module:family`. Its network first copies a tuned baseline.
