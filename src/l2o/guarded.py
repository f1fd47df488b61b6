r"""A safety net for learned optimizers: they act for as long as they earn it, then a hand-designed one takes over."""

import enum
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from l2o._optimizer import AbstractLearnedOptimizer, Optimizer, with_extra_args


class Reason(enum.IntEnum):
    """Why `Guarded` handed over: the value of its state's `reason`."""

    NONE = 0  # it has not: the learned rule acts
    BEHIND = 1  # the fallback, run beside it, had the lower loss
    ROSE = 2  # the loss rose to twice its last level (the gradient's norm: ten times)
    STALLED = 3  # the loss did not fall enough while the number of steps doubled, and no race could be run
    UPDATE = 4  # the learned rule's update was not finite, or absurdly long
    GRADIENT = 5  # several gradients (or losses) in a row were not finite


class _Watch(eqx.Module):
    """What is known of the losses while the learned rule acts; infinite where nothing is."""

    average: Float[Array, ""]  # exponential moving average of the learned rule's loss
    rival: Float[Array, ""]  # ... of the fallback's, in a race
    lowest: Float[Array, ""]  # of the averages so far: that of the reserve
    level: Float[Array, ""]  # mean over the last whole window; at first the first loss
    total: Float[Array, ""]  # sum over the running window
    rival_total: Float[Array, ""]
    count: Int[Array, ""]  # losses seen,
    start: Int[Array, ""]  # ... and the running window's bounds in them
    end: Int[Array, ""]


class GuardedState(eqx.Module):
    """State of `Guarded`; the first six are for reading."""

    handed_over: Bool[Array, ""]  # whether the fallback acts
    racing: Bool[Array, ""]  # whether the fallback is run beside the learned rule
    reason: Int[Array, ""]  # a `Reason`
    num_learned: Int[Array, ""]  # steps taken by the learned rule
    num_raced: Int[Array, ""]  # steps of races, which cost a second gradient
    num_skipped: Int[Array, ""]  # steps skipped, as the gradient, the loss or the fallback's update was not finite
    learned: PyTree
    fallback: PyTree
    reserve: PyTree  # params from which the fallback would take over: the best so far or, in a race, its own
    watch: _Watch
    num_bad: Int[Array, ""]  # steps skipped in a row


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

    - as soon as $a_t > a^F_t + \delta\,|a^F_t|$, or only the learned rule's loss is not finite, and from step `race` (else 100)
      on also where $m_k > m^F_k$: it is behind and hands over, $\theta_{t+1} = \theta^F_{t+1}$; from here on the run *is* the
      fallback's;
    - if `race` is given, from that step on where $m_k \le m^F_k - \delta\,|m^F_k|$ and $m_k \le m_{k-1} - \delta\,|m_{k-1}|$: it
      is ahead and still falling, and goes on alone.

    **Alone** it costs one gradient a step. The params $\theta_b$ of the lowest $a_t$ are kept. If the loss doubles, $a_t > m +
    |m|$ with $m$ the mean over the last whole window, it hands over, and the fallback starts afresh from $\theta_b$. If the
    loss stalls, $m_k > m_{k-1} - \delta\,|m_{k-1}|$, a new race starts, the fallback from $\theta_b$.

    At any time it hands over if its update is not finite, or longer than `reach` times $1 + \|\theta\|$, or if `patience`
    steps in a row had a gradient or loss that was not finite. One that is not is skipped and counted, whoever acts.

    **The guarantee**, for any learned rule and any losses. The params are finite at every step, if they were at the start.
    And at each step with a finite loss one of these holds:

    - in the first race, $a_t \le a^F_t + \delta\,|a^F_t|$: it is at most $\delta$ worse than the fallback;
    - it has lost that race, and the run is the fallback's own, with the fallback's own params and state;
    - it has won that race. Then $m_k \le (1 - \delta)\,m_{k-1}$ (positive losses follow a power law in the number of steps),
      or $a_t \le a^F_t + \delta\,|a^F_t|$ for the fallback started from $\theta_b$, or the run is that fallback's own.

    By default only the first two can be: at no step is it more than $\delta$ worse than the fallback alone would have been.
    With `race` a learned rule cannot hold a run at a level that the fallback would leave; what it can do, after a race won,
    is to lead to a worse basin (benchmarks/guarded.py: small nets over 10,000 steps). These are the safeguards of Heaton et
    al. 2020 ("Safeguarded learned convex optimization": an energy falls by a factor, or else the fallback's step is taken)
    and Prémont-Schwarz et al. 2022 ("A simple guard for learned optimizers": the lower loss of the two wins), joined so that,
    with `race`, the second gradient is paid for only where the first cannot tell. `benchmarks/guarded.py` measures how the
    final losses compare.

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
        it starts.
    - `window`: a short one sees a failing rule sooner, a long one bears noisier losses.
    - `race`: where a first race can be won: with the window that this step is in, or a later one. Default `None`: never, which
        costs a second gradient a step for as long as the learned rule leads. A number, say 100, saves it.

    **Raises:** `ValueError` if a number is out of range, or `update` gets no params.
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
        if window < 1 or (race is not None and race < 1) or patience < 1:
            raise ValueError(
                "`window`, `race` and `patience` must be at least 1 (`race` may be None), got "
                f"window={window}, race={race} and patience={patience}."
            )
        if not (0 < margin < 1 and reach > 0):
            raise ValueError(
                f"`margin` must lie between 0 and 1 and `reach` be positive, got margin={margin} and reach={reach}."
            )
        self.learned = learned
        self.fallback = optax.adam(1e-3) if fallback is None else fallback
        self.window = window
        self.race = race
        self.margin = margin
        self.reach = reach
        self.patience = patience

    def init(self, params):
        zero, unknown = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32)
        return GuardedState(
            handed_over=jnp.zeros((), bool),
            racing=jnp.ones((), bool),
            reason=zero,
            num_learned=zero,
            num_raced=zero,
            num_skipped=zero,
            learned=self.learned.init(params),
            fallback=self.fallback.init(params),
            reserve=params,
            watch=_Watch(
                average=unknown,
                rival=unknown,
                lowest=unknown,
                level=unknown,
                total=jnp.zeros((), jnp.float32),
                rival_total=jnp.zeros((), jnp.float32),
                count=zero,
                start=zero,
                end=jnp.full((), self.window, jnp.int32),
            ),
            num_bad=zero,
        )

    def update(self, updates, state, params=None, *, value: Any = None, value_fn: Any = None, **extra: Any):
        if params is None:
            raise ValueError(
                "`Guarded` keeps the best params to return to, so `update` needs them: "
                "`optimizer.update(gradient, state, params, value=loss)`."
            )
        gradient = updates
        loss = optax.tree.norm(gradient) if value is None else jnp.asarray(value)
        finite = jnp.isfinite(loss) & _all_finite(gradient)
        if value is None:
            value_fn = None
        else:
            extra = {**extra, "value": value}
        if value_fn is not None:
            extra = {**extra, "value_fn": value_fn}
        see = self._see_norm if value is None else self._see_loss

        def fallback_acts(state):
            theirs, fallback, sound = self._fallback_step(gradient, state.fallback, params, extra)
            sound = sound & finite
            stepped = _replace(state, fallback=fallback)
            skipped = _replace(state, num_skipped=state.num_skipped + 1)
            return _where(sound, theirs, _zeros(params)), _where(sound, stepped, skipped)

        def learned_acts(state):
            if value_fn is None:
                rival_loss = jnp.full((), jnp.inf, jnp.float32)
                state = _replace(state, racing=jnp.zeros((), bool))
            else:
                still = lambda state: (state, jnp.full((), jnp.inf, jnp.float32))
                advance = lambda state: self._advance_reserve(state, value_fn, extra)
                state, rival_loss = jax.lax.cond(state.racing, advance, still, state)
            updates, state, reason = jax.lax.cond(finite, step, skip, state, rival_loss)
            failed = reason != Reason.NONE
            back = jax.tree.map(lambda r, p: r - p, state.reserve, params)
            over = _replace(state, handed_over=failed, reason=reason, racing=state.racing & ~failed)
            return _where(failed, back, updates), over

        def skip(state, rival_loss):
            num_bad = state.num_bad + 1
            state = _replace(state, num_skipped=state.num_skipped + 1, num_bad=num_bad)
            lost = state.racing & ~jnp.isfinite(loss) & jnp.isfinite(rival_loss)  # the minibatch is not to blame
            reason = jnp.where(num_bad >= self.patience, Reason.GRADIENT, Reason.NONE)
            reason = jnp.where(lost, Reason.BEHIND, reason)
            return _zeros(params), state, reason.astype(jnp.int32)

        def step(state, rival_loss):
            state, reason = see(state, loss.astype(jnp.float32), rival_loss, params, races=value_fn is not None)
            ours, learned = with_extra_args(self.learned).update(gradient, state.learned, params, **extra)
            ours = _like(ours, params)
            limit = self.reach * (1 + optax.tree.norm(params))
            sound = _all_finite(optax.apply_updates(params, ours)) & (optax.tree.norm(ours) <= limit)
            reason = jnp.where((reason == Reason.NONE) & ~sound, Reason.UPDATE, reason)
            stepped = _replace(state, learned=learned, num_learned=state.num_learned + 1)
            state = _where(reason == Reason.NONE, stepped, state)
            return ours, _replace(state, num_bad=jnp.zeros((), jnp.int32)), reason.astype(jnp.int32)

        return jax.lax.cond(state.handed_over, fallback_acts, learned_acts, state)

    def _fallback_step(self, gradient, state, params, extra):
        """The fallback's update and state, and whether they lead to finite params."""
        updates, state = with_extra_args(self.fallback).update(gradient, state, params, **extra)
        updates = _like(updates, params)
        return updates, state, _all_finite(optax.apply_updates(params, updates))

    def _advance_reserve(self, state, value_fn, extra):
        """The fallback's own step in a race, skipped where not finite; and the loss before it."""
        loss, gradient = jax.value_and_grad(value_fn)(state.reserve)
        extra = {**extra, "value": loss, "grad": gradient}
        updates, fallback, sound = self._fallback_step(gradient, state.fallback, state.reserve, extra)
        sound = sound & jnp.isfinite(loss) & _all_finite(gradient)
        state = _replace(state, num_raced=state.num_raced + 1)
        stepped = _replace(state, fallback=fallback, reserve=optax.apply_updates(state.reserve, updates))
        return _where(sound, stepped, state), loss.astype(jnp.float32)

    def _see_loss(self, state, loss, rival_loss, params, *, races):
        """Takes in the losses of a step: the state, and the `Reason` to hand over."""
        watch, racing = state.watch, state.racing
        level = jnp.where(jnp.isinf(watch.level), loss, watch.level)
        average, rival = self._average(watch.average, loss), self._average(watch.rival, rival_loss)
        total, rival_total = watch.total + loss, watch.rival_total + rival_loss
        count = watch.count + 1
        full, length = count == watch.end, count - watch.start
        mean, rival_mean = total / length, rival_total / length
        stalled = full & (watch.start > 0) & ~(mean <= self._less(level))
        decided = full & (count >= (_FIRST_RACE if self.race is None else self.race))
        ahead = (
            (self.race is not None) & decided & ~(mean > self._less(rival_mean)) & ~stalled
        )  # also of a rival that is not finite
        behind = (average > self._more(rival)) | (decided & (mean > rival_mean))
        rose = ~(average <= level + jnp.abs(level))
        reason = jnp.where(
            racing,
            jnp.where(behind, Reason.BEHIND, Reason.NONE),
            jnp.where(rose, Reason.ROSE, jnp.where(stalled & (not races), Reason.STALLED, Reason.NONE)),
        )
        # Alone, the reserve is the best params so far, and the fallback's state fresh: a race won starts that anew.
        alone = ~racing | ahead
        keep = jnp.where(racing, ahead, average < watch.lowest)
        starts = ~racing & stalled & races & ~rose
        unknown = jnp.inf
        watch = _Watch(
            average=jnp.where(starts, unknown, average),
            rival=jnp.where(alone, unknown, rival),
            lowest=jnp.where(keep, average, watch.lowest),
            level=jnp.where(full, mean, level),
            total=jnp.where(full, 0.0, total),
            rival_total=jnp.where(full | ~racing, 0.0, rival_total),
            count=count,
            start=jnp.where(full, count, watch.start),
            end=jnp.where(full, 2 * count, watch.end),
        )
        state = _replace(
            state,
            watch=watch,
            racing=(racing & ~ahead) | starts,
            reserve=_where(keep, params, state.reserve),
            fallback=_where(keep, self.fallback.init(params), state.fallback),
        )
        return state, reason

    def _see_norm(self, state, norm, rival_loss, params, *, races):
        """The same for the gradient's norm, which may rise for good reasons: only how far it does is asked."""
        watch = state.watch
        average = self._average(watch.average, norm)
        lowest = jnp.minimum(average, watch.lowest)
        keep = average <= lowest
        state = _replace(
            state,
            watch=_replace(watch, average=average, lowest=lowest, count=watch.count + 1),
            reserve=_where(keep, params, state.reserve),
            fallback=_where(keep, self.fallback.init(params), state.fallback),
        )
        return state, jnp.where(average > _GROWTH * lowest, Reason.ROSE, Reason.NONE)

    def _average(self, average, loss):
        """The moving average with one more loss; one that is not finite is left out."""
        moved = jnp.where(jnp.isinf(average), loss, average + 2 / (self.window + 1) * (loss - average))
        return jnp.where(jnp.isfinite(loss), moved, average)

    def _more(self, loss):
        return loss + self.margin * jnp.abs(loss)

    def _less(self, loss):
        return loss - self.margin * jnp.abs(loss)


# From which step on the mean of a whole window decides a race that has no end.
_FIRST_RACE = 100

# How far the gradient's norm may rise: it does for good reasons too, such as leaving a plateau.
_GROWTH = 10.0


def _replace(tree: Any, **fields: Any) -> Any:
    names = tuple(fields)
    return eqx.tree_at(lambda t: tuple(getattr(t, n) for n in names), tree, tuple(fields.values()))


def _where(condition, if_true, if_false):
    return jax.tree.map(lambda t, f: jnp.where(condition, t, f), if_true, if_false)


def _zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def _like(updates, params):
    return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)


def _all_finite(tree) -> Bool[Array, ""]:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.ones((), bool)
