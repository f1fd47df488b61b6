r"""A safety net for learned optimizers: they act for as long as they earn it, then a hand-designed one takes over."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from l2o.core.checks import count, positive, real
from l2o.core.closures import Closure
from l2o.core.finite import all_finite, distance, norm, way
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, check_optimizer
from l2o.optimizers.wrappers.calling import evaluating, real_number, updated, with_types_of
from l2o.optimizers.wrappers.watch import Reason, Watch


class GuardedState(eqx.Module):
    """State of `Guarded`; the first six are for reading."""

    handed_over: Bool[Array, ""]  # whether the fallback acts
    racing: Bool[Array, ""]  # whether the fallback is run beside the learned rule
    reason: Int[Array, ""]  # a `Reason`
    num_learned: Int[Array, ""]  # steps taken by the learned rule
    num_raced: Int[Array, ""]  # steps of races, and of the way back from one, which cost a second gradient
    num_skipped: Int[Array, ""]  # steps skipped, as the gradient, the loss or the fallback's update was not finite
    learned: PyTree
    fallback: PyTree
    reserve: PyTree  # params from which the fallback would take over: the best so far or, in a race, its own
    watch: Watch
    num_bad: Int[Array, ""]  # steps skipped in a row
    away: Float[Array, ""]  # how far the last step back to the reserve had to lead; 0 once there


class Guarded(AbstractLearnedOptimizer):
    r"""`learned` for as long as it does better than `fallback` would; then `fallback`, for good.

    ```python
    optimizer = l2o.Guarded(l2o.load("lstm-mnist"), optax.adam(1e-3))
    updates, state = optimizer.update(gradient, state, params, value=loss, value_fn=loss_of_this_batch)
    ```

    Let $f_t$ be the loss passed at step $t$ (`value`), $a_t$ its moving average with factor $1 - 2/(w+1)$, and $m_k$ its mean
    over the window of steps $[2^{k-1} w, 2^k w)$, or $[0, w)$ for $k = 0$, with $w$ = `window`; let $\delta$ = `margin`.

    **In a race** the fallback runs beside the learned rule, on params $\theta^F_t$ of its own, with the loss and the gradient
    of `value_fn` there (the same minibatch), whose averages are $a^F_t$ and $m^F_k$. A run starts with a race, and unless `race`
    is given it never ends while the learned rule leads. It ends

    - as soon as $a_t > a^F_t + \delta\,|a^F_t|$, or the same holds of the losses themselves at $w$ steps in a row, or only the
      learned rule's loss is not finite, and from step `race` (else 100) on also where $m_k > m^F_k$: it is behind and hands
      over, $\theta_{t+1} = \theta^F_{t+1}$; from here on the run *is* the fallback's;
    - if `race` is given, from that step on where $m_k \le m^F_k - \delta\,|m^F_k|$ and $m_k \le m_{k-1} - \delta\,|m_{k-1}|$: it
      is ahead and still falling, and goes on alone.

    **Alone** it costs one gradient a step. The params $\theta_b$ of the lowest $a_t$ are kept. If the loss doubles, $a_t > m +
    |m|$ with $m$ the mean over the last whole window, it hands over, and the fallback starts afresh from $\theta_b$. If the
    loss stalls, $m_k > m_{k-1} - \delta\,|m_{k-1}|$, a new race starts, the fallback from $\theta_b$.

    At any time it hands over if its update is not finite, or leads further than `reach` times $1 + \|\theta_b\|$ away from the
    params $\theta_b$ that the fallback would take over from (in a race, the fallback's own), or if `patience` steps in a row had
    a gradient or loss that was not finite. A step whose gradient is not finite is skipped and counted, whoever acts; one with a
    finite gradient and a loss that is not (it overflows, say), only while the learned rule does: the fallback needs no loss.

    **The way back.** $\theta + (\theta_b - \theta)$ is $\theta_b$ but for rounding, which may be all of a small coordinate. So
    the step of the hand-over is repeated, each time nearer by the precision of the dtype, until the params are $\theta_b$ to the
    last bit: two or three steps in single precision, a few more in half. Meanwhile the fallback's run goes on beside it, with
    the gradient of `value_fn`; without `value_fn` it waits.

    **The guarantee**, for any learned rule and any losses. The params are finite at every step, if they were at the start.
    And at each step with a finite loss, but those of the way back, one of these holds:

    - in the first race, $a_t \le a^F_t + \delta\,|a^F_t|$, and so do the losses at one of any $w$ steps: it is at most $\delta$
      worse than the fallback;
    - it has lost that race, and the run is the fallback's own, with the fallback's own params and state (steps that are not
      finite being skipped);
    - it has won that race. Then $m_k \le (1 - \delta)\,m_{k-1}$ (positive losses follow a power law in the number of steps),
      or $a_t \le a^F_t + \delta\,|a^F_t|$ for the fallback started from $\theta_b$, or the run is that fallback's own.

    By default only the first two can be: at no step is $a_t$ more than $\delta$ worse than the fallback alone would have been.
    (What the last step of a run does, nobody sees: the guard knows a step's loss when the next one passes it.)
    With `race` a learned rule cannot hold a run at a level that the fallback would leave; what it can do, after a race won,
    is to lead to a worse basin (benchmarks/guarded.py: small nets over 10,000 steps). These are the safeguards of Heaton et
    al. 2020 ("Safeguarded learned convex optimization": an energy falls by a factor, or else the fallback's step is taken)
    and Prémont-Schwarz et al. 2022 ("A simple guard for learned optimizers": the lower loss of the two wins), joined so that,
    with `race`, the second gradient is paid for only where the first cannot tell. `benchmarks/guarded.py` measures how the
    final losses compare.

    **Complex params.** As for optax's own rules, pass the conjugate of `jax.grad`'s gradient.

    **Without `value_fn`** there are no races, and one gradient a step: stalling hands over to the fallback from $\theta_b$
    at once, so that a fallback that takes over at step $\tau$ is $\tau$ steps late. **Without `value`** the gradient's norm is
    watched: above ten times its lowest level it hands over. Divergence is caught so, but nothing else.

    It goes outermost: `Guarded(optax.chain(optax.clip(1.0), learned))`, not `chain(clip, Guarded(...))`, since in a race the
    fallback is given the gradient of `value_fn` itself, at params of the whole model.

    **Cost.** State: the learned rule's, the fallback's, one copy of the params, a dozen scalars. In a race a second loss and
    gradient, which for small models cost less than the learned rule itself; for large ones see `race`. After the hand-over
    the learned rule is no longer evaluated (it is under `vmap`, which has no branches).

    **Arguments:**

    - `fallback`: any optax transformation or learned optimizer, default `optax.adam(1e-3)`. Its schedules count from where
        it starts. It is passed `value`, `value_fn` and `grad` as far as `update` has them (`grad` it always has): line searches
        such as `optax.lbfgs()` need all three.
    - `window`: a short one sees a failing rule sooner, a long one bears noisier losses.
    - `race`: where a first race can be won: with the window that this step is in, or a later one. Default `None`: never, which
        costs a second gradient a step for as long as the learned rule leads. A number, say 100, saves it.

    **Raises:** `ValueError` if a number is out of range, or only the fallback is learned; `TypeError` for what is no optimizer;
    from `update`, `ValueError` if it gets no params, a loss that is not one real number, or not what the learned
    rule or the fallback asks for (`value`, `value_fn`).
    """

    learned: Optimizer
    fallback: Optimizer
    window: int = eqx.field(static=True)
    race: int | None = eqx.field(static=True)
    margin: float = eqx.field(static=True)
    reach: float = eqx.field(static=True)
    patience: int = eqx.field(static=True)

    uses_value: ClassVar[bool] = True

    def __init__(
        self,
        learned: Optimizer,
        fallback: Optimizer | None = None,
        *,
        window: int = 10,
        race: int | None = None,
        margin: float = 0.1,
        reach: float = 1e3,
        patience: int = 5,
    ):
        if not 0 < real("margin", margin) < 1:
            raise ValueError(f"`margin` must lie between 0 and 1, got {margin!r}.")
        self.learned = check_optimizer("learned", learned)
        self.fallback = optax.adam(1e-3) if fallback is None else check_optimizer("fallback", fallback)
        if (
            isinstance(self.learned, optax.GradientTransformation)
            and not Closure(self.learned.update).arrays  # none inside of `optax.chain`, say
            and jax.tree.leaves(eqx.filter(self.fallback, eqx.is_inexact_array))
        ):
            raise ValueError(
                "`learned` has nothing that is learned, and `fallback` has: they are swapped. Pass the learned optimizer first."
            )
        self.window = count("window", window)
        self.race = None if race is None else count("race", race)
        self.margin = float(margin)
        self.reach = positive("reach", reach, finite=False)
        self.patience = count("patience", patience)

    def init(self, params):
        zero = jnp.zeros((), jnp.int32)
        state = GuardedState(
            handed_over=jnp.zeros((), bool),
            racing=jnp.ones((), bool),
            reason=zero,
            num_learned=zero,
            num_raced=zero,
            num_skipped=zero,
            learned=self.learned.init(params),
            fallback=self.fallback.init(params),
            reserve=params,
            watch=Watch.begin(self.window),
            num_bad=zero,
            away=jnp.zeros((), float),
        )
        # Every leaf an array of its own: a step that is given params and state to overwrite (`donate_argnums`) needs that.
        return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf), copy=True), state)

    def update(self, updates, state, params=None, *, value: Any = None, value_fn: Any = None, **extra: Any):
        if params is None:
            raise ValueError(
                "`Guarded` keeps the best params to return to, so `update` needs them: "
                "`optimizer.update(gradient, state, params, value=loss)`."
            )
        gradient = updates
        evaluate = None if value_fn is None else evaluating(value_fn, extra)
        extra = {"grad": gradient, **extra}
        if evaluate is not None:
            extra["value_fn"] = value_fn
            value = evaluate(params) if value is None else value
        if value is not None:
            extra["value"] = value = real_number(value, "`value`")
        loss = (norm(gradient) if value is None else value).astype(float)
        sound_gradient = all_finite(gradient)

        # After the hand-over params + (reserve - params) is the reserve but for rounding: repeated until it is the reserve.
        # Rounding errors shrink with every step; what does not shrink is the doing of one who changes the params after us.
        left = distance(state.reserve, params)
        returning = state.handed_over & (left > 0) & (left <= _PROGRESS * state.away)
        rival_loss = jnp.full((), jnp.inf, float)
        if evaluate is None:
            state = _replace(state, racing=jnp.zeros((), bool))
        else:
            advance = lambda state: self._advance_reserve(state, evaluate, extra)
            still = lambda state: (state, rival_loss)
            state, rival_loss = jax.lax.cond(state.racing | returning, advance, still, state)

        def fallback_acts(state):
            theirs, fallback, sound = self._fallback_step(gradient, state.fallback, params, extra)
            sound = sound & sound_gradient
            state = _replace(state, away=jnp.zeros((), float))
            stepped = _replace(state, fallback=fallback)
            skipped = _replace(state, num_skipped=state.num_skipped + 1)
            return _where(sound, theirs, _zeros(params)), _where(sound, stepped, skipped)

        def returns(state):
            back = way(state.reserve, params)
            return back, _replace(state, away=distance(state.reserve, params))

        def learned_acts(state):
            usable = jnp.isfinite(loss) & sound_gradient
            updates, state, reason = jax.lax.cond(usable, step, skip, state)
            failed = reason != Reason.NONE
            back, over = returns(state)
            over = _replace(over, handed_over=jnp.ones((), bool), reason=reason, racing=jnp.zeros((), bool))
            return _where(failed, back, updates), _where(failed, over, state)

        def skip(state):
            num_bad = state.num_bad + 1
            state = _replace(state, num_skipped=state.num_skipped + 1, num_bad=num_bad)
            lost = state.racing & ~jnp.isfinite(loss) & jnp.isfinite(rival_loss)  # the minibatch is not to blame
            reason = jnp.where(num_bad >= self.patience, Reason.GRADIENT, Reason.NONE)
            reason = jnp.where(lost, Reason.BEHIND, reason)
            return _zeros(params), state, reason.astype(jnp.int32)

        def step(state):
            if value is None:
                verdict = state.watch.see_norm(loss, state.racing, window=self.window)
            else:
                options = {"window": self.window, "race": self.race, "margin": self.margin}
                verdict = state.watch.see_loss(loss, rival_loss, state.racing, races=evaluate is not None, **options)
            state, reason = self._seen(state, verdict, params)
            ours, learned = updated(self.learned, "learned rule", gradient, state.learned, params, extra)
            after = optax.apply_updates(params, ours)
            near = norm(way(after, state.reserve)) <= self.reach * (1 + norm(state.reserve))
            reason = jnp.where((reason == Reason.NONE) & ~(near & all_finite(after)), Reason.UPDATE, reason)
            stepped = _replace(state, learned=learned, num_learned=state.num_learned + 1)
            state = _where(reason == Reason.NONE, stepped, state)
            return ours, _replace(state, num_bad=jnp.zeros((), jnp.int32)), reason.astype(jnp.int32)

        acting = jnp.where(state.handed_over, jnp.where(returning, 1, 2), 0)
        return jax.lax.switch(acting, (learned_acts, returns, fallback_acts), state)

    def _fallback_step(self, gradient, state, params, extra):
        """The fallback's update and state, and whether they lead to finite params."""
        updates, state = updated(self.fallback, "fallback", gradient, state, params, extra)
        return updates, state, all_finite(optax.apply_updates(params, updates))

    def _advance_reserve(self, state, evaluate, extra):
        """The fallback's own step in a race, or on the way back from one, skipped where not finite; and the loss before it."""
        loss, gradient = jax.value_and_grad(evaluate)(state.reserve)
        gradient = jax.tree.map(
            lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, gradient
        )  # optax descends along it
        extra = {**extra, "value": loss, "grad": gradient}
        updates, fallback, sound = self._fallback_step(gradient, state.fallback, state.reserve, extra)
        sound = sound & all_finite(gradient)
        state = _replace(
            state,
            num_raced=state.num_raced + 1,
            num_skipped=state.num_skipped + (state.handed_over & ~sound),
        )
        stepped = _replace(state, fallback=fallback, reserve=optax.apply_updates(state.reserve, updates))
        return _where(sound, stepped, state), loss.astype(float)

    def _seen(self, state, verdict, params):
        """The state after a `Verdict`, and the `Reason` to hand over."""
        fresh = with_types_of(state.fallback, self.fallback.init(params))
        state = _replace(
            state,
            watch=verdict.watch,
            racing=verdict.racing,
            reserve=_where(verdict.keep, params, state.reserve),
            fallback=_where(verdict.keep, fresh, state.fallback),
        )
        return state, verdict.reason


# A step back to the reserve that leaves more than this share of the way was undone by another.
_PROGRESS = 1 / 16


def _replace(tree: Any, **fields: Any) -> Any:
    names = tuple(fields)
    return eqx.tree_at(lambda t: tuple(getattr(t, n) for n in names), tree, tuple(fields.values()))


def _where(condition, if_true, if_false):
    return jax.tree.map(lambda t, f: jnp.where(condition, t, f), if_true, if_false)


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)
