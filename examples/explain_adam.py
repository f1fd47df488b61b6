import jax
import optax

import l2o
from l2o.tasks import quadratic

rule = optax.adam(0.1, b1=0.8)  # any optax transformation, or l2o.load("lstm-quadratic")
found = l2o.explain(rule, quadratic.family(), horizon=30, num_tasks=16, num_fitted=16, key=jax.random.key(0))

adam = found.fitted["Adam"]
print(f"R² {adam.r2:.3f}, rate {adam.constants['normalised_step']:.3f}, b1 {adam.constants['decay']:.3f}")
print("SGD would explain", found.fitted["SGD"].r2)
print("final loss, and that of the surrogate over it:", found.final("rule").value, found.ratio("Adam", "rule"))
