import jax
import jax.numpy as jnp
import optax

import l2o

l2o.use_all_cores()


def family(key):  # a random problem of your class: any start, any loss
    a, y = jax.random.normal(key, (10, 10)), jax.random.normal(jax.random.fold_in(key, 1), (10,))
    return l2o.FunctionTask(lambda key: jnp.zeros(10), lambda x, key: jnp.sum((a @ x - y) ** 2))


problem = l2o.InnerTraining(family, horizon=100, truncation=20)
rule = l2o.LSTM.raw(key=jax.random.key(0))
outer_opt = l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-2, 500))
trained = l2o.meta_train(rule, l2o.BPTT(problem, num_tasks=64), outer_opt, num_steps=500, key=jax.random.key(1))

panels = {"mine": l2o.Panel.of(family, horizon=100)}
optimizers = {"learned": trained, "adam": "adam", "nag": "nag", "rmsprop": "rmsprop"}
comparison = l2o.compare(panels, optimizers, key=jax.random.key(2), num_tasks=128, tune_tasks=32)
print(comparison.table())
