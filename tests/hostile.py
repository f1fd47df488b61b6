"""Random tasks and random rules made to break a guard, a thousand at a time: everything about them follows from a key.

A task is loss = scale · f(x / length): `scale` 1e-30 to 1e30, `length` 1e-6 to 1e6, f one of `SHAPES`. Every number of them is an
array, so that all tasks of a dtype are one program under `vmap`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from fakes import tiny_lstm
from jaxtyping import Array, Float, Int

import l2o

DIM = 48  # of the real view; the last coordinates of a task of fewer dimensions are not its own
STEPS = 100


def _bowl(z, c, noise):
    return 0.5 * jnp.sum(jnp.linspace(0.2, 1.0, DIM) * (z - c) ** 2)


def _away(noise, share):
    """Whether a random `share` of the steps is hit; never when noise is None."""
    return jnp.zeros((), bool) if noise is None else jax.random.bernoulli(noise, share)


def _drift(noise):
    return jnp.zeros(DIM) if noise is None else jax.random.normal(noise, (DIM,))


@jax.custom_jvp
def _exploding(z, bad):
    """z; its gradient is infinite where `bad`."""
    return z


@_exploding.defjvp
def _exploding_jvp(primals, tangents):
    z, bad = primals
    return z, jnp.where(bad, jnp.inf, 1.0) * tangents[0]


SHAPES = {
    "bowl": _bowl,
    "cliff": lambda z, c, noise: _bowl(z, c, noise) + jnp.where(jnp.max(z - c) > 4, 1e6, 0.0),
    "plateau": lambda z, c, noise: 1 - jnp.exp(-jnp.sum((z - c) ** 2) / 8),
    "exponential": lambda z, c, noise: jnp.sum(jnp.cosh(z - c) - 1),
    "barrier": lambda z, c, noise: -jnp.sum(jnp.log1p(-(((z - c) / 6) ** 2))),
    "kink": lambda z, c, noise: jnp.sum(jnp.sqrt(jnp.abs(z - c))),
    "minibatches": lambda z, c, noise: _bowl(z, c + 0.3 * _drift(noise), noise) + 1.0,
    "wrong sign": lambda z, c, noise: jnp.where(_away(noise, 0.05), -1.0, 1.0) * _bowl(z, c, noise),
    "NaN at times": lambda z, c, noise: jnp.where(_away(noise, 0.1), jnp.nan, 1.0) * _bowl(z, c, noise),
    "inf loss, finite gradient": lambda z, c, noise: _bowl(z, c, noise) + jnp.where(_away(noise, 0.1), jnp.inf, 0.0),
    "inf gradient": lambda z, c, noise: _bowl(_exploding(z, _away(noise, 0.1)), c, noise),
    "negative": lambda z, c, noise: _bowl(z, c, noise) - 5.0,
    "unbounded": lambda z, c, noise: jnp.sum(z) + 10.0,
    "two basins": lambda z, c, noise: jnp.sum(2 + z**4 / 4 - z**2 / 2 - 0.3 * z),
    "zero": lambda z, c, noise: 0 * jnp.sum(z),
}

RULES = (
    "growing",
    "walk",
    "uphill",
    "rests",
    "NaN",
    "swings",
    "1e30",
    "tiny",
    "honest, then a leap",
    "random LSTM",
    "signs",
    "signs uphill",
    "honest, then climbing",
)
FALLBACKS = ("sgd", "adam", "nag")


class Task(eqx.Module):
    """One drawn task."""

    kind: Int[Array, ""]
    scale: Float[Array, ""]
    length: Float[Array, ""]
    centre: Float[Array, " dim"]
    start: Float[Array, " dim"]
    own: Float[Array, " dim"]  # 1 for the task's coordinates, 0 for the others

    def loss(self, params, noise=None):
        view = jnp.concatenate([params.real, params.imag]) if jnp.iscomplexobj(params) else params
        return _loss(view.astype(jnp.float32), self, noise)


def _shapes(view, task, noise):
    z = (view / task.length) * task.own + (1 - task.own) * task.centre
    branches = [lambda z, f=f: jax.value_and_grad(f)(z, task.centre, noise) for f in SHAPES.values()]
    loss, gradient = jax.lax.switch(task.kind, branches, z)
    # In this order, as scale / length may be a number where their reciprocals are not.
    return task.scale * loss, (task.scale / task.length) * gradient * task.own


# Its own derivative, as that of a choice between functions is NaN where that of one not chosen is.
@eqx.filter_custom_vjp
def _loss(view, task, noise):
    return _shapes(view, task, noise)[0]


@_loss.def_fwd
def _loss_forward(perturbed, view, task, noise):
    return _shapes(view, task, noise)


@_loss.def_bwd
def _loss_backward(gradient, cotangent, perturbed, view, task, noise):
    return cotangent * gradient


def draw(key, index, dtype):
    """The task, its start and its kinds of rule and fallback (`index` deals these out evenly)."""
    keys = jax.random.split(key, 6)
    narrow = dtype == jnp.float16
    exponent, length = jax.random.uniform(keys[0], (2,), minval=-1.0)
    scale, length = 10 ** (exponent * (2 if narrow else 30)), 10 ** (length * (0 if narrow else 3))
    dim = jax.random.randint(keys[1], (), 1, DIM // 2 + 1)
    own = (jnp.arange(DIM) % (DIM // 2) < dim).astype(jnp.float32)
    centre = jax.random.normal(keys[2], (DIM,)) * 10 ** jax.random.uniform(keys[3], minval=-2.0, maxval=0.5)
    start = centre + jax.random.uniform(keys[4], (DIM,), minval=-1.5, maxval=1.5)
    task = Task(index % len(SHAPES), scale, length, centre, start * own * length, own)
    start = task.start
    if jnp.issubdtype(dtype, jnp.complexfloating):
        start = start[: DIM // 2] + 1j * start[DIM // 2 :]
    return task, start.astype(dtype), (index // len(SHAPES)) % len(RULES), jax.random.randint(keys[5], (), 0, 3)


def _parts(tree, like):
    """A real vector as the params' dtype wants it."""
    if jnp.iscomplexobj(like):
        tree = tree[: DIM // 2] + 1j * tree[DIM // 2 :]
    return tree.astype(like.dtype)


def _view(params):
    view = jnp.concatenate([params.real, params.imag]) if jnp.iscomplexobj(params) else params
    return view.astype(jnp.float32)


class Hostile(l2o.AbstractLearnedOptimizer):
    """One of `RULES`, which knows the task's own length."""

    kind: Int[Array, ""]
    task: Task
    lstm: l2o.AbstractLearnedOptimizer
    key: Array
    size: Float[Array, ""]  # of its steps, in the task's lengths
    turn: Int[Array, ""]  # when it turns bad

    def init(self, params):
        return jnp.zeros((), jnp.int32), self.lstm.init(jnp.zeros(DIM))

    def update(self, updates, state, params=None, **extra):
        step, inner = state
        g, x = _view(updates), _view(params)
        normal = jax.random.normal(jax.random.fold_in(self.key, step), (DIM,))
        lstm, inner = self.lstm.update(g, inner)
        signs = self.size * jnp.sign(g)
        z = x / self.task.length
        honest = -0.05 * jnp.sign(g)
        turned = step >= self.turn
        chosen = jnp.stack(
            [
                500 * (1 + jnp.abs(z)),
                self.size * normal,
                0.1 * (self.task.length / self.task.scale) * g,
                0 * z,
                jnp.where(turned, jnp.nan, -signs),
                jnp.where(step % 2 == 0, 1.0, -1.0) * 10 * self.size * jnp.ones(DIM),
                1e30 * normal,
                1e-6 * normal,
                jnp.where(turned, 1e3 * self.size * normal, honest),
                lstm,
                -signs,
                signs,
                jnp.where(turned, 0.02 * z + 1e-3, honest),
            ]
        )[self.kind]
        return _parts(chosen * self.task.length * self.task.own, params), (step + 1, inner)


class Fallback(l2o.AbstractLearnedOptimizer):
    """One of `FALLBACKS`, its rate fitting the task."""

    kind: Int[Array, ""]
    task: Task

    def init(self, params):
        zeros = jnp.zeros(DIM)
        return jnp.zeros((), jnp.int32), zeros, zeros

    def update(self, updates, state, params=None, **extra):
        step, m, v = state
        g = _view(updates) / (self.task.scale / self.task.length)  # in the task's units
        adam = self.kind == 1
        m = jnp.where(adam, 0.9 * m + 0.1 * g, 0.9 * m + g)
        v = 0.999 * v + 0.001 * g**2
        step = step + 1
        rate = 0.05 * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)
        chosen = jnp.stack([-0.3 * g, -rate, -0.05 * (g + 0.9 * m)])[self.kind]
        return _parts(chosen * self.task.length, params), (step, m, v)


@eqx.filter_jit
def duel(key, indices, dtype):
    """Every task run by the guarded rule and by the fallback alone: first losses, final losses (without noise), and more."""

    def one(index):
        task_key = jax.random.fold_in(key, index)
        task, start, rule, fallback = draw(task_key, index, dtype)
        rule_key, lstm_key, turn_key, size_key, noise_key = jax.random.split(jax.random.fold_in(task_key, 1), 5)
        lstm = jax.tree.map(
            lambda w: 100 * jax.random.normal(lstm_key, w.shape) if eqx.is_inexact_array(w) else w, tiny_lstm()
        )
        size = 10 ** jax.random.uniform(size_key, minval=-3.0, maxval=1.0)
        turn = jax.random.randint(turn_key, (), 1, STEPS)
        rival = Fallback(fallback, task)
        guarded = l2o.Guarded(Hostile(rule, task, lstm, rule_key, size, turn), rival)

        def run(optimizer):
            def step(carry, noise):
                params, state = carry
                loss_fn = lambda params: task.loss(params, noise)
                loss, gradient = jax.value_and_grad(loss_fn)(params)
                updates, state = optimizer.update(jnp.conj(gradient), state, params, value=loss, value_fn=loss_fn)
                params = optax.apply_updates(params, updates.astype(params.dtype))
                return (params, state), jnp.all(jnp.isfinite(params))

            carry = (start, optimizer.init(start))
            (params, state), finite = jax.lax.scan(step, carry, jax.random.split(noise_key, STEPS))
            return params, state, jnp.all(finite)

        params, state, finite = run(guarded)
        alone, _, _ = run(optax.apply_if_finite(rival.as_optax(), 10**6))
        return {
            "kind": task.kind,
            "rule": rule,
            "fallback": fallback,
            "first": task.loss(start),
            "guarded": task.loss(params),
            "alone": task.loss(alone),
            "finite": finite,
            "reason": state.reason,
            "exact": jnp.all(params == alone),
            "over": state.num_learned,
        }

    return jax.lax.map(one, indices, batch_size=min(len(indices), 250))
