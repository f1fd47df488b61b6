import jax
import jax.numpy as jnp

import l2o

l2o.use_all_cores()
time = jnp.linspace(0, 1, 64)


def wave(p):  # amplitude, damping, frequency, phase, offset
    return p[0] * jnp.exp(-p[1] * time) * jnp.sin(p[2] * time + p[3]) + p[4]


def family(key):  # fit a measured curve: five numbers, another curve each time
    low, high = jnp.array([0.5, 0.5, 2, -1, -0.5]), jnp.array([2, 3, 6, 1, 0.5])
    curve = wave(low + (high - low) * jax.random.uniform(key, (5,)))
    return l2o.FunctionTask(lambda key: jnp.array([1, 1, 4, 0, 0.0]), lambda p, key: jnp.mean((wave(p) - curve) ** 2))


found = l2o.design(family, horizon=40, minutes=3)
print(found.ratio.value, "of the loss of", found.baseline.optimizer, "by", found.winner.name)
found.save("runs/waves.safetensors")  # for l2o.load and l2o.torch.LearnedOptimizer
