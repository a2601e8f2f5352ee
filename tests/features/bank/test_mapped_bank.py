"""A bank whose tensors stay on disk answers like one in memory, in both environments and in all that looks into it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from random_stores import random_store
from safetensors.numpy import save_file

from strong_envs import features
from strong_envs.features import DataError, FeatureBank, FeatureStore
from strong_envs.features.bank.mapped import MappedRows
from strong_envs.features.store import tensor_file
from strong_envs.local_features import LocalFeatures
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentEnv, TemporalMomentVectorEnv
from strong_envs.testing import check


@pytest.fixture(params=["train", "test", None])
def banks(request, ragged_store) -> tuple[FeatureBank, FeatureBank]:
    store = FeatureStore.open(ragged_store)
    return FeatureBank(store, request.param), FeatureBank(store, request.param, memory="map")


@pytest.mark.parametrize("parts", [1, 3])
def test_rows_are_indexed_like_a_tensor(parts):
    whole = np.random.default_rng(0).normal(size=(20, 2, 3)).astype(np.float32)
    picked = np.array([3, 4, 5, 11, 12, 0])
    maps = np.array_split(whole, parts)
    for array in maps:
        array.setflags(write=False)
    for rows, want in ((None, torch.tensor(whole)), (picked, torch.tensor(whole[picked]))):
        mapped = MappedRows(maps, rows)
        assert mapped.shape == want.shape and len(mapped) == len(want) and mapped.dtype == want.dtype
        for index in (0, -1, slice(1, 5, 2), slice(None), torch.tensor([[2, 0], [5, 5]]), np.array([1]), [4, 4]):
            assert torch.equal(mapped[index], want[index])
        mask = torch.arange(len(want)) % 2 == 0
        assert torch.equal(mapped[mask], want[mask]) and torch.equal(mapped[torch.tensor([])], want[:0])
        assert torch.equal(mapped.flatten(0, 1)[3:9], want.flatten(0, 1)[3:9])
        cells = mapped.flatten(0, 2)
        assert cells.shape == (want.numel(),) and torch.equal(cells[::4], want.flatten()[::4])
        assert torch.equal(mapped.flatten(1, 2)[:], want.flatten(1, 2))
        assert torch.equal(torch.cat(list(mapped.split(4))), want)
        for wrong in (len(want), torch.tensor([0, 99])):
            with pytest.raises(IndexError):
                mapped[wrong]
        with pytest.raises(DataError, match="indexed by rows"):
            mapped[0, 1]


@pytest.mark.parametrize("block", [4096, 1 << 16, 1 << 26])
def test_a_mapped_bank_holds_what_the_bank_in_memory_holds(block, banks, monkeypatch):
    here, there = banks
    assert there.mapped and not here.mapped
    for name in ("frames", "grid"):
        assert isinstance(getattr(there, name), MappedRows)
        assert torch.equal(getattr(there, name)[:], getattr(here, name))
    for name in ("query", "truth", "offsets", "n_frames", "true_boxes"):
        assert torch.equal(getattr(here, name).nan_to_num(), getattr(there, name).nan_to_num())
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(len(here), (40,), generator=generator)
    count = here.n_frames[here.video[samples]]
    ends = (torch.rand(40, 2, 3, generator=generator) * (count[:, None, None] + 1)).long().sort(1).values
    low, high = ends.unbind(1)
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", block)  # several blocks a window, or several windows a block
    for first, last in ((low, high), (low[:, 0], high[:, 0])):
        got = there.frame_means(samples, first, last)
        assert torch.allclose(got, here.frame_means(samples, first, last), atol=1e-5)
        box = torch.tensor([0.1, 0.3, 0.6, 0.9]).expand(*first.shape, 4)
        videos = here.video[samples] if first.ndim == 1 else here.video[samples][:, None].expand_as(first)
        want = here.box_sums(videos, first, last, box)
        assert torch.allclose(there.box_sums(videos, first, last, box), want, atol=1e-3)
    assert torch.allclose(there.frame_means.mean, here.frame_means.mean, atol=1e-5)
    rows = torch.arange(0, len(here.frames), 3)
    box = torch.tensor([0.1, 0.3, 0.6, 0.9]).expand(len(rows), 4)
    assert torch.equal(there.frame_box_features(rows, box), here.frame_box_features(rows, box))
    with pytest.raises(DataError, match="would take .* GB of memory.*box_sums"):
        there.grid_prefix  # noqa: B018


@pytest.mark.parametrize("source", ["frame", "initial", "gaussian", "truth"])
@pytest.mark.parametrize("levels", [(1,), (1, 2, 4)])
def test_local_features_are_the_same(source, levels, ragged_store, monkeypatch):
    monkeypatch.setattr("strong_envs.local_features.NUMBERS_AT_ONCE", 1000)
    here, there = (features.load(ragged_store, "test", memory=memory) for memory in ("device", "map"))
    assert here is not there and there is features.load(ragged_store, "test", memory="map")
    samples = torch.arange(len(here))
    last = here.n_frames[here.video]
    got, want = (LocalFeatures(bank, source, levels).means(samples, last // 2, last) for bank in (there, here))
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"global_scope": "moment", "boxes": "truth"}, {"observation": "index"}])
def test_the_temporal_level_is_the_same(options, banks):
    envs = [TemporalMomentVectorEnv(5, bank, **options) for bank in banks]
    envs += [TemporalMomentEnv(banks[1], **options)]
    first = [env.reset(seed=3)[0] for env in envs]
    rng = np.random.default_rng(0)
    for _ in range(30):
        for name in first[0]:
            np.testing.assert_allclose(first[1][name], first[0][name], atol=1e-5)
        actions = rng.integers(0, 7, 5)
        steps = [env.step(actions) for env in envs[:2]]
        for i in (1, 2, 3):
            np.testing.assert_array_equal(steps[0][i], steps[1][i])
        first = [step[0] for step in steps]
    assert envs[2].observation_space == envs[0].single_observation_space


def test_the_spatial_level_is_the_same(ragged_store):
    envs = []
    for memory in ("device", "map"):
        bank = features.load(ragged_store, "train", memory=memory)
        envs.append(SpatialTrackVectorEnv(4, bank, reward="q_value", critic=critic, boxes="initial"))
    observations = [env.reset(seed=1)[0] for env in envs]
    rng = np.random.default_rng(0)
    for _ in range(25):
        for name in observations[0]:
            np.testing.assert_allclose(observations[1][name], observations[0][name], atol=1e-5, err_msg=name)
        actions = rng.integers(0, 9, 4)
        steps = [env.step(actions) for env in envs]
        np.testing.assert_array_equal(steps[0][1], steps[1][1])
        observations = [step[0] for step in steps]


def critic(observation: dict[str, torch.Tensor]) -> torch.Tensor:
    return observation["local"].sum(-1, keepdim=True) * torch.linspace(0.5, 1.5, 7)


def test_a_mapped_bank_passes_the_checks_for_outsiders(ragged_store):
    check(features.load(ragged_store, "test", memory="map"), steps=20)


def test_what_is_kept_can_be_narrowed_or_widened(ragged_store, tmp_path):
    for memory in ("device", "map"):
        half = features.load(ragged_store, "train", memory=memory, dtype="float16")
        plain = features.load(ragged_store, "train", memory=memory)
        assert half.frames[:2].dtype == half.grid[:2].dtype == torch.float16
        assert plain.frames[:2].dtype == plain.grid[:2].dtype == torch.float32
        samples = torch.arange(4)
        last = half.n_frames[half.video[:4]]
        got, want = (bank.frame_means(samples, last // 3, last) for bank in (half, plain))
        assert got.dtype == torch.float32 and torch.allclose(got, want, atol=2e-3)
    store = random_store(tmp_path / "wide", [4, 5])
    store.manifest["tensors"]["grid"]["range"] = [0.0, 1e5]
    with pytest.raises(DataError, match="1e\\+05, which float16 cannot hold"):
        FeatureBank(store, dtype="float16").grid  # noqa: B018
    with pytest.raises(DataError, match="did you mean 'map'"):
        FeatureBank(store, memory="maps")
    with pytest.raises(DataError, match="dtype must be one of"):
        FeatureBank(store, dtype="int8")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    """A spoilt row is only noticed by who looks at it: no scan of a file that may be larger than the memory."""
    store = random_store(tmp_path / "s", [4, 5, 6])
    values = store.tensor("grid")
    values[7] = np.nan
    save_file({"grid": values}, str(store.path / "grid.safetensors"))
    bank = FeatureBank(store, "train", memory="map")
    assert torch.equal(bank.grid[3], torch.tensor(values[3]))
    for look in (lambda: bank.grid[torch.tensor([2, 7])], lambda: bank.grid.window_sums(*torch.tensor([[6], [9]]))):
        with pytest.raises(DataError, match="grid of store 's' holds NaN"):
            look()


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    store = random_store(tmp_path / "s", [40, 60])
    bank = FeatureBank(store)
    monkeypatch.setattr("strong_envs.features.bank.memory.free_memory", lambda device: 20_000.0)
    for look in (lambda: bank.grid, lambda: bank.grid_prefix):
        with pytest.raises(DataError, match="on cpu and 20.0 kB are free: open it with memory='map'"):
            look()
    assert FeatureBank(store, memory="map").grid[0].shape == (4, 5, 6)
    monkeypatch.setattr("strong_envs.features.bank.memory.free_memory", lambda device: 1000.0)
    with pytest.raises(DataError, match="the frames of 's' would take 2.4 kB"):
        FeatureBank(store)


def test_copies_share_what_is_mapped(ragged_store):
    bank = features.load(ragged_store, "test", memory="map")
    env = TemporalMomentVectorEnv(3, bank)
    env.reset(seed=0)
    again, sent = copy.deepcopy(env), pickle.dumps(env)
    assert again.task.local.means.frames is bank.frames
    outcomes = [one.step(np.zeros(3, int)) for one in (env, again, pickle.loads(sent))]
    for other in outcomes[1:]:
        for one, two in zip(outcomes[0][:4], other[:4], strict=True):
            np.testing.assert_equal(one, two)


def test_a_mapped_tensor_is_sent_by_its_path(tmp_path):
    store = random_store(tmp_path / "s", [40, 60])
    bank = features.load(str(store.path), memory="map")
    for rows in (bank.grid, bank.grid.flatten(0, 2), bank.grid.flatten(1, 2)):
        data = pickle.dumps(rows)
        assert len(data) < 10_000 < rows.numel() and torch.equal(pickle.loads(data)[5:90:7], rows[5:90:7])
    (store.path / "grid.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="gone or has changed"):
        pickle.loads(data)


def test_objects_reach_the_bank(tmp_path):
    from strong_envs.features import Query, StoreContents, StoredVideo, write_store

    objects = np.random.default_rng(0).normal(size=(9, 3, 5)).astype(np.float16)
    store = write_store(
        tmp_path / "s",
        StoreContents(
            name="s",
            videos=[StoredVideo("a", 2.0, 4), StoredVideo("b", 2.0, 5)],
            queries=[Query("q", "b", "x", ((0.0, 1.0),))],
            frames=np.ones((9, 2), np.float32),
            query_vectors=np.ones((1, 2), np.float32),
            objects=objects,
        ),
    )
    for memory in ("device", "map"):
        bank = features.load(str(store.path), memory=memory)
        assert bank.has_objects and torch.equal(bank.objects[:], torch.from_numpy(objects[4:]))
        assert features.load(str(store.path), memory=memory, dtype="float32").objects[:].dtype == torch.float32
    plain = random_store(tmp_path / "t", [4])
    with pytest.raises(DataError, match="no detector features; import them"):
        FeatureBank(plain).objects  # noqa: B018
