# %% [markdown]
# # A learned optimizer in PyTorch
#
# You train a small net many times, in PyTorch. This tutorial puts a shipped rule into the loop, and compares it with Adam at
# its best rate. Importing `l2o.torch` imports no JAX.
#
# `lstm-mnist` was meta-trained on perceptrons with 784-20-10 units, sigmoid activation, minibatches of 128, and 200 steps. The
# nets below are of that kind. For other nets read [how to choose](../choose.md) first.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy

import l2o
from l2o.torch import LearnedOptimizer

torch.set_num_threads(1)  # tensors this small are not worth more
images = l2o.data.load("mnist_sample")  # 8,000 real images, in the package
x = torch.from_numpy(images.x_train).reshape(-1, 784).float() / 255
y = torch.from_numpy(images.y_train).long()


def run(make_optimizer, seed, num_steps=200):
    """An ordinary training loop; returns the loss of every minibatch."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(784, 20), torch.nn.Sigmoid(), torch.nn.Linear(20, 10))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.01)  # how the rule's problems started
    optimizer = make_optimizer(model.parameters())
    losses = []
    for _ in range(num_steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        loss = cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# ## One line changes
#
# `LearnedOptimizer` is a `torch.optim.Optimizer`. It has no learning rate to set: the size of its steps is learned.

# %%
learned = lambda params: LearnedOptimizer(params, "lstm-mnist")
print(f"the last of 200 losses: {run(learned, seed=0)[-1]:.3f}")

# %% [markdown]
# ## Beside a tuned Adam
#
# Adam's rate is tuned on seeds of its own. Then both train on the same four new seeds: the same starts and minibatches.

# %%
late = lambda losses: sum(losses[-10:]) / 10  # minibatches are noisy: the mean of the last ten
tuning = {
    rate: sum(late(run(lambda p, rate=rate: torch.optim.Adam(p, rate), seed)) for seed in (100, 101)) / 2
    for rate in (0.003, 0.01, 0.03, 0.1)
}
best = min(tuning, key=tuning.get)
print({rate: round(loss, 3) for rate, loss in tuning.items()}, "best:", best)

curves = {
    "lstm-mnist": torch.tensor([run(learned, seed) for seed in range(4)]),
    f"Adam {best}": torch.tensor([run(lambda p: torch.optim.Adam(p, best), seed) for seed in range(4)]),
}
for name, found in curves.items():
    print(
        f"{name:11} last ten steps: {found[:, -10:].mean():.3f}, seed by seed {found[:, -10:].mean(1).numpy().round(3)}"
    )

# %%
fig, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, found in curves.items():
    smooth = found.unfold(1, 10, 1).mean(2)
    (line,) = axis.plot(range(10, 201), smooth.mean(0), label=name)
    axis.fill_between(range(10, 201), smooth.min(0).values, smooth.max(0).values, color=line.get_color(), alpha=0.2)
axis.set(xlabel="step", ylabel="loss, mean of ten steps", yscale="log")
axis.grid(alpha=0.25)
axis.legend()

# %% [markdown]
# The band is from the best to the worst of four seeds. Four seeds show a picture, not a proof. On 40 seeds of the full MNIST
# the ratio to the best tuned baseline, which is NAG, is 0.896 (0.875 to 0.919) after 200 steps ([results](../results.md)).
# A step of the rule takes longer than a step of Adam. Fewer steps pay back in seconds only where the gradient is expensive.
#
# ## After its last step
#
# The rule knows nothing of step 201. By default the parameters stay where they are, and you are warned once. To train on, hand
# over to Adam:

# %%
longer = lambda params: LearnedOptimizer(params, "lstm-mnist", beyond="fallback")
losses = run(longer, seed=0, num_steps=400)
print(f"around step 200: {late(losses[:200]):.3f}, around step 400: {late(losses):.3f}")

# %% [markdown]
# ## Your own loop
#
# A loop can also be recorded, and a rule meta-trained on it: [PyTorch](../torch.md) has the script. That page says as well how
# groups, schedules, `state_dict` and `torch.compile` behave.
