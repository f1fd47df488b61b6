"""The forms of the meta-gradient: how a derivative of an unroll is computed.

A form of your own is a subclass of `AbstractMetaGradient` with one method.
"""

import abc
import dataclasses
from typing import Any

import jax
from jaxtyping import PRNGKeyArray, PyTree

from l2o.core.checks import counts, kind, real
from l2o.core.inner_loop import InnerState, Run, scan
from l2o.core.meta_gradient import replay
from l2o.core.meta_gradient.sampling import draw
from l2o.core.optimizer import Optimizer


class AbstractMetaGradient(abc.ABC):
    """How a derivative of an unroll is computed."""

    @abc.abstractmethod
    def unroll(self, optimizer: Optimizer, state: InnerState, run: Run) -> tuple[InnerState, Any]:
        """The final state, and what `run.record` has of every step, whose derivatives are this form's."""

    def why_not(self, optimizer: Optimizer, params: PyTree) -> str | None:
        """What keeps this form from an optimizer of these params; None: nothing."""
        return None


@dataclasses.dataclass(frozen=True)
class Stored(AbstractMetaGradient):
    """First-order meta-gradient, the optimizer's state stored at every step. Memory O(steps x state).

    Runs the optimizer once forward, once more in the backward pass, and back. For any optimizer, and on a GPU the fastest; on
    a CPU only while the stored states fit the cache.
    """

    def unroll(self, optimizer, state, run):
        return scan(optimizer, state, run)


@dataclasses.dataclass(frozen=True)
class SecondOrder(AbstractMetaGradient):
    r"""Full meta-gradient, $\partial \nabla_t / \partial \varphi$ included, by plain autodiff through the optimizee."""

    def unroll(self, optimizer, state, run):
        return scan(optimizer, state, run, second_order=True)


def check_form(form: AbstractMetaGradient | None) -> None:
    """Refuses what is no form.

    **Raises:** `TypeError`.
    """
    kind(
        "meta_gradient",
        form,
        AbstractMetaGradient | None,
        "`Stored()`, `Blocks()`, `Sampled()`, `SecondOrder()` or None",
    )


class AbstractReplayed(AbstractMetaGradient):
    """Replays the rule on recorded gradients, for some coordinates at a time: for coordinatewise rules only."""

    def unroll(self, optimizer, state, run):
        return replay.unroll(optimizer, state, run, self)

    def why_not(self, optimizer, params):
        why = replay.why_not(optimizer, params)
        return why and f"{type(self).__name__} needs a coordinatewise optimizer, got {why}. Use `Stored()`."

    def check(self, wants_start: bool) -> None:
        """Refuses what this form cannot give: with `wants_start`, a derivative by where the unroll starts.

        **Raises:** `ValueError`.
        """

    @abc.abstractmethod
    def choose(self, group: replay.Group, key: PRNGKeyArray) -> replay.Chosen:
        """The coordinates to be replayed."""

    @abc.abstractmethod
    def block_size(self, num: int) -> int:
        """How many of `num` coordinates are replayed at a time."""


@dataclasses.dataclass(frozen=True)
class Blocks(AbstractReplayed):
    """First-order meta-gradient, replayed for `size` coordinates at a time. Memory O(steps x coordinates) floats.

    Equal to `Stored`, for coordinatewise optimizers only. Unrolls of thousands of steps fit. Stays within a CPU's cache, and
    leaves out coordinates that no loss sees (pixels that are always black): there it is the faster of the two for networks.

    **Arguments:** `size`: default 256 on a CPU, 16,384 elsewhere.

    **Raises:** `ValueError` for a size that is not a positive whole number.
    """

    size: int | None = None

    def __post_init__(self):
        counts(size=self.size)

    def choose(self, group, key):
        return replay.all_that_are_seen(group)

    def block_size(self, num):
        return self.size or (_CPU_BLOCK if jax.default_backend() == "cpu" else 2**14)


@dataclasses.dataclass(frozen=True)
class Sampled(AbstractReplayed):
    r"""First-order meta-gradient from a random `fraction` of the coordinates. Unbiased, and a fraction of the time.

    Coordinate $i$ is drawn with probability $p_i \propto (1 - u)\,\|c_{\cdot,i}\| / \sum_j \|c_{\cdot,j}\| + u / n$, where
    $u$ is `uniform`, and weighted by the inverse of its expected count. The cotangents $c$ are known before the replay,
    so importance sampling costs nothing; draws are systematic (one random offset), which lowers the variance further.
    For coordinatewise optimizers only; the parts of a `Partitioned` one are sampled each by itself. The estimate's variance
    falls with the fraction; only $\varphi$'s gradient is estimated, a gradient with respect to the initial state is refused.
    Draws are fresh in every unroll, so in every truncation of an episode.

    **Raises:** `ValueError` for a `fraction` that is not above 0 and at most 1, or a `uniform` that is not between 0 and 1.
    """

    fraction: float | int = 0.1
    uniform: float | int = 0.1

    def __post_init__(self):
        if not 0 < real("fraction", self.fraction) <= 1:
            raise ValueError(f"`fraction` must be above 0 and at most 1, got {self.fraction!r}.")
        if not 0 <= real("uniform", self.uniform) <= 1:
            raise ValueError(f"`uniform` must be between 0 and 1, got {self.uniform!r}.")

    def choose(self, group, key):
        num = group.params.size
        count = max(1, min(num, round(self.fraction * num)))
        return *draw(key, group.ct_updates(), count, self.uniform), count

    def block_size(self, num):
        return _CPU_BLOCK if jax.default_backend() == "cpu" else num

    def check(self, wants_start):
        if wants_start:
            raise ValueError("`Sampled` estimates the gradient of the meta-parameters only; use `Stored` or `Blocks`.")


_CPU_BLOCK = 256  # coordinates, which fit the cache
