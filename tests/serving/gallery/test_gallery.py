"""A gallery as its users see it: the matches of a slow search, and refused with another backbone."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.gallery.tables import VIEWS, found, kept, probes, slow_search, table
from vetdino.platform.core.errors import FeaturesError, GalleryError
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import probed
from vetdino.platform.measure.neighbors import unit_vectors
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.gallery import Gallery


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 500),
    count=st.integers(1, 40),
    patients=st.integers(1, 6),
    kinds=st.integers(0, 5),
    k=st.integers(1, 50),
    exclude_patient=st.none() | st.integers(0, 6).map("patient{}".format),
    findings=st.dictionaries(st.sampled_from(["mass", "fluid"]), st.booleans()),
    projections=st.none() | st.lists(st.sampled_from(VIEWS), max_size=2),
    split=st.sampled_from([None, "train", "test"]),
)
def test_matches_are_those_of_a_slow_search(tmp_path_factory, seed, count, patients, kinds, k, **where):
    features = table(count, 5, seed, patients=patients, kinds=kinds)
    where["projections"] = [
        name for name in where["projections"] or () if name in " ".join(features.projections)
    ]
    folder = tmp_path_factory.mktemp("gallery")
    build(FeaturesSource(features), folder)
    gallery = Gallery.open(folder)
    queries = table(2, 5, seed + 1).vectors
    for query, matches in zip(unit_vectors(queries), gallery.search(queries, k, **where), strict=True):
        assert found(matches) == slow_search(kept(features), query, k, **where)
    gallery.close()


def test_equal_cosines_come_by_id_whatever_the_order_of_faiss(made):
    gallery = Gallery.open(made(table(400, 8, kinds=1)))
    for k in (1, 5, 399):
        (matches,) = gallery.search(table(1, 8, kinds=1).vectors, k)
        assert [match.item.id for match in matches] == list(range(k))


def test_a_row_finds_others_but_none_of_its_patient(made):
    features = table(40)
    gallery = Gallery.open(made(features))
    matches = gallery.similar("key5", 30)
    assert features.patients[5] not in {match.item.patient for match in matches}
    slow = slow_search(
        kept(features),
        gallery.vector("key5"),
        30,
        exclude_patient=features.patients[5],
    )
    assert [key for key, _ in found(matches)] == [key for key, _ in slow]
    assert gallery.similar("key5", 3, split="val")[0].item.split == "val"


def test_views_can_be_rows(made):
    features = replace(table(), keys=tuple("aabbccddeeff"), views=("view0", "view1") * 6)
    gallery = Gallery.open(made(features))
    assert repr(gallery) == "Gallery(12 views, backbone aaaaaaaaaaaa)"
    assert gallery.item("c", "view1").id == 5
    np.testing.assert_allclose(gallery.vector("c", "view1"), features.vectors[5], atol=1e-3)
    with pytest.raises(GalleryError, match=r"no row c in this gallery .*name it"):
        gallery.item("c")


def test_a_match_introduces_itself_without_its_patient(made):
    (match,) = Gallery.open(made()).similar("key5", 1)
    assert match.item.patient not in repr(match)
    assert match.item.key in repr(match)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_query_without_direction_is_refused_in_one_line(made, value):
    gallery = Gallery.open(made())
    queries = table(3).vectors.copy()
    queries[1] = value
    with pytest.raises(FeaturesError, match="1 of 3 vectors of the queries") as refusal:
        gallery.search(queries)
    assert "\n" not in str(refusal.value)


def test_many_threads_get_the_answers_of_one(made):
    gallery = Gallery.open(made(table(300, 8), "ivf"))
    queries = table(12, 8, seed=3).vectors
    single = [gallery.search(query[None], 5, split="train")[0] for query in queries]
    answers = {}

    def search(number: int) -> None:
        answers[number] = [gallery.search(query[None], 5, split="train")[0] for query in queries]

    threads = [threading.Thread(target=search, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[found(each) for each in answers[number]] for number in range(8)] == [
        [found(each) for each in single]
    ] * 8


# The backbone ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone():
    config = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, heads=2, depth=2)
    return random_backbone(config, seed=0).eval()


def features_of(backbone, descriptor):
    width = len(probed(backbone, descriptor).vectors[0])
    digest = descriptor.digest(backbone.card.digest)
    return replace(table(12, width), backbone=digest, probes=probed(backbone, descriptor))


@pytest.mark.parametrize("descriptor", [Descriptor(), Descriptor("cls+mean"), Descriptor("cls+mean", 2)])
def test_it_opens_with_the_backbone_that_made_it(made, backbone, descriptor):
    assert len(Gallery.open(made(features_of(backbone, descriptor)), backbone)) == 12


def test_another_backbone_is_refused_with_both_digests_and_the_command(made, backbone):
    folder = made(features_of(backbone, Descriptor()))
    other = random_backbone(backbone.card.config, seed=1)
    with pytest.raises(GalleryError) as refusal:
        Gallery.open(folder, other)
    for part in (backbone.card.digest[:12], other.card.digest[:12], f"vetdino index build FEATURES {folder}"):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_another_preprocessing_is_refused_too(made, backbone):
    folder = made(features_of(backbone, Descriptor()))
    other = random_backbone(backbone.card.config, seed=0, mean=0.4)
    with pytest.raises(GalleryError, match=other.card.digest[:12]):
        Gallery.open(folder, other)


def test_a_backbone_that_computes_something_else_is_refused(made, backbone):
    folder = made(features_of(backbone, Descriptor()))
    changed = random_backbone(backbone.card.config, seed=0).eval()
    with torch.no_grad():
        changed.vit.blocks[0].attn.qkv.weight.mul_(1.3)
    assert changed.card.digest == backbone.card.digest
    with pytest.raises(GalleryError, match="does not compute what it did") as refusal:
        Gallery.open(folder, changed)
    assert "vetdino index build" in str(refusal.value)


def test_probes_that_are_not_numbers_are_refused(made, backbone):
    features = features_of(backbone, Descriptor())
    broken = probes(48)
    broken.vectors[3] = 0
    with pytest.raises(GalleryError, match="nan"), np.errstate(all="ignore"):
        Gallery.open(made(replace(features, probes=broken)), backbone)
