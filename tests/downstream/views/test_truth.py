"""The truth of generated views: found without a name, laid under patches, and agreed with or not."""

from itertools import combinations

import numpy as np
import pytest

from vetdino.downstream.views import truth as room
from vetdino.downstream.views.truth import (
    COLUMNS,
    Look,
    Truths,
    looks_of,
    matches_of,
    overlap_of,
    panel,
    patches_of,
    pixel_tokens,
)
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.data.study import Study, View
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import Part, decode
from vetdino.platform.ingest.discovery import DecodeTask
from vetdino.platform.ingest.pseudonyms import pseudonym
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog import archive as generator
from vetdino.platform.phantom.dog.archive import write_radiographs
from vetdino.platform.phantom.dog.studies import dicom_uid

KEY = b"a key of sixteen bytes"
CONFIG = PhantomConfig(studies=4, side=96, seed=3, workers=1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Studies of 96 pixels whose maps are three times as coarse, and the key file of their shards."""
    place = tmp_path_factory.mktemp("truth")
    (place / "secret").write_bytes(KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "TRUTH_SIDE", 40)
        write_radiographs(place / "archive", CONFIG)
    return place


@pytest.fixture(scope="module")
def studies(archive):
    """As ingest leaves them, shrunk to 80 pixels; number of the study -> Study."""
    config = IngestConfig()
    config = IngestConfig(dicom=type(config.dicom)(side=80))
    found = {}
    for number in range(CONFIG.studies):
        (home,) = (archive / "archive" / "dicom").glob(f"*/{dicom_uid(CONFIG, 'study', number)}")
        parts = [decode(home, DecodeTask(path.name), KEY, config) for path in sorted(home.iterdir())]
        assert not any(part.code for part in parts), [part.code for part in parts]
        found[number] = study_of(parts)
    return found


def study_of(parts: list[Part]) -> Study:
    return Study(parts[0].study, parts[0].patient, tuple(part.view for part in parts), split="test")


@pytest.fixture(scope="module")
def truths(archive):
    return Truths(archive / "archive", archive / "secret")


@pytest.fixture(scope="module")
def laid(truths, studies):
    """(view, map, patches of 8 pixels on a square of 64) of all views of the longest study."""
    study = max(studies.values(), key=lambda study: len(study.views))
    return [(view, truth, patches_of(view, truth, 64, 8)) for view, truth in truths.of(study)]


# Found without a name


def test_a_study_finds_its_maps_by_the_hash_of_its_name(archive, truths, studies):
    assert len(truths) == CONFIG.studies
    for number, study in studies.items():
        assert study.key in truths
        for index, (view, truth) in enumerate(truths.of(study)):
            path = archive / "archive" / "truth" / f"{dicom_uid(CONFIG, 'study', number)}_{index}.npz"
            with np.load(path) as own:
                np.testing.assert_array_equal(truth.frame, own["frame"])
                assert truth.pixel == float(own["pixel"])
            assert truth.step == 3
            assert truth.projection == view.projection or view.projection == "UNKNOWN"


def test_a_view_whose_neighbours_were_refused_still_finds_its_own_map(truths, studies):
    study = max(studies.values(), key=lambda study: len(study.views))
    whole = [truth for _, truth in truths.of(study)]
    last = Study(study.key, study.patient, study.views[-1:])
    ((_, found),) = truths.of(last)
    np.testing.assert_array_equal(found.centre, whole[-1].centre)


def test_a_view_of_another_size_or_projection_or_without_spacing_has_no_map(truths, studies):
    study = studies[0]
    view, truth = truths.of(study)[0]
    assert truth.fits(view)
    for other in (
        View(view.pixels, view.projection, spacing=None),
        View(view.pixels, view.projection, spacing=(view.spacing[0] * 1.02, view.spacing[1] * 1.02)),
        View(view.pixels, "LATERAL" if truth.projection in ("VD", "DV") else "VD", spacing=view.spacing),
    ):
        assert not truth.fits(other)


def test_another_key_knows_no_study(archive, studies, tmp_path):
    (tmp_path / "other").write_bytes(b"another key of sixteen")
    stranger = Truths(archive / "archive", tmp_path / "other")
    assert not any(study.key in stranger for study in studies.values())


def test_missing_truth_and_missing_secret_are_refused(archive, tmp_path):
    with pytest.raises(ConfigError, match="vetdino phantom"):
        Truths(tmp_path, archive / "secret")
    with pytest.raises(ConfigError, match="pseudonyms"):
        Truths(archive / "archive", tmp_path / "nowhere")


def test_a_damaged_map_is_told_by_the_studys_key_never_by_its_name(tmp_path):
    name = dicom_uid(CONFIG, "study", 0)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / f"{name}_0.npz").write_bytes(b"no map")
    (tmp_path / "secret").write_bytes(KEY)
    truths, key = Truths(tmp_path, tmp_path / "secret"), pseudonym(KEY, f"study:{name}")
    with pytest.raises(DataError) as error:
        truths.of(Study(key, "p", (View(np.zeros((8, 8), np.uint8)),)))
    assert key in str(error.value)
    assert name not in str(error.value) + repr(truths)


# Laid under patches


def test_a_patchs_point_lies_on_the_ray_through_its_middle(laid):
    for view, truth, patches in laid:
        inside = patches.inside
        assert len(inside) > 4, view
        off = truth.seen(patches.points[inside]) - patches.places[inside]
        # A map's pixel stands for 3 x 3 of the picture; float16 keeps points of 30 cm to 0.03.
        assert np.abs(off).max() <= 1.5 * truth.pixel + 0.05


def test_shares_are_the_overlaps_of_rectangles(laid):
    view, truth, patches = laid[0]
    rows, columns = (round(size) for size in truth.exposed(view))
    assert (rows, columns) != view.pixels.shape
    organ = truth.organs.index("liver")
    count = len(patches.across) - 1
    for patch in range(0, count * count, 7):
        top, bottom = patches.down[patch // count : patch // count + 2]
        left, right = patches.across[patch % count : patch % count + 2]
        liver = animal = 0.0
        for row in range(truth.masks.shape[1]):
            for column in range(truth.masks.shape[2]):
                v, u = (
                    (3 * place - size / 2) * truth.pixel for place, size in ((row, rows), (column, columns))
                )
                tall = max(0.0, min(bottom, v + 3 * truth.pixel) - max(top, v))
                wide = max(0.0, min(right, u + 3 * truth.pixel) - max(left, u))
                share = tall * wide / ((bottom - top) * (right - left))
                liver += share * truth.masks[organ, row, column]
                animal += share * np.isfinite(truth.points[row, column, 0])
        assert patches.animal[patch] == pytest.approx(animal, abs=1e-5)
        assert patches.organs[organ, patch] == pytest.approx(liver, abs=1e-5)


def test_the_letterbox_shows_no_animal_and_the_animal_is_bright(laid):
    for view, _, patches in laid:
        mean = pixel_means(view)
        assert mean[patches.animal > 0.9].mean() > mean[patches.animal == 0].mean()
        beyond = np.abs(patches.places[:, 0]) > view.pixels.shape[1] * view.spacing[1] / 20
        assert (
            not patches.animal[beyond & (patches.animal < 0.5)].any() or (patches.animal[beyond] < 0.5).all()
        )


def pixel_means(view):
    from vetdino.platform.models.letterbox import letterboxed

    return letterboxed(view.pixels, 64).reshape(8, 8, 8, 8).mean(axis=(1, 3)).ravel()


def test_an_outline_gives_back_the_places_of_its_own_view(laid):
    for _, _, patches in laid:
        np.testing.assert_allclose(patches.placed(patches.relative()), patches.places, atol=1e-9)


def test_two_views_share_the_axis_from_head_to_tail(laid):
    by = {patches.truth.projection: patches for _, _, patches in laid}
    top = by.get("VD", by.get("DV")).relative()
    side = by.get("LLAT", by.get("RLAT")).relative()
    assert np.isnan(top[:, 1]).all()
    assert np.isnan(side[:, 0]).all()
    assert np.isfinite(top[:, [0, 2]]).all()
    assert np.isfinite(side[:, [1, 2]]).all()
    # Cranial is up in one and left in the other, and is the larger z.
    assert top[0, 2] > top[-1, 2]
    assert side[0, 2] > side[7, 2]


# Patches that answer one another


def look(laid, tokens=None, attention=None):
    view, _, patches = laid
    tokens = np.eye(len(patches.points), dtype=np.float32) if tokens is None else tokens
    return Look(view, patches, tokens, attention)


def asked(one, other, radius=3.0, most=1000, seed=0):
    return matches_of(one, other, radius=radius, most=most, random=np.random.default_rng(seed))


def test_tokens_that_know_their_patch_find_it_in_the_same_view(laid):
    same = look(laid[0])
    found = asked(same, same)
    assert tuple(found.columns) == COLUMNS
    assert found.answerable == found.foreground == len(laid[0][2].inside)
    assert found.columns["patch_hit_at_1"].all()
    assert found.columns["patch_hit_oracle"].all()
    np.testing.assert_array_equal(found.columns["patch_error_cm"], found.columns["patch_error_cm_oracle"])


def test_columns_are_those_of_slow_loops(laid):
    random = np.random.default_rng(1)
    one, other = (look(part, random.normal(size=(64, 6)).astype(np.float32)) for part in laid[:2])
    radius, here, there = 3.0, laid[0][2], laid[1][2]
    found = asked(one, other, radius)
    every = there.truth.points[np.isfinite(there.truth.points[..., 0])]
    rows = []
    for patch in here.inside:
        point = here.points[patch]
        if min(np.linalg.norm(every - point, axis=1)) > radius:
            continue
        wanted = there.truth.frame[:2] @ (point - there.truth.centre)
        error = {int(m): float(np.hypot(*(there.places[m] - wanted))) for m in there.inside}
        token = one.tokens[patch]
        near = sorted(error, key=lambda m: -cosine(token, other.tokens[m]))
        chance = [any(error[m] <= radius for m in five) for five in combinations(error, 2)]
        misses, count = sum(value > radius for value in error.values()), len(error)
        missed = np.prod([(misses - drawn) / (count - drawn) if misses > drawn else 0 for drawn in range(5)])
        assert 1 - misses * (misses - 1) / (count * (count - 1)) == pytest.approx(np.mean(chance))
        rows.append(
            {
                "patch_hit_at_1": error[near[0]] <= radius,
                "patch_hit_at_5": min(error[m] for m in near[:5]) <= radius,
                "patch_error_cm": error[near[0]],
                "patch_hit_at_1_chance": 1 - misses / count,
                "patch_hit_at_5_chance": 1 - missed,
                "patch_error_cm_chance": np.median(list(error.values())),
                "patch_hit_oracle": min(error.values()) <= radius,
                "patch_error_cm_oracle": min(error.values()),
            }
        )
    assert 0 < len(rows) == found.answerable < found.foreground
    for name in rows[0]:
        np.testing.assert_allclose(found.columns[name], [row[name] for row in rows], rtol=1e-6, err_msg=name)


def cosine(one, other):
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_position_beats_chance_and_never_the_oracle(laid):
    flat = [look(part, np.ones((64, 2), np.float32)) for part in laid]
    for one, other in combinations(flat, 2):
        told = asked(one, other).columns
        assert np.median(told["patch_error_cm_position"]) < np.median(told["patch_error_cm_chance"])
        assert (told["patch_error_cm_oracle"] <= told["patch_error_cm_position"]).all()


def test_few_patches_are_drawn_and_a_view_of_nothing_answers_nothing(laid):
    one, other = look(laid[0]), look(laid[1])
    few = asked(one, other, most=3).columns
    assert len(few["patch_error_cm"]) == 3
    np.testing.assert_array_equal(few["patch_error_cm"], asked(one, other, most=3).columns["patch_error_cm"])
    assert asked(one, other, radius=1e-9).columns == {}


def test_pixels_answer_by_normalised_cross_correlation(laid):
    view = laid[0][0]
    tokens = room.unit_or_zero(pixel_tokens(view, 64, 8))
    from vetdino.platform.models.letterbox import letterboxed

    square = letterboxed(view.pixels, 64).astype(float)
    one, other = square[24:32, 32:40].ravel(), square[32:40, 16:24].ravel()
    assert tokens[3 * 8 + 4] @ tokens[4 * 8 + 2] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-5)
    assert not room.unit_or_zero(pixel_tokens(View(np.full((8, 8), 7, np.uint8)), 64, 8)).any()


# Heads that look at organs


def test_an_even_look_has_no_organ(laid):
    _, truth, _ = laid[0]
    auc, lift = overlap_of(look(laid[0], attention=np.full((2, 64), 1 / 70, np.float32)))
    shown = ~np.isnan(auc[:, 0])
    assert auc.shape == lift.shape == (len(truth.organs), 2)
    assert shown.any()
    np.testing.assert_allclose(auc[shown], 0.5)
    np.testing.assert_allclose(lift[shown], 1.0, rtol=1e-6)


def test_overlap_is_that_of_slow_loops(laid):
    _, truth, patches = laid[0]
    attention = np.random.default_rng(2).random((2, 64)).astype(np.float32)
    auc, lift = overlap_of(look(laid[0], attention=attention))
    k, head = truth.organs.index("liver"), 1
    won = pairs = inside = mass = 0.0
    for one in range(64):
        organ = float(min(patches.organs[k, one], patches.animal[one]))
        inside, mass = (
            inside + attention[head, one] * organ,
            mass + attention[head, one] * patches.animal[one],
        )
        for other in range(64):
            outside = float(patches.animal[other] - min(patches.organs[k, other], patches.animal[other]))
            a, b = attention[head, one], attention[head, other]
            won += organ * outside * ((a > b) + 0.5 * (a == b))
            pairs += organ * outside
    area = patches.organs[k].sum() / patches.animal.sum()
    assert auc[k, head] == pytest.approx(won / pairs, abs=1e-6)
    assert lift[k, head] == pytest.approx(inside / mass / area, rel=1e-5)


def test_a_head_that_looks_at_an_organ_is_found_out(laid):
    _, truth, patches = laid[0]
    k = truth.organs.index("lung")
    attention = np.stack([patches.organs[k] + 0.01, np.full(64, 0.01)]).astype(np.float32)
    auc, lift = overlap_of(look(laid[0], attention=attention))
    assert auc[k, 0] > 0.8
    assert lift[k, 0] > 1.5


def test_a_backbone_looks_at_all_views_with_a_map_and_pixels_without_heads(truths, studies, laid):
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=1, heads=2)
    backbone = random_backbone(small, seed=0)
    views = truths.of(studies[0])
    looks = looks_of(backbone, [*views, (views[0][0], None)], 64, 8)
    assert [(one.tokens.shape, one.attention.shape) for one in looks] == [((16, 32), (2, 16))] * len(views)
    assert all(one.projection == view.projection for one, (view, _) in zip(looks, views, strict=True))
    assert looks_of(backbone, [], 64, 8) == []
    pixels = looks_of(None, views, 64, 8)
    assert pixels[0].tokens.shape == (64, 64)
    assert pixels[0].attention is None


def test_the_picture_is_a_png_of_all_views_and_known_organs(laid):
    import io

    from PIL import Image

    shown = [look(part, attention=np.random.default_rng(0).random((2, 64))) for part in laid[:2]]
    png = panel(shown, {"liver": (0, 0.6), "unheard of": (1, 0.9)}, "random weights")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.height > 500
        assert len(set(picture.convert("L").tobytes())) > 50
