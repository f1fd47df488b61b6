"""What `Guarded` knows of the losses, and when that says to hand over. Only numbers: of params it knows nothing."""

import enum
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from l2o.core.finite import moved


class Reason(enum.IntEnum):
    """Why `Guarded` handed over: the value of its state's `reason`."""

    NONE = 0  # it has not: the learned rule acts
    BEHIND = 1  # the fallback, run beside it, had the lower loss
    ROSE = 2  # the loss rose to twice its last level (the gradient's norm: ten times)
    STALLED = 3  # the loss did not fall enough while the number of steps doubled, and no race could be run
    UPDATE = 4  # the learned rule's update was not finite, or absurdly long
    GRADIENT = 5  # several gradients (or losses) in a row were not finite


class Verdict(NamedTuple):
    """What a step's losses mean."""

    watch: "Watch"
    racing: Bool[Array, ""]  # whether the fallback is run beside the learned rule from here on
    keep: Bool[Array, ""]  # whether the params are the new reserve, and the fallback's state starts afresh there
    reason: Int[Array, ""]  # a `Reason` to hand over


class Watch(eqx.Module):
    """What is known of the losses while the learned rule acts; infinite where nothing is."""

    average: Float[Array, ""]  # exponential moving average of the learned rule's loss
    rival: Float[Array, ""]  # ... of the fallback's, in a race
    lowest: Float[Array, ""]  # of the averages so far: that of the reserve
    level: Float[Array, ""]  # mean over the last whole window; at first the first loss
    mean: Float[Array, ""]  # ... over the running window
    rival_mean: Float[Array, ""]
    num_worse: Int[Array, ""]  # steps in a row of a race at which the fallback's loss was lower by the margin
    count: Int[Array, ""]  # losses seen,
    start: Int[Array, ""]  # ... and the running window's bounds in them
    end: Int[Array, ""]

    @classmethod
    def begin(cls, window: int) -> "Watch":
        """Of a run that starts."""
        zero, unknown = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, float)
        return cls(
            average=unknown,
            rival=unknown,
            lowest=unknown,
            level=unknown,
            mean=unknown,
            rival_mean=unknown,
            num_worse=zero,
            count=zero,
            start=zero,
            end=jnp.full((), window, jnp.int32),
        )

    def see_loss(
        self,
        loss: Float[Array, ""],
        rival_loss: Float[Array, ""],
        racing: Bool[Array, ""],
        *,
        races: bool,
        window: int,
        race: int | None,
        margin: float,
    ) -> Verdict:
        """Takes in the losses of a step; `races`: there can be any. The other arguments are those of `Guarded`."""
        more = lambda loss: loss + margin * jnp.abs(loss)
        less = lambda loss: loss - margin * jnp.abs(loss)
        level = jnp.where(jnp.isinf(self.level), loss, self.level)
        recent = 2 / (window + 1)
        average, rival = moved(self.average, loss, recent), moved(self.rival, rival_loss, recent)
        count = self.count + 1
        full, share = count == self.end, 1 / (count - self.start)
        mean, rival_mean = moved(self.mean, loss, share), moved(self.rival_mean, rival_loss, share)
        stalled = full & (self.start > 0) & ~(mean <= less(level))
        decided = full & (count >= (_FIRST_RACE if race is None else race))
        ahead = (
            (race is not None) & decided & ~(mean > less(rival_mean)) & ~stalled
        )  # also of a rival that is not finite
        # An average falls by no more than its factor at a step; losses may fall faster.
        num_worse = jnp.where(racing & (loss > more(rival_loss)), self.num_worse + 1, 0)
        behind = (average > more(rival)) | (num_worse >= window) | (decided & (mean > rival_mean))
        rose = ~(average <= level + jnp.abs(level))
        reason = jnp.where(
            racing,
            jnp.where(behind, Reason.BEHIND, Reason.NONE),
            jnp.where(rose, Reason.ROSE, jnp.where(stalled & (not races), Reason.STALLED, Reason.NONE)),
        )
        # Alone, the reserve is the best params so far, and the fallback's state fresh: a race won starts that anew.
        alone = ~racing | ahead
        keep = jnp.where(racing, ahead, average < self.lowest)
        starts = ~racing & stalled & races & ~rose
        unknown = jnp.inf
        watch = Watch(
            average=jnp.where(starts, unknown, average),
            rival=jnp.where(alone, unknown, rival),
            lowest=jnp.where(keep, average, self.lowest),
            level=jnp.where(full, mean, level),
            mean=jnp.where(full, unknown, mean),
            rival_mean=jnp.where(full | ~racing, unknown, rival_mean),
            num_worse=num_worse,
            count=count,
            start=jnp.where(full, count, self.start),
            end=jnp.where(full, 2 * count, self.end),
        )
        return Verdict(watch, (racing & ~ahead) | starts, keep, reason)

    def see_norm(self, norm: Float[Array, ""], racing: Bool[Array, ""], *, window: int) -> Verdict:
        """The same for the gradient's norm, which may rise for good reasons: only how far it does is asked."""
        average = moved(self.average, norm, 2 / (window + 1))
        lowest = jnp.minimum(average, self.lowest)
        watch = eqx.tree_at(lambda w: (w.average, w.lowest, w.count), self, (average, lowest, self.count + 1))
        reason = jnp.where(average > _GROWTH * lowest, Reason.ROSE, Reason.NONE)
        return Verdict(watch, racing, average <= lowest, reason)


# From which step on the mean of a whole window decides a race that has no end.
_FIRST_RACE = 100

# How far the gradient's norm may rise: it does for good reasons too, such as leaving a plateau.
_GROWTH = 10.0
