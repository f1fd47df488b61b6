"""Distillation: what is recorded, what the error says, and what a student becomes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import Affine, Descent, assert_trees_equal, bowls, regression

import l2o
from l2o.meta import lessons
from l2o.tasks import quadratic

KEY = jax.random.key(0)


def descent(rate):
    return Descent(jnp.log(jnp.asarray(float(rate))))


def nets(key):
    return regression(0)


def distilled(student, teacher, family, **options):
    outer_opt = optax.adam(optax.cosine_decay_schedule(0.1, options.get("num_steps", 80)))
    defaults = {"horizon": 12, "num_steps": 80, "num_own_runs": 0, "num_tasks": 4, "outer_opt": outer_opt, "key": KEY}
    return l2o.distill(student, teacher, family, **{**defaults, **options})


def recorder(student, teacher, family, most=1000, horizon=6):
    parts = lessons.parts_of(student, lessons.example_params(family, KEY), most)
    return parts, lessons.Recorder(l2o.chain(teacher), family, parts, horizon, None, None)


@pytest.fixture(scope="module")
def copied():
    return distilled(descent(0.01), descent(0.1), nets, num_own_runs=2, num_steps=120)


def test_a_student_of_the_teachers_class_becomes_the_teacher(copied):
    result = copied
    assert float(result.optimizer.log_rate) == pytest.approx(np.log(0.1), abs=0.02)
    assert result.error < 1e-3
    assert result.lost.value == pytest.approx(1, abs=0.01)
    assert result.lost.low <= result.lost.value <= result.lost.high
    assert (result.num_steps, result.num_skipped, result.num_diverged) == (120, 0, 0)
    assert (result.num_runs, result.num_inner_steps) == (6, 6 * 12)  # four of the teacher's and two of its own
    assert result.history[0]["error"] > 100 * result.history[-1]["error"]
    assert [row["length"] for row in (result.history[0], result.history[-1])] == [3, 12]


def test_a_rule_that_is_not_coordinatewise_learns_from_whole_runs_and_finds_the_constants_of_a_schedule():
    teacher = optax.sgd(optax.linear_schedule(0.08, 0.0, 12))
    student = l2o.Momentum(12, rate=0.02, decay="linear", least=0.2, b1=0.0, power=0.0, nesterov=False)
    result = distilled(student, teacher, nets, num_steps=200)
    np.testing.assert_allclose(result.optimizer.rates(jnp.array([0, 6])), [0.08, 0.04], rtol=0.05)
    assert result.error < 0.01


def test_each_part_learns_from_its_own_teacher():
    student = l2o.Partitioned({"hidden": descent(0.02), "out": descent(0.02)})
    result = distilled(student, {"hidden": optax.sgd(0.1), "out": descent(0.005)}, nets, num_steps=160)
    rates = {name: float(jnp.exp(part.log_rate)) for name, part in result.optimizer.parts.items()}
    assert rates == pytest.approx({"hidden": 0.1, "out": 0.005}, rel=0.05)


def test_what_the_teacher_cannot_be_copied_in_is_told():
    def valleys(key):
        return l2o.FunctionTask(lambda key: jnp.ones(2), lambda x, key: x[0] ** 2 + 100 * x[1] ** 2)

    newton = optax.stateless(lambda g, params: -0.4 * g / jnp.array([1.0, 100.0]))  # each coordinate's own rate
    result = distilled(descent(1e-4), newton, valleys, horizon=4)
    assert result.error > 0.3
    assert result.lost.value > 2
    ours, theirs = (
        l2o.loss_curves(rule, valleys, horizon=4, num_tasks=4, key=KEY)[:, -1].mean()
        for rule in (result.optimizer, newton)
    )
    assert result.lost.value == pytest.approx(ours / theirs)


def test_runs_of_the_teacher_are_recorded_as_they_went():
    _, record = recorder(descent(1.0), optax.adam(0.1), nets)
    found = record(None, jax.random.split(KEY, 2))
    (lesson,) = found.parts
    assert lesson.wanted.shape == (2, 6, 12)
    np.testing.assert_allclose(lesson.params[:, 1:] - lesson.params[:, :-1], lesson.wanted[:, :-1], atol=1e-6)
    curves = l2o.loss_curves(optax.adam(0.1), nets, horizon=6, num_tasks=2, key=KEY)
    np.testing.assert_allclose(found.losses, curves, rtol=1e-6)


def test_in_runs_of_the_students_own_the_teacher_says_what_it_would_do():
    _, record = recorder(descent(0.05), optax.adam(0.1), nets)
    (lesson,) = record(descent(0.05), KEY[None]).parts
    gradients, params, wanted = (x[0] for x in lesson)
    np.testing.assert_allclose(params[1:] - params[:-1], -0.05 * gradients[:-1], atol=1e-6)
    state = optax.adam(0.1).init(jnp.zeros(12))
    for gradient, told in zip(gradients, wanted, strict=True):
        updates, state = optax.adam(0.1).update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(told, updates, rtol=1e-4)


def test_coordinates_are_drawn_from_the_part_and_half_of_them_by_leaf():
    student = l2o.Partitioned({"hidden": descent(0.1), "out": descent(0.1)})

    def family(key):
        start = {"hidden": {"w": jnp.ones(990), "b": jnp.ones(10)}, "out": jnp.ones(20)}
        return l2o.FunctionTask(lambda key: start, lambda p, key: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))

    hidden, out = lessons.parts_of(student, lessons.example_params(family, KEY), 400)
    places = hidden.drawn(np.random.default_rng(0))
    assert places.shape == (400,)
    assert places.max() < 1000
    in_bias = places < 10  # "b" is before "w": a half of those by leaf, and one in a hundred of the others
    assert 70 < in_bias.sum() < 135
    np.testing.assert_array_equal(out.drawn(np.random.default_rng(0)), np.arange(1000, 1020))  # all that there are


def test_the_error_is_what_its_equation_says():
    rng = np.random.default_rng(0)
    gradients, params, wanted = rng.normal(size=(3, 2, 25, 4)).astype(np.float32)
    wanted *= np.linspace(1, 0.1, 25, dtype=np.float32)[:, None]
    student = descent(0.3)
    parts = [lessons.Part(None, [np.arange(4)], 4)]
    found = lessons.errors(
        student, parts, lessons.Lessons(np.zeros((2, 26)), [lessons.Lesson(gradients, params, wanted)])
    )
    expected = []
    for g, v in zip(gradients, wanted, strict=True):
        size = np.sum(v**2, axis=1)
        means = np.repeat([size[:10].mean(), size[10:20].mean(), size[20:].mean()], [10, 10, 5])
        expected.append(np.mean(np.sum((-0.3 * g - v) ** 2, axis=1) / np.sqrt(means * size.mean())))
    assert found == pytest.approx([np.mean(expected)], rel=1e-4)


def test_runs_of_its_own_that_diverge_are_left_out_and_losses_that_are_not_finite_are_told():
    options = {"outer_opt": optax.sgd(0.0), "num_own_runs": 1, "num_steps": 4, "horizon": 8}
    result = distilled(descent(1e20), optax.sgd(0.1), bowls, **options)
    assert result.num_runs == 4
    assert result.num_diverged == 4
    assert result.lost.value == np.inf


def test_the_same_key_gives_the_same_bits_up_to_where_the_caller_ends_it():
    def stopped():
        return distilled(descent(0.01), optax.adam(0.1), bowls, horizon=4, on_step=lambda row: row["step"] == 3)

    one, other = stopped(), stopped()
    assert one.num_steps == len(one.history) == 3
    assert_trees_equal(one.optimizer, other.optimizer)
    assert one.history == other.history


def test_a_comparison_takes_the_result_and_knows_what_it_took(copied):
    panels = {"bowls": l2o.Panel.of(bowls, 3)}
    found = l2o.compare(panels, {"mine": copied}, key=KEY, num_tasks=2, measure_costs=False)
    assert found.records["bowls"]["mine"].learned
    assert found.meta_training["mine"] == (copied.seconds, 6, 72)


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (descent(0.1), optax.sgd(1e30), FloatingPointError, r"The teacher diverges: 8 of 8 of its runs"),
        (descent(0.1), optax.set_to_zero(), ValueError, r"moves none of the recorded coordinates"),
        (l2o.chain(optax.sgd(0.1)), optax.sgd(0.1), ValueError, r"nothing to train"),
        (l2o.Guarded(descent(0.1)), optax.sgd(0.1), ValueError, r"Guarded asks for the loss\. Distill the rule inside"),
        (descent(0.1), {"w": optax.sgd(0.1)}, ValueError, r"for each of w, but the student, a Descent, has no parts"),
        (
            l2o.Partitioned({"a": descent(0.1), "b": descent(0.1)}),
            {"a": optax.sgd(0.1)},
            ValueError,
            r"for each of a, but the student, a Partitioned, has the parts a, b",
        ),
    ],
)
def test_helpful_errors(student, teacher, error, message):
    with pytest.raises(error, match=message):
        distilled(student, teacher, bowls)


def test_memory_is_bounded():
    def large(key):
        return l2o.FunctionTask(lambda key: jnp.zeros(10**6), lambda x, key: jnp.sum(x**2))

    affine = Affine(jnp.asarray(0.1), jnp.asarray(0.0))
    with pytest.raises(
        ValueError, match=r"Recording 1000000 coordinates \(all\) for 100 steps of 8 runs would take 8\.9 GiB"
    ):
        distilled(affine, optax.sgd(0.1), large, horizon=100)


@pytest.mark.slow
@pytest.mark.slowest
def test_an_lstm_imitates_adam():
    student = l2o.LSTM(num_units=8, preprocessing=5.0, output_scale=0.1, key=KEY)
    result = l2o.distill(
        student, optax.adam(0.1), quadratic.family(dim=5), key=KEY, horizon=40, num_runs=32, num_steps=600
    )
    assert result.error < 0.1
    assert result.lost.value == pytest.approx(1, abs=0.15)
