"""Meta-trains an optimizer for a PyTorch training loop: `python examples/meta_train_torch.py [META_STEPS]`."""

import sys

import jax
import optax
import torch

import l2o
from l2o.meta.recording import RecordedLoop
from l2o.torch import LearnedOptimizer


def loop(make_optimizer, seed, steps=60):
    """An ordinary loop: 32 random least-squares problems of 10 unknowns, side by side. Returns their mean loss at the end."""
    torch.manual_seed(seed)
    w, y = torch.randn(32, 10, 10), torch.randn(32, 10, 1)
    x = torch.nn.Parameter(torch.zeros(32, 10, 1))
    optimizer = make_optimizer([x])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((w @ x - y) ** 2).sum()
        loss.backward()
        optimizer.step()
    return ((w @ x - y) ** 2).sum().item() / 32


def held_out(make_optimizer):
    """Mean final loss on 512 problems that meta-training has not seen."""
    return sum(loop(make_optimizer, seed) for seed in range(16)) / 16


def of(optimizer):
    weights = l2o.pretrained.as_dict(optimizer)
    return lambda params: LearnedOptimizer(params, weights)


num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
torch.set_num_threads(1)  # tensors this small are not worth more
start = l2o.LSTM(preprocessing=None, output_scale=0.1, key=jax.random.key(0))
outer_opt = l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-2, num_steps))
estimator = RecordedLoop(loop, num_tasks=1, truncation=20)
result = l2o.meta_train(start, estimator, outer_opt, num_steps=num_steps, key=jax.random.key(1))
print("before:", held_out(of(start)))
print("after:", held_out(of(result.last)))
rates = {rate: held_out(lambda params, rate=rate: torch.optim.Adam(params, rate)) for rate in (0.03, 0.1, 0.3, 1.0)}
print("best of four Adams:", min(rates.values()))
