"""Weights files, state files, cards and pictures that someone else made: what they say is checked, and never run."""

import inspect
import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from fakes import tiny_lstm
from PIL import Image
from typer.testing import CliRunner

import l2o
from l2o.cli import _explain, _stylize
from l2o.cli._app import app
from l2o.core import plugins
from l2o.evaluation import contenders
from l2o.io import contents as _contents
from l2o.io import door as _door
from l2o.io import hub
from l2o.optimizers import pretrained, states

RECIPE = {"task": "quadratic", "task_arguments": {"dim": 3}, "horizon": 4}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    pretrained.save(path, tiny_lstm(), recipe=RECIPE)
    return path


def rewritten(path, arrays=None, **header):
    """The file with some of its arrays, and header fields, replaced; None: left out."""
    with safetensors.safe_open(str(path), framework="numpy") as file:
        fields = {
            **file.metadata(),
            **{k: v if v is None or isinstance(v, str) else json.dumps(v) for k, v in header.items()},
        }
    found = {**safetensors.numpy.load_file(path), **(arrays or {})}
    found = {name: array for name, array in found.items() if array is not None}
    safetensors.numpy.save_file(found, path, {k: v for k, v in fields.items() if v is not None})
    return path


def with_recipe(path, **recipe):
    return rewritten(path, recipe={**RECIPE, **recipe})


# ---- S1: what a file says never chooses code


@pytest.mark.parametrize("task", ["os:system", "builtins:exec", "canary:family", "nope", "../quadratic", "_one_task"])
def test_s1_a_header_never_chooses_code(saved, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(l2o, "use_all_cores", lambda cores: None)  # JAX has started long ago
    (tmp_path / "canary.py").write_text("open('fired', 'w')\n")
    with_recipe(saved, task=task, task_arguments={"command": "touch fired"})
    with pytest.raises(
        ValueError, match=rf"tiny\.safetensors was trained on {re.escape(task)}.*if you trust it, pass `--task {task}`"
    ):
        _explain.family_of(str(saved), None, None)
    done = CliRunner().invoke(app, ["explain", str(saved), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "canary" not in sys.modules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.py", "tiny.safetensors"]


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("quadratic", {"dim": "3"}, r"recipe\.task_arguments\.dim`: Expected `int`, got `str`"),
        ("quadratic", {"dim": 5000}, r"dim`: 5000 is larger than the 1,024 that .*--task quadratic --set dim="),
        ("quadratic", {"init_std": 1e300}, r"init_std`: 1e\+300 is larger"),
        ("quadratic", {"size": 3}, r"size`: the task quadratic takes dim, preset, init_std, condition"),
        ("quadratic", {"preset": "a/../b"}, r"preset`: 'a/\.\./b' is not a plain name"),
        ("quadratic", {"preset": "nope"}, r" says it .* cannot be made: No preset named 'nope'"),
        ("mlp", {"hidden": [5] * 17}, r"hidden`: a list of 17 entries, more than 16"),
        ("mlp", {"hidden": [1024] * 16, "data": "/etc/passwd"}, r"data`: '/etc/passwd' is not a plain name"),
        ("mlp", {"hidden": [2000]}, r"hidden`: 2000 is larger"),
        ("style", {"data": "../../x"}, r"data`: '\.\./\.\./x' is not a plain name"),
        ("transformer", {"width": 1024, "num_layers": 32}, r"cannot be made: a task of [\d,]+ bytes, more than the 268,435,456"),
        ("convnet", {"downscale": 0}, r"cannot be made: "),
    ],
)  # fmt: skip
def test_s1_a_headers_arguments_are_those_of_the_task_and_of_sane_sizes(saved, task, arguments, message):
    with_recipe(saved, task=task, task_arguments=arguments)
    with pytest.raises(ValueError, match=rf"tiny\.safetensors.*{message}"):
        _explain.family_of(str(saved), None, None)


def test_s1_what_the_user_passes_is_trusted_and_goes_before_the_header(saved):
    with_recipe(saved, task_arguments={"dim": 5000, "init_std": 0.5}, horizon=10**6)
    family, title, horizon = _explain.family_of(str(saved), None, ["dim=1500"], horizon=7)
    assert (title, horizon) == ("quadratic (init_std=0.5, dim=1500)", 7)
    assert jax.eval_shape(lambda: family(jax.random.key(0)).init(jax.random.key(0))).shape == (1500,)
    with pytest.raises(ValueError, match=r"`recipe.horizon`: runs of 1,000,000 steps; .* pass --horizon 1000000"):
        _explain.family_of(str(saved), None, ["dim=1500"])
    with_recipe(saved, task="os:system")
    assert _explain.family_of(str(saved), "quadratic", None)[1] == "quadratic"


@pytest.mark.parametrize("name", pretrained.names())
def test_s1_the_recipes_of_shipped_weights_pass(name):
    recipe = pretrained.header(name)["recipe"]
    parameters = inspect.signature(plugins.get("tasks", recipe["task"]).family).parameters
    assert set(recipe["task_arguments"]) <= set(parameters)
    if recipe["task"] == "quadratic":
        assert _explain.family_of(name, None, None)[1:] == ("quadratic", 100)


def test_s1_a_state_file_does_not_choose_weights_or_parts(tmp_path):
    torch = pytest.importorskip("torch")
    import l2o.torch as l2o_torch

    path = tmp_path / "state.safetensors"
    pair = l2o.Partitioned({"a": tiny_lstm(), "b": tiny_lstm(1)})

    def optimizer():
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "part": part} for part in ("a", "b")]
        return l2o_torch.LearnedOptimizer(groups, pretrained.as_dict(pair))

    l2o_torch.save_state(path, optimizer())
    l2o_torch.load_state(path, optimizer())
    with safetensors.safe_open(str(path), framework="numpy") as file:
        groups = json.loads(file.metadata()["groups"])
    for options, message in (
        ({"weights": "/etc/passwd"}, "no option of a parameter group is named 'weights'"),
        ({"params": 3}, "named 'params'"),
        ({"part": "b"}, "Group 0 in .* has part 'b', the optimizer's a"),
        ({"lr": -1}, "`lr` must be a number that is not negative, got -1"),
        ({"lr": "1"}, "`lr` must be a number that is not negative, got '1'"),
    ):
        changed = optimizer()
        rewritten(path, groups=[{**groups[0], "options": {**groups[0]["options"], **options}}, groups[1]])
        with pytest.raises(ValueError, match=message):
            l2o_torch.load_state(path, changed)
        assert [group["part"] for group in changed.param_groups] == ["a", "b"]
        assert not changed.state


def test_s1_names_of_pictures_and_texts_stay_in_their_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "data"))
    np.savez(tmp_path / "secret.npz", x_train=np.zeros((1, 4, 4, 3), np.uint8))
    (tmp_path / "secret.txt").write_text("secret")
    for name in ("../secret", str(tmp_path / "secret"), "", "..", "a\0b"):
        with pytest.raises(ValueError, match=r"is a path\. Pass NAME of NAME\.npz"):
            l2o.data.load_pictures(name)
        with pytest.raises(ValueError, match="No text named"):
            l2o.data.load_text(name)
    np.savez(tmp_path / "data" / "von München.npz", x_train=np.zeros((1, 4, 4, 3), np.uint8))
    assert l2o.data.load_pictures("von München").train.shape == (1, 4, 4, 3)


def test_s1_a_revision_is_no_path_out_of_the_hubs_cache():
    assert hub.is_repository("user/repo@refs/pr/1")
    assert hub.is_repository("user/repo.v2")
    for name in ("user/repo@../../x", "user/repo@/etc/passwd", "../repo", "user/..", "user/repo@-x", "user/repo@a..b"):
        assert not hub.is_repository(name), name


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
    "architecture": ({"architecture": "os"}, r"No optimizer named 'os'\. Optimizers: lstm"),
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
    variants = [{}, {"num_layers": 1, "num_units": 3, "num_global": 2, "preprocessing": 3.0}]
    if name == "ntm_bfgs":
        variants += [{"differences": False, "num_read": 2}, {"skips": False, "num_write": 2, "memory_pairs": 4}]
    schema = _contents.ARCHITECTURES[name]
    for variant in variants:
        contents = pretrained.as_dict(build(jax.random.key(0), **variant))
        shapes = {path: array.shape for path, array in contents["arrays"].items()}
        assert dict(schema(**contents["arguments"]).shapes()) == shapes
    fields = {field.name: field.default for field in _contents.msgspec.structs.fields(schema)}
    for kind in {type(build(jax.random.key(0), **variant)) for variant in variants}:
        parameters = inspect.signature(kind.__init__).parameters.values()
        for parameter in parameters:
            if parameter.name not in ("self", "key"):
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


# ---- S5, W12: pictures


def read(path, longest=512):
    from l2o.cli import _pictures

    return _pictures.read(path, longest)


MEMORY = """
import resource, sys
from pathlib import Path
from PIL import Image
from l2o.cli import _pictures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(_pictures.read(Path(sys.argv[1]), 512).size)
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_s5_a_picture_of_too_many_pixels_is_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (12000, 12000)).save(path)
    assert path.stat().st_size < 10**5
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    said, megabytes = done.stdout.splitlines()
    assert said.startswith(
        f"{path} has 12000 x 12000 pixels, and of PNG at most 48,000,000 are read at once. Make it smaller"
    )
    assert int(megabytes) < 50


def test_s5_a_photograph_is_decoded_no_larger_than_is_of_use(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("L", (12000, 8000), 77).save(path)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    size, megabytes = done.stdout.splitlines()
    assert size == "(3000, 2000)"  # the smallest that JPEG decodes to of at least 3 x 512
    assert int(megabytes) < 100


def test_s5_no_interpreter_is_run_and_no_device_is_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch fired) (w) file\n")
    for each in (path, tmp_path, Path(os.devnull)):
        with pytest.raises(ValueError, match="is not a picture that can be read: "):
            read(each)


GREY = np.array([[0, 13107, 26214], [39321, 52428, 65535]], np.uint16)
EXPECTED = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def portable(grey):
    return b"P5 3 2 65535\n" + grey.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("name", "picture", "options"),
    [
        ("16.png", GREY, {}),
        ("16.tif", GREY, {}),
        ("big-endian.tif", GREY.astype(">u2"), {}),
        ("negative.tif", GREY[::-1, ::-1].copy(), {"tiffinfo": {262: 0}}),
        ("32.tif", GREY.astype(np.int32), {}),
        ("16.pgm", portable(GREY), {}),
        ("float.tif", (GREY / 65535).astype(np.float32), {}),
        ("8.png", EXPECTED, {}),
    ],
)
def test_w12_grey_of_16_bits_and_floating_point_is_scaled(tmp_path, name, picture, options):
    path = tmp_path / name
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        Image.fromarray(picture).save(path, **options)
    np.testing.assert_array_equal(np.asarray(read(path)), np.repeat(EXPECTED[..., None], 3, axis=2))


def png(row, width, depth, colour, transparent):
    """A PNG file of one row of grey (`colour` 0) or RGB (2) numbers, one of which is transparent."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    found = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks.items():
        found += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return found


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (png(GREY[0].astype(">u2").tobytes(), 3, 16, 0, b"\x33\x33"), [0, 255, 102]),
        (png(bytes([0b00011011]), 4, 2, 0, b"\0\x01"), [0, 255, 170, 255]),
        (png(bytes([0x12, 0x30]), 3, 4, 0, b"\0\x02"), [17, 255, 51]),
        (png(bytes([1, 2, 3]), 3, 8, 0, b"\0\x02"), [1, 255, 3]),
        (png(bytes([7, 9] * 3 + [5, 0] * 3), 2, 16, 2, bytes([7, 9] * 3)), [255, 5]),
    ],
    ids=["16", "2", "4", "8", "RGB of 16"],
)
def test_w12_the_transparent_number_of_a_png_is_white(tmp_path, picture, expected):
    (tmp_path / "it.png").write_bytes(picture)
    np.testing.assert_array_equal(
        np.asarray(read(tmp_path / "it.png"))[0], np.repeat(np.array(expected)[:, None], 3, axis=1)
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.array([[0.0, 255.0]], np.float32), "grey values go from 0 to 255, and must be from 0 to 1"),
        (np.array([[-0.5, 1.0]], np.float32), "grey values go from -0.5 to 1"),
        (np.array([[0.0, np.nan, 1.0]], np.float32), "grey values are not all finite"),
        (np.array([[0, 70000]], np.int32), "grey values go from 0 to 70000, and must be from 0 to 65535"),
        (np.array([[-1, 7]], np.int32), "grey values go from -1 to 7"),
    ],
)
def test_w12_grey_of_unknown_scale_is_refused(tmp_path, picture, message):
    Image.fromarray(picture).save(tmp_path / "grey.tif")
    with pytest.raises(ValueError, match=rf"grey\.tif is not a picture that can be read: .*{message}"):
        read(tmp_path / "grey.tif")


def test_w12_other_kinds_are_what_they_were(tmp_path):
    """Palettes, animations, orientations, transparency."""
    colours = Image.new("RGB", (4, 2), "white")
    colours.paste("red", (0, 0, 1, 2))
    turned = Image.Exif()
    turned[274] = 6
    for name in ("a.png", "a.tif", "a.webp"):
        colours.save(tmp_path / name, exif=turned, **({"lossless": True} if name == "a.webp" else {}))
        picture = read(tmp_path / name)
        assert (picture.mode, picture.size) == ("RGB", (2, 4))
        assert [picture.getpixel((0, y)) for y in (0, 3)] == [(255, 0, 0), (255, 255, 255)]
    colours.quantize().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("P", (4, 2))])
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "a.gif")), np.asarray(colours))
    content = io.BytesIO()
    colours.quantize().save(content, "PNG", transparency=colours.quantize().getpixel((0, 0)))
    (tmp_path / "clear.png").write_bytes(content.getvalue())
    assert read(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_w12_sizes_of_no_pixels_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    arguments = ["stylize", "--content", tmp_path / "a.png", "--style", tmp_path / "a.png", "--size", "0"]
    done = CliRunner().invoke(app, [str(x) for x in arguments])
    assert done.exit_code == 2
    assert "--size must be at least 1, got 0." in done.output
