"""Learned rules and optax's, one after the other."""

from typing import Any

import equinox as eqx
import optax

from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, eval_params_of


class Chained(AbstractLearnedOptimizer):
    r"""What `chain` returns: `rules` one after the other, each of which is given the updates of the one before it.

    $$u^{(0)}_t = \nabla_t, \qquad [u^{(k)}_t, h^{(k)}_{t+1}] = m_k(u^{(k-1)}_t, h^{(k)}_t; \varphi_k)$$

    The meta-parameters are those of the learned rules; optax's are constants. The state is a tuple of the rules' states.
    `l2o.Blocks` and `l2o.Sampled` do not apply, as optax's rules may couple coordinates (a clip by the norm does).
    """

    rules: tuple[AbstractLearnedOptimizer, ...]

    @property
    def uses_value(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (its rules decide)
        """Whether any of the rules is given the loss."""
        return any(rule.uses_value for rule in self.rules)

    def eval_params(self, opt_state, params):
        for rule, own in zip(self.rules, opt_state, strict=True):
            params = rule.eval_params(own, params)  # of all but one the params themselves
        return params

    @property
    def has_eval_params(self):
        return any(rule.has_eval_params for rule in self.rules)

    def init(self, params):
        return tuple(rule.init(params) for rule in self.rules)

    def update(self, updates, state, params=None, **extra: Any):
        new = []
        for rule, own in zip(self.rules, state, strict=True):
            updates, own = rule.update(updates, own, params, **extra)
            new.append(own)
        return updates, tuple(new)


class Fixed(AbstractLearnedOptimizer):
    """An optax transformation as a rule without meta-parameters."""

    transformation: optax.GradientTransformation = eqx.field(static=True)

    @property
    def uses_value(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (the transformation decides)
        """Whether it takes optax's extra arguments; which of them, it does not say."""
        return isinstance(self.transformation, optax.GradientTransformationExtraArgs)

    def init(self, params):
        return self.transformation.init(params)

    def update(self, updates, state, params=None, **extra: Any):
        return optax.with_extra_args_support(self.transformation).update(updates, state, params, **extra)


def chain(*rules: Optimizer) -> Chained:
    """Applies learned rules and optax transformations one after the other, as `optax.chain` does, and can be meta-trained.

    ```python
    rule = l2o.chain(optax.clip(1.0), lstm.build(key))  # gradients clipped, then the LSTM
    result = l2o.meta_train(rule, estimator, num_steps=1000, key=key)
    trained = result.optimizer.rules[1]  # the LSTM, for `l2o.pretrained.save`
    ```

    `optax.chain` takes learned rules too, but keeps them in closures, where nothing can be trained.

    **Raises:** `ValueError` if there are no rules, or several with `eval_params`; `TypeError` for what is no rule.
    """
    if not rules:
        raise ValueError("`chain` takes at least one rule: a learned optimizer or an optax transformation.")
    for i, rule in enumerate(rules):
        if not isinstance(rule, AbstractLearnedOptimizer | optax.GradientTransformation):
            raise TypeError(
                f"`chain` takes learned optimizers and optax transformations, but argument {i + 1} is of type "
                f"{type(rule).__name__}."
            )
    if sum(eval_params_of(rule) is not None for rule in rules) > 1:
        raise ValueError("More than one rule of the chain has `eval_params`: losses can be reported at one place only.")
    return Chained(tuple(r if isinstance(r, AbstractLearnedOptimizer) else Fixed(r) for r in rules))
