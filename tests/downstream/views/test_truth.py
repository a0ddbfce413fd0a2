"""Maps of generated views are found without a name, and laid under patches exactly."""

import numpy as np
import pytest

from vetdino.downstream.views.truth import TruthArchive
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.data.study import Study, View
from vetdino.platform.ingest.pseudonyms import pseudonym
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.studies import dicom_uid

KEY = b"a key of sixteen bytes"
CONFIG = PhantomConfig(studies=4, side=96, seed=3, workers=1)


def test_a_study_finds_its_maps_by_the_hash_of_its_name(archive, truths, studies):
    assert len(truths) == CONFIG.studies
    for number, study in studies.items():
        assert study.key in truths
        for index, (view, truth) in enumerate(truths.views(study)):
            path = archive / "archive" / "truth" / f"{dicom_uid(CONFIG, 'study', number)}_{index}.npz"
            with np.load(path) as own:
                np.testing.assert_array_equal(truth.frame, own["frame"])
                assert truth.pixel == float(own["pixel"])
            assert truth.step == 3
            assert truth.projection == view.projection or view.projection == "UNKNOWN"


def test_a_view_whose_neighbours_were_refused_still_finds_its_own_map(truths, studies):
    study = max(studies.values(), key=lambda study: len(study.views))
    whole = [truth for _, truth in truths.views(study)]
    last = Study(study.key, study.patient, study.views[-1:])
    ((_, found),) = truths.views(last)
    np.testing.assert_array_equal(found.center, whole[-1].center)


def test_a_view_of_another_size_or_projection_or_without_spacing_has_no_map(truths, studies):
    study = studies[0]
    view, truth = truths.views(study)[0]
    assert truth.fits(view)
    for other in (
        View(view.pixels, view.projection, spacing=None),
        View(view.pixels, view.projection, spacing=(view.spacing[0] * 1.02, view.spacing[1] * 1.02)),
        View(view.pixels, "LATERAL" if truth.projection in ("VD", "DV") else "VD", spacing=view.spacing),
    ):
        assert not truth.fits(other)


def test_another_key_knows_no_study(archive, studies, tmp_path):
    (tmp_path / "other").write_bytes(b"another key of sixteen")
    stranger = TruthArchive(archive / "archive", tmp_path / "other")
    assert not any(study.key in stranger for study in studies.values())


def test_missing_truth_and_missing_secret_are_refused(archive, tmp_path):
    with pytest.raises(ConfigError, match="vetdino phantom"):
        TruthArchive(tmp_path, archive / "secret")
    with pytest.raises(ConfigError, match="pseudonyms"):
        TruthArchive(archive / "archive", tmp_path / "nowhere")


def test_a_damaged_map_is_told_by_the_studys_key_never_by_its_name(tmp_path):
    name = dicom_uid(CONFIG, "study", 0)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / f"{name}_0.npz").write_bytes(b"no map")
    (tmp_path / "secret").write_bytes(KEY)
    truths, key = TruthArchive(tmp_path, tmp_path / "secret"), pseudonym(KEY, f"study:{name}")
    with pytest.raises(DataError) as error:
        truths.views(Study(key, "p", (View(np.zeros((8, 8), np.uint8)),)))
    assert key in str(error.value)
    assert name not in str(error.value) + repr(truths)


def test_a_patchs_point_lies_on_the_ray_through_its_middle(laid):
    for view, truth, patches in laid:
        inside = patches.inside
        assert len(inside) > 4, view
        off = truth.on_detector(patches.points[inside]) - patches.centers[inside]
        # A map's pixel stands for 3 x 3 of the picture; float16 keeps points of 30 cm to 0.03.
        assert np.abs(off).max() <= 1.5 * truth.pixel + 0.05


def test_shares_are_the_overlaps_of_rectangles(laid):
    view, truth, patches = laid[0]
    rows, columns = (round(size) for size in truth.exposed_size(view))
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
        beyond = np.abs(patches.centers[:, 0]) > view.pixels.shape[1] * view.spacing[1] / 20
        assert (
            not patches.animal[beyond & (patches.animal < 0.5)].any() or (patches.animal[beyond] < 0.5).all()
        )


def pixel_means(view):
    from vetdino.platform.models.letterbox import letterboxed

    return letterboxed(view.pixels, 64).reshape(8, 8, 8, 8).mean(axis=(1, 3)).ravel()


def test_an_outline_gives_back_the_places_of_its_own_view(laid):
    for _, _, patches in laid:
        np.testing.assert_allclose(patches.from_relative(patches.relative()), patches.centers, atol=1e-9)


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
