"""Neural art between any two pictures: the task, its network, its meta-gradient, and `l2o stylize`."""

import importlib.util
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from typer.testing import CliRunner

import l2o
from l2o.cli._app import app
from l2o.core.unroll import begin
from l2o.tasks import _vgg, style

KEY = jax.random.key(0)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("style_memory", ROOT / "benchmarks" / "style_memory.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("os.sched_setaffinity", raising=False)  # it pins its process
        spec.loader.exec_module(module)
    return module


def pictures(content=(12, 20), other=(17, 9)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in (content, other)]


# ---- the network


def test_winograds_convolution_is_the_definitions(x64):
    keys = jax.random.split(KEY, 3)
    x, w = jax.random.normal(keys[0], (1, 5, 8, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))
    weight = jax.random.normal(keys[2], (1, 5, 8, 4))
    filters = _vgg._winograd_filters(w)
    by_definition = lambda x: jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found, pullback = jax.vjp(lambda x: _vgg._winograd(x, filters), x)
    expected, expected_pullback = jax.vjp(by_definition, x)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(pullback(weight)[0], expected_pullback(weight)[0], atol=1e-12)


def test_winograds_convolution_in_single_precision_is_as_near_as_the_definition():
    x, w = jax.random.normal(KEY, (1, 8, 8, 64)), jax.random.normal(jax.random.key(1), (3, 3, 64, 64))
    filters = _vgg._winograd_filters(w)
    direct = _vgg._conv(x, w)
    np.testing.assert_allclose(_vgg._conv(x, filters), direct, atol=3e-6 * float(jnp.abs(direct).max()))


# ---- the task


@pytest.mark.slowest
@pytest.mark.slow
def test_a_task_between_two_pictures_is_the_familys():
    family = style.family()
    expected = family(KEY)
    task = style.between(expected.content, style._synthetic_style(16), features="random")
    params = expected.content + 0.1 * jax.random.normal(KEY, (16, 16, 3))
    np.testing.assert_allclose(task.loss(params, KEY), expected.loss(params, KEY), rtol=1e-5)


def test_pictures_may_be_of_any_two_sizes():
    content, other = pictures()
    task = style.between(content, other, features="random")
    assert task.init(KEY).shape == (12, 20, 3)
    np.testing.assert_allclose(task.init(KEY), content / 255, rtol=1e-6)
    features = np.asarray(task.features(jnp.asarray(other) / 255, ["conv2_1"])["conv2_1"])
    assert features.shape == (8, 4, 32)
    gram = np.einsum("ija,ijb->ab", features, features) / 32
    np.testing.assert_allclose(task.style_targets["conv2_1"], gram, rtol=1e-4, atol=1e-6)
    assert jnp.isfinite(task.loss(task.content, KEY))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": np.zeros((8, 8), np.uint8)}, r"`content` must be an RGB picture.* got uint8 \[8, 8\]"),
        ({"style": np.zeros((8, 8, 4))}, r"`style` must be an RGB picture.* got float\d+ \[8, 8, 4\]"),
        (
            {"style": np.zeros((8, 3, 3))},
            "Images of 8 x 3 pixels are too small for layer conv3_1, which needs 4 a side",
        ),
        ({"start": "white"}, "No start named 'white'"),
        ({"features": "vgg19"}, "No features named 'vgg19'"),
    ],
)
def test_what_is_no_picture_is_refused(change, message):
    content, other = pictures()
    arguments = {"content": content, "style": other, "features": "random", **change}
    with pytest.raises(ValueError, match=message):
        style.between(arguments.pop("content"), arguments.pop("style"), **arguments)


@pytest.mark.slow
def test_a_crop_is_a_window_of_the_picture_with_its_gradients(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    picture = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) % 251
    np.savez(tmp_path / "one.npz", x_train=picture[None].astype(np.uint8))
    windows = {style.family(data="one", crop=8)(key).content.tobytes() for key in jax.random.split(KEY, 8)}
    assert len(windows) > 1
    task = style.family(data="one", crop=8)(KEY)
    values = np.round(255 * np.asarray(task.content)).astype(int)
    assert any(
        np.array_equal(values, picture[i : i + 8, j : j + 8]) for i in range(9) for j in range(9)
    )  # each place occurs once, for 251 is no multiple of a row's length
    whole = style.between(values.astype(np.uint8), style._synthetic_style(16), features="random")
    params = task.content + 0.1
    np.testing.assert_allclose(task.loss(params, KEY), whole.loss(params, KEY) / 4, rtol=1e-5)
    with pytest.raises(ValueError, match="`crop` must be from 1 to the size of the pictures, got crop=20 and size=16"):
        style.family(crop=20)


def test_each_picture_is_painted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    pictures = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "some.npz", x_train=pictures[:5], x_test=pictures[5:])
    family = style.family(data="some", split="test", crop=8)
    for seed in range(3):
        keys = style.each_picture(family, jax.random.key(seed))
        contents = jax.vmap(lambda key: begin(family, optax.sgd(0.1), key)[0].content)(keys)
        assert len(contents) == 7
        for content, picture in zip(np.round(255 * np.asarray(contents)), pictures[5:], strict=True):
            assert any(np.array_equal(content, picture[i : i + 8, j : j + 8]) for i in range(9) for j in range(9))
    for family in (style.family(), lambda key: None):
        with pytest.raises(ValueError, match=r"needs a family of .* with a set of pictures"):
            style.each_picture(family, KEY)


# ---- its meta-gradient


def test_the_meta_gradient_passes_through_the_network_no_more_often_than_the_unroll(benchmark):
    optimizer = eqx.tree_at(lambda o: o.bias, l2o.load("lstm-mnist"), jnp.zeros(()))
    inputs = (optimizer, style.family(), KEY)
    flops = lambda function, **keywords: benchmark.network_flops(function, *inputs, **keywords)
    unroll = flops(benchmark.losses, length=4)
    # 16 pixels a side, pooled to 8 and 4: forward passes of the targets and at every step, backward to the image.
    first, second, third = (2 * 9 * a * b * n for a, b, n in ((3, 16, 256), (16, 32, 64), (32, 64, 16)))
    assert unroll == 4 * 2 * (first + second + third) + first + second
    for form in (l2o.Stored(), l2o.Blocks(), l2o.Sampled(0.25)):
        assert flops(benchmark.meta_gradient, length=4, form=form) == unroll
    assert flops(benchmark.meta_gradient, length=4, form=l2o.SecondOrder()) > 1.5 * unroll


# ---- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures, one of them turned by its camera's note and one half transparent, and files that are none."""
    folder = tmp_path_factory.mktemp("stylize")
    content, other = (Image.fromarray(x) for x in pictures((12, 20), (30, 26)))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees
    content.save(folder / "photo.jpg", exif=turned)
    other.putalpha(128)
    other.save(folder / "painting.png")
    (folder / "text.jpg").write_text("no picture")
    (folder / "cut.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:200])
    Image.new("RGB", (40, 2)).save(folder / "line.png")
    return folder


def stylize(folder, content="photo.jpg", *options, style="painting.png", features="random"):
    arguments = ["stylize", "--content", folder / content, "--style", folder / style, "--features", features]
    return CliRunner().invoke(app, [str(x) for x in [*arguments, *options]], catch_exceptions=False)


@pytest.mark.parametrize("options", [(), ("--optimizer", "adam")])
def test_stylize_paints_two_files(folder, options):
    done = stylize(folder, "photo.jpg", *options, "--steps", 12, "--size", 16, "-o", folder / "out.png")
    assert done.exit_code == 0, done.output
    before, after = (float(x) for x in done.output.split("Loss ")[1].split(" after")[0].split(" -> "))
    assert after < 0.9 * before
    with Image.open(folder / "out.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.size == (8, 16)  # upright: 12 x 20 pixels, both sides multiples of 4
    assert not list(folder.glob(".*"))


def test_what_has_diverged_is_counted_and_its_best_image_kept_or_refused(folder):
    options = ("--optimizer", "sgd", "--steps", 12, "--size", 16, "-o", folder / "bad.png", "--rate")
    refused = stylize(folder, "photo.jpg", *options, 1e8)
    assert refused.exit_code == 2
    assert "sgd diverged: the loss was" in refused.output
    assert "nothing is written. Lower --rate (it was 1e+08)." in refused.output
    assert not (folder / "bad.png").exists()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("nix.jpg", (), "There is no picture .*nix.jpg"),
        ("text.jpg", (), "text.jpg is not a picture that can be read: cannot identify"),
        ("cut.jpg", (), "cut.jpg is not a picture that can be read: "),
        (
            "line.png",
            (),
            "line.png would be 40 x 2 pixels, and the network needs at least 4 a side. Choose a larger --size",
        ),
        ("photo.jpg", ("--style-size", 3), "painting.png would be 3 x 3 pixels.* Choose a larger --style-size"),
        ("photo.jpg", ("--optimizer", "adamm"), "No optimizer named 'adamm'"),
        ("photo.jpg", ("--optimizer", "lstm-mnist", "--rate", 1), "--rate is for baselines"),
        ("photo.jpg", ("--optimizer", "adam", "--rate", -1), "--rate must be positive, got -1"),
        ("photo.jpg", ("--steps", 0), "--steps must be at least 1, got 0"),
        ("photo.jpg", ("-o", "a.jpg"), "give it a name that ends in .png, got a.jpg"),
        ("photo.jpg", ("--start", "white"), "No start named 'white'"),
    ],
)
def test_mistakes_are_named(folder, content, options, message, monkeypatch):
    monkeypatch.chdir(folder)
    options = options if "--optimizer" in options else (*options, "--optimizer", "adam")
    done = stylize(folder, content, *options)
    assert done.exit_code == 2
    assert done.output.startswith("error: ")

    assert re.search(message, done.output.replace("\n", " "))


def test_missing_weights_say_where_they_were_looked_for_and_what_needs_none(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = stylize(folder, "photo.jpg", "--optimizer", "adam", "--size", 32, features="vgg16")
    assert done.exit_code == 2
    assert f"{tmp_path}/vgg16_conv_fp16.safetensors" in done.output
    assert "Or pass --features random" in done.output


def test_the_output_never_replaces_an_input(folder):
    done = stylize(folder, "photo.jpg", "--optimizer", "adam", "-o", folder / "painting.png")
    assert done.exit_code == 2
    assert "--output would replace a picture that is read" in done.output
