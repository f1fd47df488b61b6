"""What a rule amounts to: known rules are recovered, and what is told of unknown ones is so."""

import functools
import json
import re
import warnings

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o import report
from l2o.evaluation import followed, surrogates
from l2o.tasks import quadratic

pytestmark = [pytest.mark.slow, pytest.mark.slowest]

HORIZON = 40


def fitted(form, *halves):
    return surrogates.fit(next(f for f in surrogates.FORMS if f.name == form), *halves)


@functools.cache
def recovered(name):
    """Every surrogate fitted to a rule whose constants are known."""
    rule = {
        "sgd": optax.sgd(0.01),
        "momentum": optax.sgd(0.002, momentum=0.9),
        "off the grid": optax.sgd(0.002, momentum=0.85),
        "nag": optax.sgd(0.002, momentum=0.9, nesterov=True),
        "adam": optax.adam(0.1),
        "slow adam": optax.adam(0.05, b1=0.85, b2=0.97, eps=0.1),
    }[name]
    family = quadratic.family()
    params = jax.eval_shape(lambda: family(jax.random.key(0)).init(jax.random.key(1)))
    index, group = followed.drawn_coordinates([params.size], [True], jax.random.key(2))
    ran = followed.recorded(
        rule, family, index, jax.random.split(jax.random.key(3), 16), horizon=HORIZON, together=True
    )
    halves = [surrogates.samples(ran.gradients[h], ran.updates[h], group) for h in (slice(8), slice(8, 16))]
    return halves, lambda form: fitted(form, *halves)


def test_sgd_is_recovered():
    found = recovered("sgd")[1]("SGD")
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert found.step_size(1) == pytest.approx(0.01, rel=1e-3)
    assert found.num_constants == 1
    timed = recovered("sgd")[1]("SGD, a(t)")
    for step in (1, 4, 20, HORIZON):
        assert timed.step_size(step) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("name", "beta"), [("momentum", 0.9), ("off the grid", 0.85)])
def test_momentum_is_recovered(name, beta):
    found = recovered(name)[1]("momentum")
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert found.constants["decay"] == pytest.approx(beta, rel=1e-3)
    assert found.constants["time_constant"] == pytest.approx(-1 / np.log(beta), rel=1e-2)
    assert found.mean_lag == pytest.approx(beta / (1 - beta), rel=1e-2)
    assert found.step_size(1) == pytest.approx(0.002 / (1 - beta), rel=1e-2)  # trace = average / (1 - beta)
    assert recovered(name)[1]("SGD").r2 < 0.8  # and SGD would not do


def test_nesterov_is_the_gradient_and_its_average():
    found = recovered("nag")[1]("memory")
    assert found.r2 == pytest.approx(1, abs=1e-5)
    a0, a1, a2 = np.asarray(found.rule.step_sizes[0])
    np.testing.assert_allclose([a0, a1, a2], [0.002, 0.9 * 0.002 / 0.1, 0], rtol=0.03, atol=1e-4)


@pytest.mark.parametrize(("name", "rate", "b1", "b2"), [("adam", 0.1, 0.9, 0.999), ("slow adam", 0.05, 0.85, 0.97)])
def test_adam_is_recovered(name, rate, b1, b2):
    found = recovered(name)[1]("Adam")
    assert found.r2 > 0.999
    assert found.constants["normalised_step"] == pytest.approx(rate, rel=0.03)
    assert found.constants["decay"] == pytest.approx(b1, rel=0.02)
    assert found.constants["square_decay"] == pytest.approx(b2, rel=0.01)
    if name == "slow adam":
        assert found.constants["epsilon"] == pytest.approx(0.1, rel=0.05)


def test_a_saturated_rule_is_recovered():
    (fitting, held_out), _ = recovered("sgd")
    updates = [-0.3 * s.gradients / (1 + np.abs(s.gradients) / 0.7) for s in (fitting, held_out)]
    told = [s._replace(updates=u) for s, u in zip((fitting, held_out), updates, strict=True)]
    found = fitted("saturation", *told)
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert found.constants["saturation"] == pytest.approx(0.7, rel=1e-2)
    assert found.step_size(1) == pytest.approx(0.3, rel=1e-2)


def test_step_sizes_that_decay_are_recovered():
    (fitting, held_out), _ = recovered("sgd")
    # Linear in log t between the knots, as the form has it.
    sizes = np.interp(np.log(np.arange(1, HORIZON + 1)), np.log([1, HORIZON]), [0.5, 0.1])[:, None]
    told = [s._replace(updates=-sizes * s.gradients) for s in (fitting, held_out)]
    found = fitted("SGD, a(t)", *told)
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert [found.step_size(t) for t in (1, HORIZON)] == pytest.approx([0.5, 0.1], rel=1e-3)


@pytest.mark.parametrize("form", ["momentum", "saturation, memory, a(t)", "everything"])
def test_a_surrogate_proposes_what_was_fitted(form):
    """Two routes: the R² by the fit's arithmetic, in NumPy, and by running the surrogate as an optimizer on the gradients."""
    _, held_out = recovered("slow adam")[0]
    found = recovered("slow adam")[1](form)
    updates = followed.replayed(found.rule, held_out.gradients)
    missed = (held_out.weights * (held_out.updates - updates) ** 2).sum()
    assert 1 - missed / (held_out.weights * held_out.updates**2).sum() == pytest.approx(found.r2, abs=2e-3)


def test_weights_count_every_run_and_step_alike():
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(3, 5, 6)) * np.array([1, 1e3, 1e-3])[:, None, None] * 0.5 ** np.arange(5)[None, :, None]
    group = np.array([0, 0, 0, 0, 1, 1])
    made = surrogates.samples(updates, updates, group, floor=0.0)
    share = (made.weights * made.updates**2).reshape(5, 3, 6)
    for member in (group == 0, group == 1):
        np.testing.assert_allclose(share[:, :, member].sum(axis=2), 1.0)


class _Idle(l2o.AbstractLearnedOptimizer):
    """u = 0."""

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, **extra):
        return jax.tree.map(jnp.zeros_like, updates), state


def test_what_cannot_be_explained_is_said():
    short = {"horizon": 5, "num_tasks": 4, "num_fitted": 4, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="proposes no updates"):
        l2o.explain(_Idle(), fakes.bowls, **short)
    with pytest.raises(ValueError, match="8 of 8 runs of the rule diverged within 60 steps"):
        l2o.explain(optax.sgd(1e3), fakes.bowls, **{**short, "horizon": 60})
    with pytest.raises(ValueError, match="must be at least 2"):
        l2o.explain(optax.sgd(0.1), fakes.bowls, **{**short, "num_tasks": 1})
    with pytest.raises(ValueError, match=r"has no part 'w'\. It is one rule: give no `part`"):
        l2o.explain(optax.sgd(0.1), fakes.bowls, **short, part="w")
    rule = fakes.Momentum(jnp.array(0.1), jnp.array(0.5))
    with pytest.raises(ValueError, match=r"has no part 'w'\. Its parts: hidden, out"):
        l2o.explain(l2o.Partitioned({"hidden": rule, "out": rule}), lambda key: TASK, **short, part="w")


TASK = fakes.regression()  # several arrays of params, minibatches


@pytest.fixture(scope="module")
def whole():
    """Of a rule that is not coordinatewise, nor learned: momentum of gradients clipped by their norm, as optax has it."""
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.8))
    options = {"num_tasks": 6, "num_fitted": 6, "key": jax.random.key(0)}
    stages = []
    found = l2o.explain(rule, lambda key: TASK, horizon=20, on_stage=stages.append, **options)
    assert stages[0] == "running the rule"
    return rule, found


@pytest.mark.slow
def test_an_explanation_is_whole(whole):
    _, found = whole
    assert set(found.losses) == {"rule", "sgd", "adam", *found.fitted}
    assert all(losses.shape == (6, 21) for losses in found.losses.values())
    starts = {name: losses[:, 0] for name, losses in found.losses.items()}
    for start in starts.values():  # the same tasks, whoever runs
        np.testing.assert_allclose(start, starts["rule"], rtol=1e-6)
    assert found.best in found.fitted
    assert found.best_constant in found.fitted
    assert found.steps() == (1, 2, 10, 20)
    assert found.against["sgd"] == 0.0
    assert (found.num_params, found.num_coordinates, found.window) == (12, 12, 2)
    assert {t.coordinate.split("]")[0] for t in found.trajectories} <= {"θ['hidden'", "θ['out'"}


@pytest.mark.slowest
@pytest.mark.slow
def test_a_part_is_explained_alone():
    """A surrogate that is the rule: put in its place, it does as the whole did."""
    sgd, momentum = (
        fitted(name, *recovered(rule)[0]).rule for name, rule in (("SGD", "sgd"), ("momentum", "momentum"))
    )
    both = l2o.Partitioned({"hidden": sgd, "out": momentum})
    options = {"horizon": 20, "num_tasks": 4, "num_fitted": 4, "key": jax.random.key(0)}
    found = l2o.explain(both, lambda key: TASK, part="out", **options)
    assert (found.part, found.num_params, found.num_coordinates) == ("out", 3, 3)
    assert all(t.coordinate.startswith("θ['out'") for t in found.trajectories)
    assert found.fitted["momentum"].r2 == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.losses["momentum"], found.losses["rule"], rtol=1e-4)
    told = report.explained(found, name="both", family="regression")
    assert "run in its place" in " ".join(told.split())


def test_losses_are_those_of_loss_curves(whole):
    rule, found = whole
    test_key = jax.random.split(jax.random.key(0), 4)[1]
    options = {"horizon": 20, "num_tasks": 6, "key": test_key}
    np.testing.assert_allclose(l2o.loss_curves(rule, lambda key: TASK, **options), found.losses["rule"], rtol=1e-4)


def test_sweeps_pass_through_what_the_run_did(whole):
    _, found = whole
    assert len(found.responses) == 8  # two coordinates, four steps
    for one in found.responses:
        for updates in one.updates.values():
            assert updates.shape == one.gradients.shape
        between = np.interp(one.gradient, one.gradients, one.updates["rule"])
        assert between == pytest.approx(one.update, abs=float(0.05 * np.ptp(one.updates["rule"]) + 1e-6))
        assert one.gradients[len(one.gradients) // 2] == 0
    for trajectory in found.trajectories:
        moved = trajectory.params["rule"][0] + np.cumsum(trajectory.updates["rule"])[:-1]
        np.testing.assert_allclose(moved, trajectory.params["rule"][1:], rtol=1e-4, atol=1e-5)


def test_a_coordinatewise_rule_is_swept_by_two_routes():
    rule, family, key = fakes.Momentum(jnp.array(0.1), jnp.array(0.5)), fakes.bowls, jax.random.key(4)
    index = jnp.arange(2)
    ran = followed.recorded(rule, family, index, key[None], horizon=10, together=True)
    path = followed.Runs(*(x[0] for x in ran))
    found = list(followed.responses(rule, {"replayed": rule}, family, key, index, {0: "θ[0]"}, path, 10))
    for one in found:
        np.testing.assert_allclose(one.updates["replayed"], one.updates["rule"], rtol=1e-5, atol=1e-6)


@pytest.mark.slowest
@pytest.mark.slow
def test_a_complex_number_is_explained_as_its_two_parts():
    """As the real problem of twice as many coordinates is."""

    def family(key, is_complex):
        curvature = jnp.asarray([1.0, 3.0])

        def init(key):
            parts = jax.random.normal(key, (2, 2))
            return jax.lax.complex(parts[:, 0], parts[:, 1]) if is_complex else parts

        def loss(z, key):
            return jnp.sum(curvature * (jnp.abs(z) ** 2 if is_complex else jnp.sum(z**2, axis=1)))

        return l2o.FunctionTask(init, loss)

    options = {"horizon": 5, "num_tasks": 3, "num_fitted": 3, "key": jax.random.key(0)}
    ours, theirs = (
        l2o.explain(optax.sgd(0.1), functools.partial(family, is_complex=c), **options) for c in (True, False)
    )
    for one, other in zip(ours.responses, theirs.responses, strict=True):
        np.testing.assert_allclose(one.updates["rule"], other.updates["rule"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose((one.gradient, one.update), (other.gradient, other.update), rtol=1e-5)
        row, column = re.fullmatch(r"θ\[(\d), (\d)\]", other.coordinate).groups()
        assert one.coordinate == f"{('Re', 'Im')[int(column)]} θ[{row}]"


def test_it_is_written_as_text_json_and_figures(whole, tmp_path):
    _, found = whole
    text = report.explained(found, name="clipped", family="regression")
    assert "what clipped amounts to on regression" in text
    assert f"{100 * found.fitted['SGD'].r2:.0f} % of clipped's updates" in text.replace("\n", " ")
    for form in surrogates.FORMS:
        assert form.equation in text
    assert max(map(len, text.splitlines())) <= 110
    numbers = json.loads(json.dumps(report.explanation_as_dict(found, name="clipped", family="q"), allow_nan=False))
    assert numbers["optimizers"]["momentum"]["r2"] == pytest.approx(found.fitted["momentum"].r2)
    assert numbers["optimizers"]["rule"]["final_loss"] == pytest.approx(float(found.losses["rule"][:, -2:].mean()))
    assert report.explanation_table(found, name="clipped").row_count == len(surrogates.FORMS) + 3
    files = report.behaviour_figures(found, tmp_path, name="clipped")
    assert len(files) == 6
    assert all(path.stat().st_size > 5000 for path in files)


def test_figures_say_which_surrogate_diverged(whole, tmp_path):
    _, found = whole
    losses = {**found.losses, found.best_constant: np.full_like(found.losses["rule"], np.nan)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = report.behaviour_figures(found._replace(losses=losses), tmp_path, name="clipped")
    fit = next(path for path in files if path.name == "behaviour-fit.svg")
    assert f"surrogate: {found.best_constant}, diverged" in fit.read_text()


def test_the_family_is_the_one_of_the_header(tmp_path, monkeypatch, capsys):
    from l2o.cli import _common, _explain

    bare, named = tmp_path / "bare.safetensors", tmp_path / "named.safetensors"
    l2o.pretrained.save(bare, fakes.tiny_lstm())
    with pytest.raises(
        ValueError, match=r"bare\.safetensors does not say what it was meta-trained on. Name a task family: --t"
    ):
        _explain.family_of(str(bare), None, None)
    _, title, horizon = _explain.family_of(str(bare), "quadratic", ["dim=3"])
    assert (title, horizon) == ("quadratic (dim=3)", 100)
    recipe = {"task": "mlp", "task_arguments": {"data": "mnist", "hidden": [5]}, "horizon": 30}
    l2o.pretrained.save(named, fakes.tiny_lstm(), recipe=recipe)
    find = _common.find_family

    def without_mnist(task, settings):
        if settings["data"] == "mnist":
            raise FileNotFoundError("mnist is nowhere")
        return find(task, settings)

    monkeypatch.setattr(_common, "find_family", without_mnist)
    family, title, horizon = _explain.family_of(str(named), None, None)
    assert (title, horizon) == ("mlp (data=mnist_sample, hidden=(5,))", 30)
    assert family.task.sizes == (784, 5, 10)
    assert "'mnist_sample', which comes with the package, stands in. (mnist is nowhere)" in " ".join(
        capsys.readouterr().out.split()
    )
    with pytest.raises(FileNotFoundError, match="mnist is nowhere"):  # asked for: nothing stands in
        _explain.family_of(str(named), None, ["data=mnist"])


def test_the_verdict_follows_the_losses(whole):
    _, found = whole

    def told(surrogate, adam):
        losses = {name: np.abs(np.random.default_rng(1).normal(1, 0.01, (6, 21))) for name in found.losses}
        losses["adam"] = adam * losses["rule"] * np.linspace(0.99, 1.01, 6)[:, None]
        losses[found.best] = surrogate * losses["rule"] * np.linspace(0.98, 1.02, 6)[:, None]
        return report.explained(found._replace(losses=losses), name="x", family="y").replace("\n", " ")

    assert "keeps 50 % of the rule's gain on Adam" in told(1.5, 2.0)
    assert "and than tuned Adam" in told(1.5, 1.2)
    assert "not told apart from the rule" in told(1.0, 2.0)
    assert "lower than the rule" in told(0.8, 2.0)
    assert "diverges on 6 of them" in told(np.nan, 2.0)
