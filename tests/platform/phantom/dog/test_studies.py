"""Generated studies in memory: plans and images depend on the seed alone, labels fit the region."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.animal import GRAVITY
from vetdino.platform.phantom.dog.body import build_body
from vetdino.platform.phantom.dog.studies import FRAMES, REGIONS, VISIBLE_FINDINGS, generate_study, plan_study


def test_the_same_seed_gives_the_same_study_and_another_seed_another():
    one, two, other = (generate_study(PhantomConfig(side=64, seed=s), 1) for s in (0, 0, 1))
    assert [v.pixels.tobytes() for v in one.views] == [v.pixels.tobytes() for v in two.views]
    assert one.plan == two.plan
    assert one.plan.uid != other.plan.uid
    assert one.views[0].pixels.tobytes() != other.views[0].pixels.tobytes()


def test_truth_does_not_change_the_picture():
    config = PhantomConfig(side=64)
    with_truth, without = (generate_study(config, 2, truth=truth) for truth in (True, False))
    assert without.views[0].truth is None
    for one, two in zip(with_truth.views, without.views, strict=True):
        assert (one.pixels == two.pixels).all()


def test_a_study_has_two_to_five_views_of_two_directions_at_the_side_asked_for():
    for index in range(6):
        study = generate_study(PhantomConfig(side=64), index, truth=False)
        positions = {view.projection for view in study.views}
        assert 2 <= len(study.views) <= 5
        assert positions & {"VD", "DV"}
        assert positions & {"LLAT", "RLAT"}
        assert all(max(view.pixels.shape) == 64 for view in study.views)


def test_some_patients_come_back_and_stay_the_animal_they_were():
    by_patient: dict[str, list] = {}
    for index in range(16):
        plan = plan_study(PhantomConfig(), index)
        by_patient.setdefault(plan.patient, []).append(plan)
    assert sorted(map(len, by_patient.values())) == [1, 1, 1, 1, 1, 1, 2, 2, 3, 3]
    for visits in by_patient.values():
        assert len({visit.animal for visit in visits}) == 1
        assert len({visit.uid for visit in visits}) == len(visits)


def test_a_study_is_labelled_with_what_its_field_of_view_can_show():
    plans = [plan_study(PhantomConfig(), index) for index in range(24)]
    assert {plan.region for plan in plans} == set(VISIBLE_FINDINGS)
    for plan in plans:
        assert tuple(plan.labels) == VISIBLE_FINDINGS[plan.region]
        assert all(plan.labels[f] == (plan.disease.get(f) > 0) for f in plan.labels)
    parts = {*VISIBLE_FINDINGS["chest"], *VISIBLE_FINDINGS["belly"]}
    assert parts < set(VISIBLE_FINDINGS["whole"])


def test_the_plan_is_that_of_the_generated_study():
    config = PhantomConfig(side=32, seed=7)
    assert plan_study(config, 5) == generate_study(config, 5, truth=False).plan


def test_a_region_is_as_frequent_as_its_share():
    regions = [plan_study(PhantomConfig(), index).region for index in range(600)]
    for region, share in REGIONS.items():
        assert regions.count(region) / 600 == pytest.approx(share, abs=0.06)


def test_every_view_shows_the_landmarks_of_its_region():
    for index in range(4):
        study = generate_study(PhantomConfig(side=48), index, truth=False)
        for view in study.views:
            body = build_body(study.plan.animal, study.plan.disease, view.pose)
            u, v, _ = view.rays.to_detector(body.landmarks[study.plan.region]).T
            assert np.abs(u).max() <= np.abs(view.rays.u).max() + view.rays.pixel
            assert np.abs(v).max() <= np.abs(view.rays.v).max() + view.rays.pixel


def test_views_are_hung_head_up_or_head_left_and_their_rays_run_along_gravity():
    for position, rows in FRAMES.items():
        frame = np.array(rows, float)
        np.testing.assert_allclose(frame @ frame.T, np.eye(3))
        np.testing.assert_allclose(frame[2], GRAVITY[position])
        head, spine = frame @ (0, 0, 1), frame @ (0, 1, 0)
        if position in ("VD", "DV"):
            assert head[1] == -1  # up: v grows downward
            assert frame[0, 0] == 1  # the animal's left on the right
        else:
            assert (head[0], spine[1]) == (-1, -1)


@pytest.mark.slow
def test_the_chest_fills_more_of_its_own_picture_than_of_the_whole_animals():
    config = PhantomConfig(side=96)
    shares: dict[str, list[float]] = {region: [] for region in VISIBLE_FINDINGS}
    for index in range(24):
        study = generate_study(config, index)
        hearts = (view.truth.masks.get("heart", np.zeros(1)) for view in study.views)
        shares[study.plan.region] += [float(heart.mean()) for heart in hearts]
    means = {region: np.mean(share) for region, share in shares.items()}
    assert means["chest"] > 1.5 * means["whole"]
    assert means["belly"] < 0.5 * means["chest"]
