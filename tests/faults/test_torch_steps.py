"""PyTorch: a step is taken whole or not at all, and a recorder sees every one once."""

import warnings

import pytest
from fakes import tiny_lstm
from torch_nets import parameter

import l2o
from l2o.optimizers import pretrained

torch = pytest.importorskip("torch")

from torch_runs import assert_equal, bowl, through_a_file, zeros  # noqa: E402 (after the check that there is one)

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer, Recorder  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


# A step is taken whole or not at all.


def sparse(p):
    p.grad = torch.ones(4, 2).to_sparse()


def shrunk(p):
    p.grad = torch.ones(4, 2)
    p.data = torch.zeros(3)


def resized(p):
    p.data = torch.zeros(4, 3)
    p.grad = torch.ones(4, 3)


def integral(p):
    p.grad_dtype = None
    p.grad = torch.ones(4, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (sparse, "does not take sparse gradients.*parameter 1 of group 1"),
        (shrunk, r"parameter 1 of group 1 has shape \(4, 2\).*the parameter has shape \(3,\)"),
        (resized, "state of parameter 1 of group 1 has shape"),
        (integral, "gradient of torch.int32 for parameter 1 of group 1, of torch.float32"),
    ],
)
@pytest.mark.parametrize("by_closure", [False, True])
def test_w10_a_gradient_that_is_refused_leaves_all_as_it_was(spoil, message, by_closure, weights):
    def optimizer():
        (a, b, c) = zeros((2,), (3,), (4, 2))
        optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b, c]}], weights)
        bowl(optimizer, 2)
        return optimizer, [a, b], c

    (ours, healthy, spoilt), (other, _, _) = optimizer(), optimizer()

    def closure():
        for p in healthy:
            p.grad = torch.ones_like(p)
        spoil(spoilt)

    before, kept = [p.detach().clone() for p in healthy], spoilt.data.clone()
    if not by_closure:
        closure()
    with pytest.raises((RuntimeError, ValueError), match=message):
        ours.step(closure if by_closure else None)
    assert_equal([p.detach() for p in healthy], before)
    spoilt.grad, spoilt.data = None, kept
    assert_equal(bowl(ours, 2), bowl(other, 2))


def test_w10_a_warning_that_is_an_error_comes_before_any_step():
    a, b = parameter(1.0, gradient=[0.01]), parameter(1.0, gradient=[1e6])
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], "lstm-mnist")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="was meta-trained on gradients"):
            optimizer.step()
    assert a.item() == b.item() == 1.0


def test_w10_not_a_number_is_a_gradient_like_any_other(weights):
    """Divergence is data."""
    p = parameter(1.0, 2.0, gradient=[float("nan"), 1.0])
    LearnedOptimizer([p], weights).step()
    assert torch.isnan(p).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": float("nan")}, "`lr` must be finite"),
        ({"lr": True}, "`lr` must be a number, got True"),
        ({"weight_decay": False}, "`weight_decay` must be a number, got False"),
        ({"lr": float("inf")}, "`lr` must be finite"),
        ({"lr": torch.tensor([1.0, 2.0])}, r"`lr` must be one number, got a tensor of shape \(2,\)"),
        ({"lr": "fast"}, "`lr` must be a number, got 'fast'"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be finite"),
        ({"weight_decay": -1.0}, "`weight_decay` must not be negative"),
        ({"part": "conv"}, "without parts"),
        ({"weights": "nope"}, "No pretrained optimizer named 'nope'"),
        ({"weights": {"arrays": {}}}, "lack 'architecture', 'arguments'"),
    ],
    ids=str,
)
def test_w10_a_group_that_is_refused_leaves_the_optimizer_as_it_was(options, message, weights):
    ours, other = (LearnedOptimizer(zeros(2), weights) for _ in range(2))
    bowl(ours), bowl(other)
    with pytest.raises(ValueError, match=message):
        ours.add_param_group({"params": zeros(3), **options})
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([{"params": zeros(2), **options}], weights)
    assert len(ours.param_groups) == 1
    assert_equal(bowl(ours, 2), bowl(other, 2))


def test_w10_a_parameter_is_given_once(weights):
    p, q = zeros(2, 3)
    with pytest.raises(ValueError, match="Parameters 0 and 2 of group 0 are one tensor"):
        LearnedOptimizer([p, q, p], weights)
    optimizer = LearnedOptimizer([p], weights)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


def test_w10_a_schedule_that_leaves_the_numbers_is_stopped_before_the_step(weights):
    a, b = zeros(2, 3)
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], weights)
    bowl(optimizer)
    before = a.detach().clone()
    optimizer.param_groups[1]["lr"] = float("nan")
    with pytest.raises(ValueError, match="`lr` of group 1 is nan, and must be finite"):
        bowl(optimizer)
    assert torch.equal(a, before)


def test_w10_groups_may_be_empty_removed_and_of_any_layout(weights, tmp_path):
    def params():
        # Of size 0, a scalar, transposed in memory.
        return [*zeros((0, 3), ()), torch.nn.Parameter(torch.zeros(3, 2).T), *zeros((1, 2, 2, 2))]

    ours, dense = params(), params()
    ours[3].data = ours[3].data.to(memory_format=torch.channels_last)
    optimizer = LearnedOptimizer([{"params": ours}, {"params": []}], weights)
    reference = LearnedOptimizer([torch.nn.Parameter(p.detach().contiguous()) for p in dense], weights)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for p, q in zip(ours, reference.param_groups[0]["params"], strict=True):
            q.grad = torch.randn(q.shape, generator=generator)
            p.grad = torch.empty_like(p).copy_(q.grad)  # in the parameter's layout
        optimizer.step()
        reference.step()
    assert_equal(ours, reference.param_groups[0]["params"])
    l2o_torch.save_state(tmp_path / "state.safetensors", optimizer)
    l2o_torch.load_state(tmp_path / "state.safetensors", optimizer)
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    del optimizer.param_groups[1]
    ours[0].grad = None
    optimizer.step()


def test_w10_a_group_that_is_gone_does_not_leave_its_rule_behind(tmp_path):
    """Two groups share weights and differ in their part: the second becomes the first."""
    path = tmp_path / "pair.safetensors"
    pretrained.save(path, l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1)}))
    p, q, alone = parameter(1.0), parameter(1.0), parameter(1.0)
    optimizer = LearnedOptimizer([{"params": [p], "part": "a"}, {"params": [q], "part": "b"}], path)
    for parameters in ([p, q], [alone]):
        for each in parameters:
            each.grad = torch.tensor([0.3])
    optimizer.step()
    reference = LearnedOptimizer([alone], path, part="b")
    reference.step()
    del optimizer.param_groups[0]
    optimizer.step()
    reference.step()
    assert torch.equal(q, alone)


# Recorders.


def test_w10_a_recorder_leaves_nothing_behind_and_counts_every_step_once(weights):
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    recorder, inner = Recorder(), Recorder()
    with recorder:
        optimizer = LearnedOptimizer(zeros(2), weights)
        for _ in range(3):
            with recorder, inner:
                bowl(optimizer)
    for seen in (recorder, inner):
        (recording,) = seen.recordings()
        assert len(recording.gradients) == len(recording.losses) == 3
        assert recording.losses[0] == 2.0  # |0 - 1|^2 of two coordinates
    with pytest.raises(KeyError), Recorder():
        raise KeyError
    assert not _global_optimizer_pre_hooks
    assert not _global_optimizer_post_hooks


def test_w10_a_recording_with_a_step_missing_does_not_go_on(weights):
    a, b = zeros(2, 3)
    optimizer = LearnedOptimizer([{"params": [a]}, {"params": [b]}], weights)
    recorder = Recorder()
    with recorder:
        bowl(optimizer, 2)
        optimizer.zero_grad()
        a.sum().backward()
        with pytest.raises(ValueError, match="Other parameters have gradients"):
            optimizer.step()
        with pytest.raises(ValueError, match="A step is missing from this recording"):
            bowl(optimizer)
    assert [len(r.gradients) for r in recorder.recordings()] == [2, 2]
    assert len(recorder.recordings()[0].losses) == 2


def test_b6_groups_with_equal_weights_are_recorded_as_one_rule(weights, tmp_path):
    """Whether they were read from one file or two, before and after a state_dict."""
    pretrained.save(tmp_path / "rule.safetensors", tiny_lstm())
    a, b = zeros(2, 3)
    groups = [{"params": [a], "weights": tmp_path / "rule.safetensors"}, {"params": [b]}]
    optimizer = LearnedOptimizer(groups, weights)
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    optimizer.add_param_group({"params": zeros(1)})
    with Recorder() as recorder:
        bowl(optimizer)
    assert len(recorder.recordings()) == 3
