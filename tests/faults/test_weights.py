"""Weights and states are checked once, at the door, and nothing of a file steers the terminal."""

import inspect
import re
import zipfile

import jax
import numpy as np
import pytest
from fakes import tiny_lstm
from typer.testing import CliRunner

import l2o
from faults.weight_files import rewritten
from l2o.cli import _explain, _stylize
from l2o.cli._app import app
from l2o.core import plugins
from l2o.evaluation import contenders
from l2o.io import contents as _contents
from l2o.io import door as _door
from l2o.optimizers import pretrained, states

# ---- S3: one schema check at the door


def readers():
    torch = pytest.importorskip("torch")
    import l2o.torch as l2o_torch

    return {
        "load": l2o.load,
        "header": pretrained.header,
        "describe": pretrained.describe,
        "explain": lambda path: _explain.family_of(path, None, None),
        "compare": lambda path: contenders._contender("it", path),
        "stylize": lambda path: _stylize._optimizer(path, None, 10),
        "torch": lambda path: l2o_torch.LearnedOptimizer([torch.nn.Parameter(torch.ones(2))], path),
        "torch.load_weights": l2o_torch.load_weights,
    }


ARGUMENTS = {"num_layers": 1, "num_units": 3, "preprocessing": 10.0, "output_scale": 0.1}
NAN = np.full(3, np.nan, np.float32)
SCALE = {"start": [1.0, 2.0, 3.0], "run": [1.0, 2.0, 3.0], "num_params": 1, "num_tasks": 1}
BROKEN = {
    "layers": ({"arguments": {**ARGUMENTS, "num_layers": 10**6}}, r"`arguments.num_layers`: Expected `int` .*, got 1000000"),
    "more layers": ({"arguments": {**ARGUMENTS, "num_layers": 9999}}, r"leaf \.cells\[1\]\.weight: nothing vs \(12, 6\)"),
    "float layers": ({"arguments": {**ARGUMENTS, "num_layers": 1.0}}, r"num_layers`: Expected `int`, got `float`"),
    "units": ({"arguments": {**ARGUMENTS, "num_units": 4}}, r"\(leaf \.cells\[0\]\.weight: \(12, 5\) vs \(16, 6\)\)"),
    "huge scale": ({"arguments": {**ARGUMENTS, "output_scale": 1e308}}, r"output_scale`: Expected `float` .*, got 1e\+308"),
    "no scale": ({"arguments": {**ARGUMENTS, "output_scale": 0}}, "output_scale`: Expected `float` > 0.0"),
    "NaN": ({"arguments": '{"num_layers": 1, "num_units": 3, "output_scale": NaN}'}, r"`arguments` is not the JSON .*NaN is no"),
    "infinite": ({"arguments": '{"num_layers": 1, "num_units": 3, "output_scale": 1e999}'}, "1e999 is not finite"),
    "preprocessing": ({"arguments": {**ARGUMENTS, "preprocessing": 1e4}}, "preprocessing`: Expected `float` <= 80.0"),
    "num_global": ({"arguments": {**ARGUMENTS, "num_global": 4}}, "must be from 0 to `num_units`, got num_global=4"),
    "unknown argument": ({"arguments": {**ARGUMENTS, "command": "x"}}, "Object contains unknown field `command`"),
    "key": ({"arguments": {**ARGUMENTS, "key": 1}}, "unknown field `key`"),
    "list": ({"arguments": [1]}, "`arguments`: Expected `object`, got `array`"),
    "no JSON": ({"arguments": "{"}, "`arguments` is not the JSON that was expected"),
    "deep": ({"recipe": "[" * 10**5}, "`recipe` is not the JSON that was expected .*nested too deeply"),
    "missing": ({"recipe": None}, "missing required field `recipe`"),
    "no architecture": ({"architecture": None}, "missing required field `architecture`"),
    "architecture": ({"architecture": "os"}, r"No optimizer named 'os'\. Optimizers: hand_designed, lstm"),
    "traversal": ({"architecture": "../lstm"}, r"No optimizer named '\.\./lstm'"),
    "recipe": ({"recipe": []}, "`recipe`: Expected `object`, got `array`"),
    "horizon": ({"recipe": {"horizon": "4"}}, r"`recipe\.horizon`: Expected `int`, got `str`"),
    "horizon 0": ({"recipe": {"horizon": 0}}, r"`recipe\.horizon`: Expected `int` >= 1, got 0"),
    "seconds": ({"recipe": {"seconds": "x", "num_episodes": 1, "horizon": 1}}, r"`recipe\.seconds`"),
    "task": ({"recipe": {"task": ["quadratic"]}}, r"`recipe\.task`: Expected `str`"),
    "task_arguments": ({"recipe": {"task": "quadratic", "task_arguments": [3]}}, r"`recipe\.task_arguments`"),
    "scale": ({"scale": {**SCALE, "start": [1.0, 2.0]}}, r"`scale\.start`: Expected `array` of length 3"),
    "scale's order": ({"scale": {**SCALE, "start": [3.0, 2.0, 1.0]}}, "quantiles must not fall"),
    "versions": ({"versions": {"jax": 1}}, "`versions"),
    "rescaled": ({"architecture": "rescaled", "arguments": {"rms": 1.0}}, "missing required field `optimizer`"),
    "partitioned": ({"architecture": "partitioned", "arguments": {"parts": {}}}, "length >= 1"),
    "preconditioned": ({"architecture": "preconditioned", "arguments": {
        "optimizer": {"architecture": "lstm", "arguments": ARGUMENTS}, "shapes": [[10**9, 10**9]]}},
        r"arrays that do not fit their arguments \(leaf \.log_factors\[0\]"),
    "NaN weights": ({"arrays": {".readout": NAN}}, r"`\.readout`: 3 of its 3 numbers are NaN or infinite"),
    "int weights": ({"arrays": {".readout": np.ones(3, np.int32)}}, r"`\.readout`: numbers of the dtype I32"),
    "extra": ({"arrays": {".more": np.ones(3, np.float32)}}, r"`\.more`: an array that the architecture lstm does not have"),
    "gone": ({"arrays": {".readout": None}}, r"leaf \.readout: nothing vs \(3,\)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_s3_every_reader_names_the_file_and_the_field(saved, fault):
    changes, message = BROKEN[fault]
    rewritten(saved, **changes)
    saved.with_suffix(".md").write_text("# Tiny")
    for name, reader in readers().items():
        with pytest.raises(ValueError, match=rf"tiny\.safetensors.*{message}") as caught:
            reader(str(saved))
        assert "\n" not in str(caught.value), name


def test_s3_wrappers_are_bounded_in_depth_and_number(saved):
    arguments = {"architecture": "lstm", "arguments": ARGUMENTS}
    for _ in range(8):
        arguments = {"architecture": "rescaled", "arguments": {"optimizer": arguments, "rms": 1.0}}
    rewritten(saved, **arguments)
    with pytest.raises(ValueError, match=r"tiny\.safetensors.*nested deeper than 8 levels"):
        l2o.load(saved)
    parts = {str(i): {"architecture": "lstm", "arguments": ARGUMENTS} for i in range(65)}
    rewritten(saved, architecture="partitioned", arguments={"parts": parts})
    with pytest.raises(ValueError, match=r"tiny\.safetensors.*`arguments.parts`: Expected `object` of length <= 64"):
        l2o.load(saved)


@pytest.mark.parametrize("name", plugins.names("optimizers"))
def test_s3_the_schema_of_an_architecture_is_that_of_its_classes(name):
    """Arguments, defaults, and the arrays that they mean."""
    build = plugins.get("optimizers", name).build
    network = {"num_layers": 1, "num_units": 3, "num_global": 2, "preprocessing": 3.0}
    memory = [{"differences": False, "num_read": 2}, {"skips": False, "num_write": 2, "memory_pairs": 4}]
    constants = [
        {"preset": "sgd", "rate_curve": [0.0, 0.0]},
        {"learn_power": True, "b1_curve": [1.0], "decay": "cosine"},
    ]
    variants = {
        "hand_designed": [{}, {"name": "lion", "schedule": "cosine", "weight_decay": 0.1}],
        "lstm": [{}, network],
        "momentum": [{}, *constants],
        "ntm_bfgs": [{}, network, *memory],
    }[name]
    schema = _contents.ARCHITECTURES[name]
    for variant in variants:
        contents = pretrained.as_dict(build(jax.random.key(0), **variant))
        shapes = {path: array.shape for path, array in contents["arrays"].items()}
        assert dict(schema(**contents["arguments"]).shapes()) == shapes
    fields = {field.name: field.default for field in _contents.msgspec.structs.fields(schema)}
    # What arrays hold, and curves, of which a file's arguments have the number of knots alone.
    values = (
        {"rate", "warmup", "least", "b1", "b2", "eps", "rate_curve", "b1_curve"}
        if name in ("hand_designed", "momentum")
        else ()
    )
    for kind in {type(build(jax.random.key(0), **variant)) for variant in variants}:
        parameters = inspect.signature(kind.__init__).parameters.values()
        for parameter in parameters:
            if parameter.name not in ("self", "key", *values):
                assert parameter.name in fields
                assert parameter.default in (inspect.Parameter.empty, fields[parameter.name])


def test_s3_what_could_not_be_loaded_is_not_saved(tmp_path):
    path = tmp_path / "it.safetensors"
    with pytest.raises(
        ValueError, match=r"What is to be saved: `\.cells\[0\]\.weight`: 60 of its 60 .* none is written"
    ):
        pretrained.save(path, jax.tree.map(lambda x: x * np.nan, tiny_lstm()))
    with pytest.raises(ValueError, match=r"What is to be saved: `recipe\.horizon`"):
        pretrained.save(path, tiny_lstm(), recipe={"horizon": "long"})
    assert not path.exists()
    pretrained.save(path, tiny_lstm(), recipe={"best_validation_loss": float("nan")})  # of a run that diverged
    assert np.isnan(pretrained.header(path)["recipe"]["best_validation_loss"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arguments": {**ARGUMENTS, "num_layers": 10**6}}, r"arguments\.num_layers`"),
        ({"arguments": {**ARGUMENTS, "output_scale": float("nan")}}, "output_scale"),
        ({"arrays": {".readout": NAN}}, "finite floating-point numbers, and .readout"),
        (
            {"arrays": {".readout": np.ones(3, np.int32)}},
            r"finite floating-point numbers, and .readout \(torch.int32\)",
        ),
    ],
)
def test_s3_weights_in_memory_are_checked_as_those_of_files(change, message):
    torch = pytest.importorskip("torch")
    from l2o.torch import LearnedOptimizer

    weights = pretrained.as_dict(tiny_lstm())
    weights = {k: {**v, **change[k]} if k in change else v for k, v in weights.items()}
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(2))], weights)


def test_s3_state_files_are_checked_as_well(tmp_path):
    path, rule, params = tmp_path / "state.safetensors", tiny_lstm(), np.ones(2, np.float32)
    states.save(path, rule, rule.init(params), params)
    for groups, message in (
        ([{}], r"groups\[0\]`: Object missing required field `architecture`"),
        ({}, "`groups`: Expected `array`, got `object`"),
        ("nope", "`groups` is not the JSON"),
    ):
        rewritten(path, groups=groups)
        with pytest.raises(ValueError, match=rf"state\.safetensors.*{message}"):
            states.load(path, rule, params)
    states.save(path, rule, rule.init(params), params)
    rewritten(path, {"0[0][0]": np.zeros((3, 2), np.int32)})
    with pytest.raises(ValueError, match=r"of another optimizer \(leaf 0\[0\]\[0\]: int32 vs float32\)"):
        states.load(path, rule, params)


def test_s3_sizes_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "it.npz"
    np.savez_compressed(path, a=np.arange(6.0).reshape(2, 3).T, b=np.array(["é", "xy"]), c=np.zeros((0, 3)))
    found = _door.read_arrays(path)
    np.testing.assert_array_equal(found["a"], np.arange(6.0).reshape(2, 3).T)
    assert (found["b"].tolist(), found["c"].shape) == (["é", "xy"], (0, 3))
    np.savez_compressed(path, a=np.zeros(2**27, np.uint8))
    assert path.stat().st_size < 2**18
    with pytest.raises(ValueError, match=r"it\.npz .* unpack to 134,217,\d+ bytes"):
        _door.read_arrays(path)
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="'a' is of the dtype object"):
        _door.read_arrays(path)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"'a' is said to be float32 \[1000000000000\], but has 0 bytes"):
        _door.read_arrays(path)
    with pytest.raises(ValueError, match=r"/dev/zero is not a regular file"):
        _door.read_text("/dev/zero")


# ---- S4: nothing of a file steers the terminal


def test_s4_cards_and_messages_hold_no_control_characters(saved):
    hostile = (
        "# A\x1b[2Jb\x9b31m \x1b]8;;http://evil\x1b\\link\x1b]8;;\x07 c\u202ed\u2028e\x00 \x07\ttab\r\nnew &#8238;x"
    )
    saved.with_suffix(".md").write_bytes(hostile.encode())
    assert pretrained.describe(saved) == "# Ab link cde \ttab\nnew &#8238;x"
    shown = CliRunner().invoke(app, ["pretrained", str(saved)], color=True)
    assert shown.exit_code == 0
    assert "Ab link cde" in shown.output
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown.output)
    rewritten(saved, architecture="x\x1b[2J\ny")
    for reader in readers().values():
        with pytest.raises(ValueError, match="No optimizer named") as caught:
            reader(str(saved))
        assert str(caught.value).isprintable()
    saved.with_suffix(".md").write_bytes(b"\xff\xfe")
    pretrained.save(saved, tiny_lstm())
    with pytest.raises(ValueError, match=r"tiny\.md is not a whole text in UTF-8"):
        pretrained.describe(saved)


def test_s4_names_of_parts_are_printable(saved):
    part = {"architecture": "lstm", "arguments": ARGUMENTS}
    rewritten(saved, architecture="partitioned", arguments={"parts": {"a\x1b[2J": part}})
    with pytest.raises(ValueError, match=r"a part's name must be printable, got 'a\\x1b\[2J'") as caught:
        l2o.load(saved)
    assert str(caught.value).isprintable()
