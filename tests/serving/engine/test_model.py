"""A backbone of the service: batched answers equal single ones, and equal those of `vetdino embed`."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import vetdino
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import extract
from vetdino.platform.models.loading import load
from vetdino.serving.config import ServiceConfig
from vetdino.serving.engine.model import LocalModel, load_backbones, study_vector

ALIKE = 2e-6
"""Most that a number of a vector of length 1 may differ between passes of different sizes; zero on most CPUs."""


def model_of(folder, **changes) -> LocalModel:
    backbone = load(folder)
    return LocalModel(backbone, Descriptor(), ServiceConfig(backbones=(folder,), **changes))


@pytest.fixture(scope="module")
def model():
    model = model_of(vetdino.SHIPPED)
    yield model
    model.close()


def views(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(4)
    return [random.integers(0, 256, (90 + 7 * n, 120), np.uint8) for n in range(count)]


def test_a_batched_answer_is_the_single_one(model):
    async def together():
        return await asyncio.gather(*(model.vectors([view]) for view in views(9)))

    batched = np.concatenate(asyncio.run(together()))
    single = np.concatenate([asyncio.run(model.vectors([view])) for view in views(9)])
    np.testing.assert_allclose(batched, single, rtol=0, atol=ALIKE)
    np.testing.assert_allclose(np.linalg.norm(batched, axis=1), 1, atol=1e-6)


def test_patches_and_attention_batched_are_the_single_ones(model):
    batched = asyncio.run(model.encode(views(3)))
    for view, together in zip(views(3), batched, strict=True):
        (alone,) = asyncio.run(model.encode([view]))
        np.testing.assert_allclose(together.tokens, alone.tokens, rtol=0, atol=1e-5)
        np.testing.assert_allclose(together.attention, alone.attention, rtol=0, atol=ALIKE)
    assert (batched[0].tokens.shape, batched[0].attention.shape) == ((144, 192), (3, 144))
    assert (batched[1].grid.height, batched[1].grid.width) == (97, 120)


def test_vectors_are_those_of_embed(folder, studies):
    model = model_of(folder / "backbone0")
    table = extract(load(folder / "backbone0"), folder / "shards", ["test"])
    for study, vector in zip(studies, table.vectors, strict=True):
        stored = vetdino.read(folder / "shards", "test")
        pixels = [view.decode().pixels for one in stored if one.key == study.key for view in one.views]
        ours = study_vector(asyncio.run(model.vectors(pixels)))
        np.testing.assert_allclose(ours, vector, rtol=0, atol=ALIKE)
    assert model.card.vectors == table.backbone
    assert model.card.dimensions == table.vectors.shape[1]


def test_a_view_without_a_direction_is_its_own_error(model, monkeypatch):
    from vetdino.serving.engine import model as module

    whole = module.view_vectors

    def some(backbone, batch, descriptor):
        if any(view.shape[0] == 97 for view in batch):
            raise FeaturesError("no direction")
        return whole(backbone, batch, descriptor)

    monkeypatch.setattr(module, "view_vectors", some)

    async def together():
        calls = (model.vectors([view]) for view in views(3))
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(together())
    assert first.shape == third.shape == (1, 192)
    assert isinstance(second, FeaturesError)


def test_a_larger_side_gives_a_finer_grid_and_must_fit_the_patch(folder):
    model = model_of(folder / "backbone0", side=96)
    (encoded,) = asyncio.run(model.encode([views(1)[0]]))
    assert encoded.tokens.shape == (144, 48)
    assert model.card.patches == 144
    with pytest.raises(ConfigError, match="side 60"):
        model_of(folder / "backbone0", side=60)


def test_a_backbone_is_served_at_the_depth_and_side_said_behind_it(folder):
    model = model_of(f"{folder / 'backbone0'}#depth=1,side=96")
    (encoded,) = asyncio.run(model.encode([views(1)[0]]))
    assert encoded.tokens.shape == (144, 48)
    whole = model_of(folder / "backbone0")
    assert model.card.digest != whole.card.digest
    (one,), (other,) = (asyncio.run(each.vectors([views(1)[0]])) for each in (model, whole))
    assert not np.allclose(one, other, atol=1e-2)


def test_random_weights_stand_beside_the_first_backbone(folder):
    first, second = load_backbones(ServiceConfig(backbones=(folder / "backbone0", "random")))
    assert second.card.label.startswith("random weights")
    assert first.card.config == second.card.config
    with pytest.raises(ConfigError, match="needed first"):
        load_backbones(ServiceConfig(backbones=("random",)))
