"""A task, a rule, two wrappers, an estimator and a form of the meta-gradient in one file: whatever l2o does, it does with them.

Nothing is registered, and no other file knows of them: adding one touches one file.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_close, assert_trees_equal
from jaxtyping import Array, Float

import l2o
from l2o.core.optimizer import CoordinateGroup
from l2o.evaluation import records
from l2o.meta.estimators import Estimate

KEY = jax.random.key(0)


class Valley(l2o.AbstractTask):
    """f(w, b) = |A w - b|² + |b|² with a matrix of params and a vector of them."""

    stretch: Float[Array, "3 3"]

    def init(self, key):
        return {"w": jax.random.normal(key, (3, 2)), "b": jnp.ones(3)}

    def loss(self, params, key, *, split="train"):
        residual = self.stretch @ params["w"] - params["b"][:, None]
        return jnp.mean(residual**2) + jnp.mean(params["b"] ** 2)


def valleys(key):
    return Valley(jnp.eye(3) + 0.3 * jax.random.normal(key, (3, 3)))


class Settling(l2o.AbstractCoordinatewise):
    """m <- b m + g, u = -a m / (1 + |m| / limit)."""

    log_rate: Float[Array, ""]
    decay: Float[Array, ""]
    limit: float = eqx.field(static=True, default=3.0)

    def init_coordinates(self, num):
        return jnp.zeros(num)

    def update_coordinates(self, gradients, state, params):
        state = self.decay * state + gradients
        return -jnp.exp(self.log_rate) * state / (1 + jnp.abs(state) / self.limit), state


class Shared(l2o.AbstractLearnedOptimizer):
    """Another rule's updates, all of them times one learned number of their common length."""

    inner: l2o.AbstractLearnedOptimizer
    slope: Float[Array, ""]

    def init(self, params):
        return self.inner.init(params)

    def update(self, updates, state, params=None, **extra):
        updates, state = self.inner.update(updates, state, params, **extra)
        length = optax.tree.norm(updates)
        return jax.tree.map(lambda u: u / (1 + self.slope**2 * length), updates), state


class ByRank(l2o.AbstractLearnedOptimizer):
    """One rule for matrices, one for vectors."""

    matrices: l2o.AbstractLearnedOptimizer
    vectors: l2o.AbstractLearnedOptimizer

    def coordinate_groups(self, params):
        return {
            "matrices": CoordinateGroup(self.matrices, lambda tree: of_rank(tree, params, 2)),
            "vectors": CoordinateGroup(self.vectors, lambda tree: of_rank(tree, params, 1)),
        }

    def with_groups(self, rules):
        return ByRank(**rules)

    def init(self, params):
        return {name: group.rule.init(group.take(params)) for name, group in self.coordinate_groups(params).items()}

    def update(self, updates, state, params=None, **extra):
        found, new = [], {}
        for name, group in self.coordinate_groups(updates).items():
            own = None if params is None else group.take(params)
            part, new[name] = group.rule.update(group.take(updates), state[name], own, **extra)
            found.append(part)
        return eqx.combine(*found), new


def of_rank(tree, like, rank):
    return jax.tree.map(lambda leaf, x: leaf if jnp.ndim(x) == rank else None, tree, like)


class Evolution(l2o.AbstractGradientEstimator):
    """Antithetic evolution strategies, one pair of particles a task; episodes go on without noise."""

    problem: l2o.AbstractInnerProblem
    num_tasks: int = eqx.field(static=True)
    std: float = eqx.field(static=True, default=0.05)

    def init(self, optimizer, key):
        return jax.vmap(lambda key: self.problem.init(optimizer, key))(jax.random.split(key, self.num_tasks))

    def estimate(self, optimizer, state, key):
        arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)

        def one(state, key):
            noise_key, fresh_key = jax.random.split(key)
            noise = optax.tree.random_like(noise_key, arrays, jax.random.normal)
            moved = [jax.tree.map(lambda a, n, s=s: a + s * self.std * n, arrays, noise) for s in (1, -1)]
            up, down = (self.problem.advance(eqx.combine(m, static), state)[1] for m in moved)
            state, loss = self.problem.advance(optimizer, state)
            fresh, over = self.problem.init(optimizer, fresh_key), self.problem.finished(state)
            state = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, state)
            return state, loss, jax.tree.map(lambda n: (up - down) / (2 * self.std) * n, noise)

        state, losses, gradients = jax.vmap(one)(state, jax.random.split(key, self.num_tasks))
        mean = jax.tree.map(lambda g: g.mean(axis=0), gradients)
        return Estimate(losses.mean(), mean, jnp.zeros((), jnp.int32)), state


@dataclasses.dataclass(frozen=True)
class Halves(l2o.AbstractMetaGradient):
    """The first-order meta-gradient, cut in the middle of every unroll."""

    def unroll(self, optimizer, state, run):
        half = run.length // 2
        state, early = l2o.Stored().unroll(optimizer, state, run._replace(length=half))
        state = jax.lax.stop_gradient(state)
        state, late = l2o.Stored().unroll(optimizer, state, run._replace(length=run.length - half))
        return state, jnp.concatenate([early, late])


def settling(rate=0.005, **constants):
    return Settling(jnp.log(jnp.asarray(rate, jnp.float32)), jnp.asarray(0.5), **constants)


RULES = {
    "rule": settling,
    "wrapper": lambda: Shared(settling(), jnp.asarray(1.0)),
    "groups": lambda: ByRank(settling(), settling(0.01)),
}


@pytest.fixture(params=RULES, scope="module")
def rule(request):
    return RULES[request.param]()


def mean_loss(optimizer):
    return l2o.loss_curves(optimizer, valleys, horizon=10, num_tasks=4, key=jax.random.key(9)).mean()


@pytest.fixture(params=["bptt", "evolution"], scope="module")
def estimator(request):
    if request.param == "bptt":
        problem = l2o.InnerTraining(valleys, horizon=10, truncation=5, meta_gradient=Halves())
        return l2o.BPTT(problem, num_tasks=4)
    return Evolution(l2o.InnerTraining(valleys, horizon=10, truncation=5), num_tasks=8)


@pytest.mark.slow
def test_meta_training(rule, estimator):
    result = l2o.meta_train(rule, estimator, optax.adam(0.03), num_steps=15, key=KEY)
    assert type(result.optimizer) is type(rule)
    assert result.num_skipped == result.num_diverged == 0
    assert mean_loss(result.optimizer) < mean_loss(rule)


def test_the_form_is_what_it_says_it_is(rule):
    task, start = valleys(KEY), l2o.start(valleys(KEY), rule, KEY)

    def whole(rule):
        return l2o.unroll(task, rule, start, KEY, length=6, meta_gradient=Halves())[1].sum()

    def by_hand(rule):
        state, early = l2o.unroll(task, rule, start, KEY, length=3)
        return early.sum() + l2o.unroll(task, rule, jax.lax.stop_gradient(state), KEY, length=3)[1].sum()

    assert_trees_close(eqx.filter_grad(whole)(rule), eqx.filter_grad(by_hand)(rule), rtol=1e-5)


@pytest.mark.parametrize("name", ["rule", "groups"])
@pytest.mark.slow
def test_forms_that_replay_coordinates_take_them(name):
    rule, task = RULES[name](), valleys(KEY)

    def gradient(form):
        def meta_loss(rule):
            start = l2o.start(task, rule, KEY)
            return l2o.unroll(task, rule, start, KEY, length=6, meta_gradient=form)[1].sum()

        return eqx.filter_grad(meta_loss)(rule)

    stored = gradient(l2o.Stored())
    assert_trees_close(gradient(l2o.Blocks(2)), stored, rtol=1e-4, atol=1e-5 * float(optax.tree.norm(stored)))


@pytest.mark.slowest
@pytest.mark.slow
def test_a_run_that_is_resumed(tmp_path):
    options = {"key": KEY, "folder": tmp_path, "checkpoint_every": 2}
    estimator = Evolution(l2o.InnerTraining(valleys, horizon=4, truncation=2), num_tasks=2)
    l2o.meta_train(RULES["wrapper"](), estimator, num_steps=2, **options)
    result = l2o.meta_train(RULES["wrapper"](), estimator, num_steps=4, resume=True, **options)
    expected = l2o.meta_train(RULES["wrapper"](), estimator, num_steps=4, key=KEY)
    assert_trees_equal(result.optimizer, expected.optimizer)


def test_save_and_load(rule, tmp_path):
    moved = jax.tree.map(lambda x: 1.1 * x, rule)
    l2o.save(tmp_path / "it.safetensors", moved, recipe={"horizon": 10}, family=valleys)
    loaded = l2o.load(tmp_path / "it.safetensors", like=rule, beyond=None)
    assert_trees_equal(loaded, moved)
    told = l2o.pretrained.header(tmp_path / "it.safetensors")
    assert told["scale"]["num_params"] == 9
    held = l2o.load(tmp_path / "it.safetensors", like=rule, horizon=10)
    curves = [l2o.loss_curves(x, valleys, horizon=10, num_tasks=2, key=KEY) for x in (moved, held)]
    np.testing.assert_array_equal(*curves)


@pytest.mark.slow
def test_compare(tmp_path):
    panels = {"valleys": l2o.Panel(lambda: valleys, horizon=20, run_to=25, source="this file")}
    options = {"key": KEY, "num_tasks": 4, "tune_tasks": 2, "search": l2o.Search(3), "folder": tmp_path / "it"}
    contenders = {name: make() for name, make in RULES.items()} | {"adam": l2o.baselines.get("adam")}
    found = l2o.compare(panels, contenders, **options)
    assert found.left_out == {"valleys": {}}
    learned = {name for name, record in found.records["valleys"].items() if record.learned}
    assert learned == set(RULES)
    assert str(found.table()).splitlines()[1].split()[0] == "optimizer"
    assert str(records.load(tmp_path / "it").table()) == str(found.table())
    again = l2o.compare(
        panels, contenders, resume=True, on_done=pytest.fail, **options
    )  # their fingerprints are the same
    np.testing.assert_array_equal(
        again.records["valleys"]["rule"].curves.losses, found.records["valleys"]["rule"].curves.losses
    )


@pytest.mark.parametrize(("name", "part"), [("rule", None), ("wrapper", None), ("groups", "vectors")])
@pytest.mark.slowest
@pytest.mark.slow
def test_explain(name, part):
    found = l2o.explain(RULES[name](), valleys, horizon=5, key=KEY, part=part, num_tasks=4, num_fitted=4)
    assert found.num_params == (9 if part is None else 3)
    assert found.fitted[found.best].r2 > 0.5


def test_pytorch_takes_what_has_a_twin_and_says_what_has_none(rule, tmp_path):
    torch = pytest.importorskip("torch")
    import l2o.torch

    params = [torch.nn.Parameter(torch.ones(3))]
    with pytest.raises(ValueError, match="No PyTorch twin of the architecture 'own'"):
        l2o.torch.LearnedOptimizer(params, l2o.pretrained.as_dict(rule))
    lstm = l2o.LSTM(num_units=2, key=KEY)
    weights = l2o.pretrained.as_dict(l2o.Partitioned({"mine": rule, "theirs": lstm}))
    params[0].grad = torch.ones(3)
    l2o.torch.LearnedOptimizer(params, weights, part="theirs").step()
    updates, _ = lstm.update(jnp.ones(3), lstm.init(jnp.ones(3)), jnp.ones(3))
    np.testing.assert_allclose(params[0].detach().numpy(), 1 + np.asarray(updates), rtol=1e-5)
