"""Where `l2o train` starts: which teacher it finds, and what becomes of a student that cannot imitate it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import assert_trees_equal, bowls

import l2o
from l2o.cli import _teaching
from l2o.evaluation.design.look import Look
from l2o.evaluation.design.plan import COARSE, FINE
from l2o.optimizers.hand_designed import HandDesigned

KEY = jax.random.key(0)


def seen(operations):
    return Look(deterministic=True, num_params=3, gradient_rms=1.0, real=True, operations=operations, labels={})


def test_effort_depends_on_the_problem_alone():
    assert _teaching.effort(seen(1e3), 100) == (FINE, FINE.more * 8)
    assert _teaching.effort(seen(1e9), 100) == (COARSE, COARSE.more * 2)


def test_a_baseline_as_teacher_is_tuned():
    """On sum (x - a)^2 a step at rate r leaves 1 - 2 r of what is missing: one at r = 1/2, first or later, leaves nothing."""

    def family(key):
        target = jax.random.normal(key, (3,))
        return l2o.FunctionTask(lambda key: jnp.zeros(3), lambda x, key: jnp.sum((x - target) ** 2))

    rule, what = _teaching.find("sgd", family, 3, key=KEY)
    assert rule.name == "sgd"
    scale = (lambda step: 1.0) if rule.schedule == "constant" else l2o.baselines.schedule(rule.schedule, 3)
    assert abs(np.prod([1 - 2 * rule.rate * float(scale(step)) for step in range(3)])) < 0.1
    assert what.startswith(f"{rule} (tuned in ")


def test_an_lstm_becomes_able_to_do_what_its_teacher_does():
    """Gates stay open for up to the horizon; the output scale is twice the updates, which sign descent has of one size."""
    student = l2o.LSTM.paper(key=KEY, num_units=4)
    teacher = l2o.chain(optax.scale_by_sign(), optax.scale(-0.03))
    able = _teaching.able(student, teacher, bowls, 100, key=KEY)
    forget = np.concatenate([cell.bias[4:8] for cell in able.cells])
    assert (forget >= 0.5).all()
    assert (forget <= np.log(100)).all()
    assert able.output_scale == pytest.approx(0.06)
    fixed = _teaching.able(student, teacher, bowls, 100, fixed=("preset",), key=KEY)
    assert fixed.output_scale == student.output_scale
    rule = l2o.Momentum(5)
    assert _teaching.able(rule, teacher, bowls, 100, key=KEY) is rule


def test_steps_are_weighed_so_that_all_count_alike():
    """Gradient descent at a rate of 1 / 4 halves what is missing, so losses fall to a quarter at every step."""
    descent = l2o.Momentum(6, rate=0.25, decay="constant", b1=0.0, power=0.0, nesterov=False)
    weights = _teaching.balance(descent, bowls, 6, key=KEY)
    np.testing.assert_allclose(weights[1:] / weights[:-1], 4.0, rtol=1e-4)
    assert float(weights.mean()) == pytest.approx(1)

    def below_zero(key):
        return l2o.FunctionTask(lambda key: jnp.zeros(2), lambda x, key: jnp.sum(x) - 1)

    assert _teaching.balance(descent, below_zero, 6, key=KEY) is None


class Asks(l2o.AbstractLearnedOptimizer):
    """A rule that asks for the loss."""

    rate: jax.Array

    @property
    def uses_value(self):
        """It does."""
        return True

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, **extra):
        return jax.tree.map(lambda g: -self.rate * g, updates), state


def started(student, path, *, resume=False, **asked):
    asked = _teaching.Asked(**{"teacher": "sgd", "steps": 3, "optimizer": "momentum", "arguments": {}, **asked})
    return _teaching.started(student, asked, bowls, 6, path, key=KEY, resume=resume)


def test_a_student_that_cannot_imitate_is_told_what_to_do(tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    l2o.pretrained.save(teacher, HandDesigned("sgd", 6, rate=0.1))
    with pytest.raises(
        ValueError, match=r"Asks cannot imitate .*asks for the loss.* Pass `--teacher none` to start from"
    ):
        started(Asks(jnp.asarray(0.1)), tmp_path / "start.safetensors", teacher=str(teacher))


@pytest.mark.slow
def test_what_is_resumed_is_the_start_that_was_kept(tmp_path):
    teacher, path = str(tmp_path / "teacher.safetensors"), tmp_path / "start.safetensors"
    l2o.pretrained.save(teacher, HandDesigned("sgd", 6, rate=0.1))
    student = l2o.Momentum(6, rate=0.3)
    with pytest.raises(FileNotFoundError, match=r"start.safetensors, which a run with a teacher starts from"):
        started(student, path, teacher=teacher, resume=True)
    first = started(student, path, teacher=teacher)
    assert first.step_weights.shape == (6,)
    assert_trees_equal(started(student, path, teacher=teacher, resume=True), first)
    with pytest.raises(ValueError, match=r"began with teacher '.*teacher.safetensors', .* but 'adam' was asked for"):
        started(student, path, teacher="adam", resume=True)
    with pytest.raises(ValueError, match=r"began with arguments \{\}"):
        started(student, path, teacher=teacher, arguments={"b1": 0.5}, resume=True)
