"""Convolutional families and neural art against other routes to the same numbers; the suites' panels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from safetensors.numpy import save_file

import l2o
from l2o.evaluation.suites import paper, transfer, vision
from l2o.tasks import _images, _layers, _vgg, convnet, mlp, resnet, style

pytestmark = [pytest.mark.slow, pytest.mark.slowest]

KEY = jax.random.key(0)


# ---- layers


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.slowest
@pytest.mark.slow
def test_conv_and_its_derivatives_are_xlas(groups, kernel, stride, side, x64):
    x = jax.random.normal(KEY, (groups, 2, side, side + 2, 3))  # groups, channels, height, width, images
    w = jax.random.normal(jax.random.key(1), (kernel, kernel, 2, 4))
    half = kernel // 2

    def expected(x, w):
        together = jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)
        dimensions = ("CHWN", "HWIO", "CHWN")
        y = jax.lax.conv_general_dilated(
            together, w, (stride, stride), [(half, half)] * 2, dimension_numbers=dimensions
        )
        return jnp.moveaxis(y.reshape(*y.shape[:-1], groups, -1), -2, 0)

    def all_derivatives(conv):
        def loss(x, w):
            return jnp.sum(jnp.sin(conv(x, w)))

        def slope(x, w):  # second derivatives: a gradient of the gradient
            return sum(jnp.sum(jnp.cos(g)) for g in jax.grad(loss, (0, 1))(x, w))

        return conv(x, w), jax.grad(loss, (0, 1))(x, w), jax.grad(slope, (0, 1))(x, w)

    results = all_derivatives(lambda x, w: _layers.conv(x, w, stride)), all_derivatives(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *results)


@pytest.mark.slowest
@pytest.mark.slow
def test_groups_keep_the_order_and_change_no_result(monkeypatch, x64):
    x = jax.random.normal(KEY, (12, 8, 6, 3))  # batch, height, width, channels
    np.testing.assert_array_equal(_layers.ungrouped(_layers.grouped(x)), jnp.moveaxis(x, -1, 1).reshape(12, -1))
    task = convnet.family(batch_size=12)(KEY)
    params = task.init(KEY)
    whole = jax.value_and_grad(task.loss)(params, KEY)
    monkeypatch.setattr(_layers, "_GROUP_PIXELS", 4 * 14 * 14)
    assert len(_layers.grouped(jnp.zeros((12, 14, 14, 1)))) == 3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), jax.value_and_grad(task.loss)(params, KEY), whole
    )


def test_batch_norm_standardises_then_scales_and_shifts():
    x = 5 + 3 * jax.random.normal(KEY, (2, 2, 4, 4, 4))
    y = _layers.batch_norm(x, jnp.array([1.0, 2.0]), jnp.array([0.0, -1.0]))
    np.testing.assert_allclose(y.mean((0, 2, 3, 4)), [0, -1], atol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3, 4)), [1, 2], rtol=1e-3)


def test_max_pool_leaves_an_odd_edge_out():
    x = jnp.arange(15.0).reshape(1, 1, 3, 5, 1)
    assert _layers.max_pool(x)[0, 0, :, :, 0].tolist() == [[6, 8]]


@pytest.mark.parametrize(("module", "level"), [(convnet, 0), (convnet, 1), (convnet, 3), (resnet, 3)])
def test_compiled_gradient_is_the_slope_of_the_loss(module, level, x64):
    """Central differences in double precision, along one direction: pooling and batch norm included.

    At every level of XLA's optimizations: where max-pooling's derivative looks for entries that equal the maximum, a compiler
    that computes them twice finds none.
    """
    task = module.family(batch_size=4)(KEY)
    params = task.init(KEY)
    options = {"xla_backend_optimization_level": level}
    gradient = jax.jit(lambda params: jax.grad(task.loss)(params, KEY), compiler_options=options)(params)
    flat, unravel = ravel_pytree(params)
    direction = jax.random.normal(jax.random.key(2), flat.shape)
    loss = eqx.filter_jit(lambda flat: task.loss(unravel(flat), KEY))
    slope = (loss(flat + 1e-6 * direction) - loss(flat - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(ravel_pytree(gradient)[0] @ direction, slope, rtol=1e-5)


def test_a_shortcut_subsamples_and_pads_with_silent_channels():
    x = jnp.arange(9.0).reshape(1, 1, 3, 3, 1)
    y = resnet._shortcut(x, 2, 3)
    assert y[0, 0, :, :, 0].tolist() == [[0, 2], [6, 8]]
    assert not y[:, 1:].any()


def test_params_say_which_are_convolutional():
    for module in (convnet, resnet):
        params = jax.eval_shape(module.family()(KEY).init, KEY)
        assert sorted(params) == ["conv", "dense"]
    shapes = [layer["w"].shape for layer in jax.eval_shape(convnet.family()(KEY).init, KEY)["dense"]]
    assert shapes == [(3 * 3 * 8, 16), (16, 10)]  # 28 -> 14 downscaled -> 7 -> 3


# ---- images


def load(**settings):
    return _images.load(
        "mnist_sample", **{"labels": None, "downscale": 1, "batch_size": 8, "outer_batch_size": 16, **settings}
    )


def test_labels_select_and_renumber():
    whole, some = load(), load(labels=(7, 2))
    assert some.num_classes == 2
    np.testing.assert_array_equal(some.x_train[some.y_train == 0], whole.x_train[whole.y_train == 7])
    np.testing.assert_array_equal(some.x_test[some.y_test == 1], whole.x_test[whole.y_test == 2])


@pytest.mark.parametrize("labels", [(3,), (1, 1), (0, 10), (-1, 0)])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(ValueError, match=r"`labels` must be two or more different labels of mnist_sample .*got"):
        load(labels=labels)


def test_downscaled_pixels_are_means_of_squares():
    x = np.arange(32, dtype=np.uint8).reshape(1, 4, 8, 1)
    assert _images._downscaled(x, 4)[0, :, :, 0].tolist() == [[14, 18]]  # 13.5 and 17.5, to even


def test_accuracy_counts_every_example_once():
    images = load(labels=(0, 1))
    images = eqx.tree_at(lambda i: (i.x_test, i.y_test), images, (images.x_test[:7], images.y_test[:7]))
    first_is_one = images.x_test.reshape(7, -1).sum(1) % 2
    right = jnp.sum(first_is_one == images.y_test) / 7

    def logits(x):
        total = jnp.round(x.reshape(-1, x.shape[-1]).sum(0) * 255).astype(int) % 2
        return jax.nn.one_hot(total, 2)

    for chunk in (500, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_images, "_CHUNK", chunk)
            np.testing.assert_allclose(images.accuracy(logits, "test"), right, rtol=1e-6)


# ---- neural art


def test_features_are_a_convolutional_nets():
    net = _vgg.load("random", ("conv2_1", "conv1_1"))
    assert len(net.weights) == 2  # nothing above the deepest layer
    picture = jax.random.uniform(KEY, (8, 8, 3))
    x = (picture[..., ::-1] - 0.5)[None]
    conv = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    first = jax.nn.relu(conv(x, net.weights[0][0][0]))
    pooled = first.reshape(1, 4, 2, 4, 2, -1).mean((2, 4))
    found = net(picture, ("conv1_1", "conv2_1"))
    np.testing.assert_allclose(found["conv1_1"], first[0], atol=1e-5)
    np.testing.assert_allclose(found["conv2_1"], jax.nn.relu(conv(pooled, net.weights[1][0][0]))[0], atol=1e-5)


def test_terms_vanish_where_they_should():
    task = style.family(variation_weight=0.0, style_weight=0.0)(KEY)
    assert task.loss(task.content, KEY) == 0
    task = style.family(content_weight=0.0, style_weight=1.0, variation_weight=0.0)(KEY)
    assert task.loss(style._synthetic_style(16), KEY) < 1e-10
    flat = jnp.ones((16, 16, 3)) / 2
    assert task.metrics(flat, KEY)["variation"] == 0
    assert task.metrics(flat.at[::2].add(0.1), KEY)["variation"] == pytest.approx(0.01, rel=1e-5)


def test_image_is_the_params_clipped():
    task = style.family(start="noise")(KEY)
    picture = task.image(task.init(KEY) + jnp.linspace(-1, 1, 16)[:, None, None] * jnp.ones((16, 16, 3)))
    assert picture.shape == (16, 16, 3)
    assert (picture.min(), picture.max()) == (0, 1)
    assert mlp.family()(KEY).image(None) is None


def test_pictures_style_and_vgg_are_found_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_test=photos)
    np.savez(tmp_path / "styles.npz", waves_16=photos[0])
    weights = {}
    for layer, depth, out in (("conv1_1", 3, 4), ("conv1_2", 4, 5), ("conv2_1", 5, 6)):
        weights[f"{layer}.weight"] = rng.normal(size=(out, depth, 3, 3)).astype(np.float16)
        weights[f"{layer}.bias"] = rng.normal(size=out).astype(np.float32)
    save_file(weights, tmp_path / "vgg16_conv_fp16.safetensors")
    settings = {"data": "mine", "style": "waves", "features": "vgg16", "size": 16, "style_layers": ("conv1_1",)}
    task = style.family(split="test", content_layers=("conv2_1",), **settings)(KEY)
    assert any(np.allclose(task.content * 255, photo, atol=1e-4) for photo in photos)
    assert task.content_targets["conv2_1"].shape == (8, 8, 6)
    # By hand: one value of the first layer, blue first, means taken off, kernel OIHW.
    bgr = np.asarray(task.content)[:3, :3, ::-1] * 255 - np.array([103.939, 116.779, 123.68])
    value = np.sum(bgr.transpose(2, 0, 1) * weights["conv1_1.weight"][0]) + weights["conv1_1.bias"][0]
    np.testing.assert_allclose(task.features(task.content, ["conv1_1"])["conv1_1"][1, 1, 0], max(value, 0), rtol=1e-4)
    with pytest.raises(ValueError, match=r"mine has no split 'train'\. It has: test\."):
        style.family(content_layers=("conv2_1",), **settings)
    with pytest.raises(ValueError, match=r"No style named 'dots' at 16 pixels in .*There are: waves_16\."):
        style.family(style="dots")


def test_missing_files_say_where_and_what(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for load, file in (
        (lambda: l2o.data.load_pictures("content_64"), "content_64.npz"),
        (lambda: l2o.data.load_style("scream", 64), "styles.npz"),
        (l2o.data.load_vgg16, "vgg16_conv_fp16.safetensors"),
    ):
        with pytest.raises(FileNotFoundError) as raised:
            load()
        lines = str(raised.value).splitlines()
        assert lines[:3] == [
            f"There is no {file}. Looked at",
            f"  {tmp_path / 'none' / file}",
            f"  {tmp_path / 'l2o' / file}",
        ]
        assert lines[3] == "Set L2O_DATA to the folder that has it."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "vgg19"}, "No features named 'vgg19'. Features: vgg16, random."),
        ({"style_layers": ("conv9_1",)}, "Layers of random are conv1_1, conv2_1, conv3_1; got conv9_1."),
        ({"start": "white"}, "No start named 'white'. Starts: content, noise."),
        ({"size": 2}, "Images of 2 pixels are too small for layer conv3_1, which needs 4 a side."),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        style.family(**settings)


# ---- suites


@pytest.mark.parametrize("suite", [paper, vision, transfer])
def test_quick_panels_need_only_what_ships(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quick, full = suite.panels(quick=True), suite.panels()
    if suite is paper:
        assert list(quick) == list(full)
    for panel in quick.values():
        assert set(panel.data) <= {"mnist_sample"}
        assert 1 <= panel.window <= panel.horizon <= panel.run_to
        task = eqx.filter_eval_shape(panel.make(), KEY)  # every setting is one that the family takes
        assert isinstance(task, l2o.AbstractTask)


def test_the_papers_panels_have_its_settings(monkeypatch):
    found = paper.panels()
    assert (found["mnist"].horizon, found["mnist"].run_to) == (100, 200)
    assert found["cifar10"].horizon == 1000
    assert found["style_64"].horizon == found["style_128"].horizon == 128
    seen = {}
    monkeypatch.setattr(l2o.data, "load", lambda name: seen.update(data=name) or _fake_cifar())
    params = jax.eval_shape(found["cifar5"].make()(KEY).init, KEY)
    assert seen["data"] == "cifar10"
    assert [layer["w"].shape for layer in params["conv"]] == [(5, 5, 3, 16), (5, 5, 16, 16), (5, 5, 16, 16)]
    assert [layer["w"].shape for layer in params["dense"]] == [(256, 32), (32, 5)]


def _fake_cifar():
    x, y = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20, dtype=np.int32) % 10
    return l2o.data.DataSet(x, y, x, y)
