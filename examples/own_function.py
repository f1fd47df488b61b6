import jax
import jax.numpy as jnp
import optax

import l2o
from l2o.meta.estimators.bptt import BPTT
from l2o.optimizers import lstm

l2o.use_all_cores()


def family(key):  # a random problem: any init, any loss
    target = jax.random.normal(key, (5,))
    return l2o.FunctionTask(lambda key: jnp.zeros(5), lambda x, key: jnp.mean(jnp.log1p(10 * (x - target) ** 2)))


problem = l2o.InnerTraining(family, horizon=60, truncation=20)
optimizer = lstm.build(jax.random.key(0), preset="raw", output_scale=0.1)
outer_opt = l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-2, 400))
result = l2o.meta_train(optimizer, BPTT(problem, num_tasks=64), outer_opt, num_steps=400, key=jax.random.key(1))

curves = l2o.loss_curves(result.optimizer, family, horizon=60, num_tasks=256, key=jax.random.key(2))
print("learned:", curves[:, 60].mean(), l2o.bootstrap_interval(curves[:, 60]))

adam = l2o.baselines.get("adam").make
tuned = l2o.tune(adam, l2o.baselines.learning_rates(), family, horizon=60, num_tasks=256, key=jax.random.key(3))
curves = l2o.loss_curves(adam(tuned.value), family, horizon=60, num_tasks=256, key=jax.random.key(2))
print(f"adam({tuned.value:.2g}):", curves[:, 60].mean(), l2o.bootstrap_interval(curves[:, 60]))
