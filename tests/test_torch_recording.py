"""Meta-gradients of loops recorded in PyTorch are those of JAX's own unroll."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_nets
from fakes import Normalised, assert_trees_close, tiny_lstm

import l2o
from l2o.meta.recording import RecordedLoop, meta_gradient
from l2o.optimizers import pretrained

torch = pytest.importorskip("torch")

from torch.optim.optimizer import _global_optimizer_pre_hooks  # noqa: E402

from l2o.torch import LearnedOptimizer, Recorder  # noqa: E402 (after the check that there is one)

LENGTH = 6


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


def record(weights, length=LENGTH, dtype=np.float64, groups=None, schedule=None, **options):
    x, y = (torch.tensor(array) for array in torch_nets.data(dtype))
    params = torch_nets.torch_params(torch_nets.start(dtype=dtype))
    optimizer = LearnedOptimizer(groups(params) if groups else params.values(), weights, **options)
    scheduler = schedule and schedule(optimizer)
    recorder = Recorder()
    for _ in range(length):
        with recorder:
            optimizer.zero_grad()
            torch_nets.torch_loss(params, x, y).backward()
            optimizer.step()
        if scheduler:
            scheduler.step()
    return recorder.recordings()


class Scheduled(l2o.AbstractLearnedOptimizer):
    """A rule with torch's rate and weight decay around it, to unroll in JAX."""

    rule: l2o.AbstractLearnedOptimizer
    rates: jax.Array
    decay: float = eqx.field(static=True)

    def init(self, params):
        return self.rule.init(params), jnp.zeros((), jnp.int32)

    def update(self, updates, state, params=None, **extra):
        updates, inner = self.rule.update(updates, state[0], params)
        rate = jax.lax.stop_gradient(self.rates)[state[1]]
        stepped = jax.tree.map(lambda u, p: rate * u - rate * self.decay * p, updates, params)
        return stepped, (inner, state[1] + 1)


def in_jax(optimizer, length=LENGTH, truncation=None, rates=None, decay=0.0):
    """Mean loss and its gradient in the form `Stored()`."""
    x, y = torch_nets.data()
    params = jax.tree.map(jnp.asarray, torch_nets.start())
    task = l2o.FunctionTask(lambda key: params, lambda p, key: torch_nets.jax_loss(p, x, y))
    rates = jnp.ones(length) if rates is None else jnp.asarray(rates)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def meta_loss(rule):
        optimizer = Scheduled(rule, rates, decay)
        state, losses = l2o.start(task, optimizer, jax.random.key(0)), []
        for _ in range(length // (truncation or length)):
            state = jax.tree.map(jax.lax.stop_gradient, state)
            state, some = l2o.unroll(
                task, optimizer, state, jax.random.key(0), length=truncation or length, meta_gradient=l2o.Stored()
            )
            losses.append(some)
        return jnp.mean(jnp.concatenate(losses))

    return meta_loss(optimizer)


def double(optimizer):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), optimizer)


def assert_same(recordings, optimizer, truncation=None, **options):
    loss, gradient = meta_gradient(optimizer, recordings, truncation=truncation, block=50)
    expected_loss, expected = in_jax(optimizer, truncation=truncation, **options)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
    scale = float(optax.tree.norm(expected))
    assert scale > 1e-6
    assert_trees_close(gradient, expected, rtol=1e-7, atol=1e-9 * scale)


@pytest.mark.parametrize("truncation", [None, 2])
def test_the_meta_gradient_is_that_of_stored(truncation, x64):
    optimizer = double(tiny_lstm())
    assert_same(record(pretrained.as_dict(optimizer)), optimizer, truncation)


@pytest.mark.slowest
@pytest.mark.slow
def test_a_shipped_optimizer_in_single_precision(x64):
    """To 1e-5: what the float32 network allows."""
    optimizer = l2o.load("lstm-quadratic")
    loss, gradient = meta_gradient(optimizer, record("lstm-quadratic", dtype=np.float32))
    expected_loss, expected = in_jax(double(optimizer))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    difference = jax.tree.map(lambda a, b: a - b, gradient, expected)
    assert optax.tree.norm(difference) < 1e-5 * optax.tree.norm(expected)


def test_rates_schedules_weight_decay_and_groups_are_replayed(x64):
    optimizer = double(tiny_lstm())
    recordings = record(
        pretrained.as_dict(optimizer),
        groups=lambda params: [
            {"params": [params["bias"], params["conv"]]},
            {"params": [params["dense"], params["gain"]]},
        ],
        schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8),
        lr=0.5,
        weight_decay=0.3,
    )
    assert len(recordings) == 2
    assert_same(recordings, optimizer, rates=0.5 * 0.8 ** np.arange(LENGTH), decay=0.3)


def test_the_whole_loop_or_two_lines_of_it_may_be_recorded_and_the_loop_stays_as_it_was():
    weights = pretrained.as_dict(tiny_lstm())
    x, y = (torch.tensor(array) for array in torch_nets.data(np.float32))

    def loop(optimizer_of):
        params = torch_nets.torch_params(torch_nets.start(dtype=np.float32))
        optimizer = optimizer_of(params.values())
        for _ in range(LENGTH):
            optimizer.zero_grad()
            torch_nets.torch_loss(params, x, y).backward()
            optimizer.step()
        return [p.detach() for p in params.values()]

    with Recorder() as recorder:
        recorded = loop(lambda params: LearnedOptimizer(params, weights))
    plain = loop(lambda params: LearnedOptimizer(params, weights))
    assert all(torch.equal(a, b) for a, b in zip(recorded, plain, strict=True))
    (whole,), (lines,) = recorder.recordings(), record(weights, dtype=np.float32)
    assert torch.equal(whole.gradients, lines.gradients)
    assert torch.equal(whole.losses, lines.losses)
    assert not _global_optimizer_pre_hooks  # nothing stays behind


def test_a_closure_and_accumulated_gradients():
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = LearnedOptimizer([p], "lstm-mnist")

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        (3 * p).sum().backward()
        return loss

    with Recorder() as recorder:
        optimizer.step(closure)
    (recording,) = recorder.recordings()
    assert recording.losses.tolist() == [4.0 + 6.0]
    assert recording.gradients.tolist() == [[4.0 + 3.0]]
    assert recording.params.tolist() == [2.0]


def test_recordings_that_would_be_wrong_are_refused():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    def step(optimizer, *params):
        optimizer.zero_grad()
        sum((p**2).sum() for p in params).backward()
        optimizer.step()

    def refused(message):
        return pytest.raises(ValueError, match=message)

    one, other, both = (LearnedOptimizer(params, "lstm-mnist") for params in ([a], [b], [a, b]))
    of_two = LearnedOptimizer([{"params": [a]}, {"params": [b], "weights": "lstm-quadratic"}], "lstm-mnist")
    with refused("Nothing was recorded"):
        Recorder().recordings()
    a.grad = torch.ones(2)
    with Recorder(), refused("without a `backward\\(\\)` seen by the recorder"):
        one.step()
    with Recorder():
        step(one, a)
        with refused("a second LearnedOptimizer took a step"):
            step(other, b)
    with Recorder(), refused("groups have weights of their own"):
        step(of_two, a)
    with Recorder():
        step(both, a, b)
        with refused("Other parameters have gradients than in the first step"):
            step(both, a)
    assert not _global_optimizer_pre_hooks
    recordings = record("lstm-mnist", dtype=np.float32, beyond=None)
    with pytest.raises(ValueError, match="must divide the number of recorded steps, got truncation=4 and 6 steps"):
        meta_gradient(l2o.load("lstm-mnist", beyond=None), recordings, truncation=4)
    with pytest.raises(
        ValueError, match=r"is of another optimizer \(leaf \[0\]\[0\] of its state: \(20, 118\) vs \(3, 118\)"
    ):
        meta_gradient(tiny_lstm(), recordings)
    with pytest.raises(ValueError, match="needs a coordinatewise optimizer, got Normalised"):
        meta_gradient(Normalised(jnp.ones(())), recordings)


def bowl_loop(make_optimizer, seed):
    """|x - c|^2 with c drawn."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(2, generator=generator)
    x = torch.nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer([x])
    for _ in range(10):
        optimizer.zero_grad()
        ((x - centre) ** 2).sum().backward()
        optimizer.step()
    return ((x - centre) ** 2).sum().item()


@pytest.mark.parametrize("truncation", [None, 5])
@pytest.mark.slow
def test_meta_training_on_a_torch_loop_counts_its_runs_and_not_their_steps(truncation):
    estimator = RecordedLoop(bowl_loop, num_tasks=2, truncation=truncation)
    result = l2o.meta_train(tiny_lstm(), estimator, num_steps=3, key=jax.random.key(0))
    assert result.num_episodes == 6
    assert np.isnan(result.num_inner_steps)


@pytest.mark.slow
def test_meta_training_on_a_torch_loop_improves_it_and_resumes_bit_for_bit(tmp_path):
    start, key = tiny_lstm(), jax.random.key(0)
    estimator = RecordedLoop(bowl_loop, num_tasks=4, truncation=5)

    def final_loss(optimizer):
        weights = pretrained.as_dict(optimizer)
        return np.mean([bowl_loop(lambda p: LearnedOptimizer(p, weights), seed) for seed in range(1000, 1016)])

    def train(num_steps, **options):
        return l2o.meta_train(start, estimator, optax.adam(1e-2), num_steps=num_steps, key=key, **options)

    whole = train(30)
    assert whole.num_skipped == whole.num_diverged == 0
    assert whole.num_episodes == 120
    assert final_loss(whole.optimizer) < 0.5 * final_loss(start)
    train(12, folder=tmp_path / "run")
    resumed = train(30, folder=tmp_path / "run", resume=True)
    assert_trees_close(resumed.optimizer, whole.optimizer, rtol=0, atol=0)
