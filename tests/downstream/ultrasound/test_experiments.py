"""Zero-shot experiments on drawn frames: every row of every table, sets, pairs, noise, components, masks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.common.record import finite
from vetdino.downstream.ultrasound.answers import (
    ROWS,
    Eye,
    Eyes,
    Score,
    ZeroshotConfig,
    covered_of,
    scores_of,
    share_of,
    summaries_of,
)
from vetdino.downstream.ultrasound.cosegmentation import CosegmentConfig, saliency_of
from vetdino.downstream.ultrasound.descriptors import log_binned
from vetdino.downstream.ultrasound.experiments import (
    CrossDomainConfig,
    NoiseConfig,
    SameDomainConfig,
    _noisy,
    cross_domain,
    noise,
    same_domain,
)
from vetdino.downstream.ultrasound.features import (
    AssessConfig,
    ScatterConfig,
    agreement,
    assess,
    attention_auc,
    scatter,
)
from vetdino.downstream.ultrasound.frames import Domain, Frame, domains_of, drawn_from
from vetdino.downstream.ultrasound.segment import SegmentConfig, segment
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.models.backbone import random_backbone, save_backbone

QUICK = {"short": 48, "resamples": 50, "cosegment": CosegmentConfig(clusters=4, tries=1)}


@pytest.fixture(scope="module")
def domains(tmp_path_factory, drawn):
    """Two domains of five and six frames that differ in the part of the body."""
    root = tmp_path_factory.mktemp("domains")
    drawn(root / "arm", 5, seed=1), drawn(root / "leg", 6, seed=2, height=56)
    (root / "domains.csv").write_text(
        "domain,folder,subject,device,body_part\narm,arm,s1,d1,arm\nleg,leg,s1,d1,leg\n"
    )
    return domains_of(root)


def test_every_row_answers_every_frame_at_its_own_size(domains, tiny):
    frames = drawn_from(domains[0], 0)[:3]
    config = ZeroshotConfig(**QUICK)
    answered = Eyes(tiny, config).answer(frames, config)
    assert tuple(answered.masks) == ROWS
    for masks in answered.masks.values():
        assert [mask.shape for mask in masks] == [frame.mask.shape for frame in frames]
        assert all(mask.dtype == bool for mask in masks)
    assert all(mask.all() for mask in answered.masks["everything"])


def test_the_oracle_is_never_worse_than_the_votes(domains, tiny):
    frames = drawn_from(domains[0], 0)[:3]
    config = ZeroshotConfig(**QUICK)
    scores = scores_of(frames, "n3", Eyes(tiny, config).answer(frames, config))
    dice = {row: np.mean([one.dice for one in scores if one.row == row]) for row in ROWS}
    assert dice["oracle"] >= dice["cosegment"] - 1e-9
    assert dice["random_oracle"] >= dice["random"] - 1e-9
    assert dice["everything"] == pytest.approx(
        np.mean([2 * frame.mask.mean() / (1 + frame.mask.mean()) for frame in frames])
    )


def test_an_eye_looks_at_a_frame_once(domains, tiny, monkeypatch):
    from vetdino.downstream.ultrasound import answers

    calls = []
    real = answers.facets_of
    monkeypatch.setattr(answers, "facets_of", lambda *a, **k: calls.append(1) or real(*a, **k))
    eye, frame = Eye(tiny, ZeroshotConfig(**QUICK)), domains[0].frames[0]
    assert eye.look(frame) is eye.look(frame)
    assert len(calls) == 1


def test_blocks_are_counted_from_1_and_another_one_is_refused(tiny):
    assert Eye(tiny, ZeroshotConfig(block=1)).block == 0
    assert Eye(tiny, ZeroshotConfig()).block == 1
    for block in (0, 3):
        with pytest.raises(ConfigError, match="blocks 1 to 2"):
            Eye(tiny, ZeroshotConfig(block=block))


def test_patches_cover_what_is_left_when_the_picture_is_no_multiple(tiny):
    assert covered_of((6, 8), (48, 67), (480, 670), tiny, None) == (480, 640)
    assert covered_of((11, 15), (48, 64), (48, 64), tiny, 4) == (48, 64)


def test_a_share_is_the_mean_of_the_mask_in_a_patches_place():
    mask = np.zeros((4, 7), bool)
    mask[:2, :3] = True
    share = share_of(mask, (2, 3), (4, 6))
    assert share.tolist() == [[1, 0.5, 0], [0, 0, 0]]


def test_no_patch_is_covered_by_more_than_all_of_it_and_its_attention_has_an_auc():
    # OpenCV's weights sum to 1.0000002 here, so what lies outside would weigh less than nothing.
    mask = np.zeros((515, 518), bool)
    mask[:300] = True
    share = share_of(mask, (55, 55), (515, 518))
    assert share.max() == 1
    attention = np.random.default_rng(0).random((55, 55))
    assert 0 < attention_auc(attention, share) < 1


def test_a_summary_holds_mean_spread_and_interval_and_a_zero_is_a_zero():
    scores = [
        Score("leg", str(n), "n5", "cosegment", dice, dice / (2 - dice))
        for n, dice in enumerate([0.0, 0.5] * 3)
    ]
    few, [whole] = summaries_of(scores[:4], ZeroshotConfig()), summaries_of(scores, ZeroshotConfig())
    assert (whole.images, whole.dice, whole.dice_std) == (6, 0.25, 0.25)
    assert whole.dice_low < 0.25 < whole.dice_high
    assert np.isnan(few[0].dice_low)
    assert finite({"a": 0.0, "b": float("nan")}) == {"a": 0.0, "b": None}


def test_sets_of_one_domain_grow_and_what_does_not_fit_is_told(domains, tiny):
    found = same_domain(domains, tiny, SameDomainConfig(sizes=(2, 3, 10), **QUICK))
    sets = found.facts["sets"]
    assert list(sets) == ["arm n2", "arm n3", "leg n2", "leg n3"]
    for name in ("arm", "leg"):
        assert sets[f"{name} n3"]["images"][:2] == sets[f"{name} n2"]["images"]
    assert found.left_out == {"arm n10": "it has 5 usable images", "leg n10": "it has 6 usable images"}
    assert len(found.tables["images"]) == 2 * (2 + 3) * len(ROWS)
    assert {row["row"] for row in found.tables["summary"]} == set(ROWS)
    own = [
        row["dice"]
        for row in found.tables["images"]
        if (row["domain"], row["part"], row["row"]) == ("arm", "n3", "oracle")
    ]
    assert found.metrics["same-domain/dice.arm.n3.oracle"] == pytest.approx(np.mean(own))
    assert all(png.startswith(b"\x89PNG") for png in found.pictures.values())


def test_the_same_settings_give_the_same_figures_whatever_the_order_of_frames(domains, tiny):
    config = SameDomainConfig(sizes=(3,), **QUICK)
    turned = [replace(domain, frames=domain.frames[::-1]) for domain in domains]
    one, other = same_domain(turned, tiny, config).metrics, same_domain(domains, tiny, config).metrics
    assert finite(one) == finite(other)  # no interval of 3 images: NaN differs from itself


def test_a_set_of_one_image_and_a_domain_of_too_few_are_refused(domains, tiny):
    with pytest.raises(ConfigError, match="2 images at least"):
        same_domain(domains, tiny, SameDomainConfig(sizes=(1, 3)))
    with pytest.raises(DataError, match="0 usable domains"):
        same_domain(domains, tiny, SameDomainConfig(sizes=(20,)))
    with pytest.raises(DataError, match="1 usable domains, this needs 2"):
        cross_domain(domains[:1], tiny, CrossDomainConfig())


def test_a_pair_tells_each_domain_beside_itself_alone_and_what_differs(domains, tiny):
    found = cross_domain(domains, tiny, CrossDomainConfig(images=2, **QUICK))
    assert list(found.facts["sets"]) == ["arm alone", "leg alone", "arm + leg"]
    assert len(found.facts["sets"]["arm + leg"]["images"]) == 4
    pairs = {(row["domain"], row["row"]): row for row in found.tables["pairs"]}
    assert set(pairs) == {(name, row) for name in ("arm", "leg") for row in ROWS}
    for (name, row), told in pairs.items():
        other = "leg" if name == "arm" else "arm"
        assert (told["with"], told["setup"]) == (other, "body part")
        together = found.metrics[f"cross-domain/dice.{name}.with_{other}.{row}"]
        alone = found.metrics[f"cross-domain/dice.{name}.alone.{row}"]
        assert told["change"] == pytest.approx(together - alone)
    changes = [pairs[name, "oracle"]["change"] for name in ("arm", "leg")]
    assert found.metrics["cross-domain/dice_change.setup.body_part.oracle"] == pytest.approx(np.mean(changes))


def test_a_domain_alone_scores_as_in_same_domain(domains, tiny):
    alone = cross_domain(domains, tiny, CrossDomainConfig(images=3, **QUICK)).metrics
    same = same_domain(domains, tiny, SameDomainConfig(sizes=(3,), **QUICK)).metrics
    for row in ROWS:
        assert alone[f"cross-domain/dice.leg.alone.{row}"] == same[f"same-domain/dice.leg.n3.{row}"]


def test_noise_is_one_field_for_an_image_scaled_by_the_level(domains, tiny):
    frame, config = domains[0].frames[0], NoiseConfig(**QUICK)
    clean, one, two = (_noisy(frame, tiny, level, config)[0] for level in (0.0, 1.0, 2.0))
    assert np.allclose((two - clean).numpy(), 2 * (one - clean).numpy(), atol=1e-5)
    drawn = (one - clean).numpy()
    assert abs(drawn.mean()) < 0.1
    assert drawn.std() == pytest.approx(1, abs=0.05)
    other = (
        _noisy(domains[0].frames[1], tiny, 1.0, config)[0]
        - _noisy(domains[0].frames[1], tiny, 0.0, config)[0]
    )
    assert abs(np.corrcoef(drawn.ravel(), other.numpy().ravel())[0, 1]) < 0.1


def test_a_level_means_what_its_space_says(domains, tiny):
    frame, std = domains[0].frames[0], tiny.card.std
    size = {}
    for space in ("normalised", "unit", "8bit"):
        config = NoiseConfig(space=space, **QUICK)
        size[space] = float((_noisy(frame, tiny, 1.0, config)[0] - _noisy(frame, tiny, 0.0, config)[0]).std())
    assert size["unit"] == pytest.approx(size["normalised"] / std, rel=1e-3)
    assert size["8bit"] == pytest.approx(size["unit"] / 255, rel=1e-2)


def test_no_noise_is_the_same_domain_figure(domains, tiny):
    found = noise(domains, tiny, NoiseConfig(images=3, levels=(0.0, 3.0), **QUICK))
    same = same_domain(domains, tiny, SameDomainConfig(sizes=(3,), **QUICK)).metrics
    for row in ROWS:
        assert found.metrics[f"noise/dice.arm.eps0.{row}"] == same[f"same-domain/dice.arm.n3.{row}"]
    assert found.metrics["noise/dice.arm.eps3.everything"] == same["same-domain/dice.arm.n3.everything"]
    assert set(found.pictures) == {"grid", "dice", "iou"}
    with pytest.raises(ConfigError, match="none below 0"):
        noise(domains, tiny, NoiseConfig(levels=(-1.0,)))


def test_attention_on_the_truth_has_an_auc_of_1_and_halves_count_by_half():
    attention = np.array([[0.1, 0.2], [0.8, 0.9]])
    assert attention_auc(attention, np.array([[0, 0], [1, 1]])) == 1
    assert attention_auc(attention, np.array([[1, 1], [0, 0]])) == 0
    share = np.array([[0.5, 0], [1, 0.25]])
    pixels = np.repeat(attention.ravel(), 4)
    truth = np.concatenate([np.arange(4) < 4 * part for part in share.ravel()])
    above = (pixels[truth][:, None] > pixels[~truth]) + 0.5 * (pixels[truth][:, None] == pixels[~truth])
    assert attention_auc(attention, share) == pytest.approx(above.mean())
    assert attention_auc(attention, None) is None
    assert attention_auc(attention, np.zeros((2, 2))) is None


def test_assess_tells_every_facet_of_every_block(domains, tiny):
    found = assess(domains, tiny, AssessConfig(**QUICK))
    rows = found.tables["variance"]
    assert {(row["facet"], row["block"]) for row in rows if row["row"] == "random"} == {
        (kind, block) for kind in ("query", "key", "value", "token") for block in (1, 2)
    }
    assert all(0 < found.metrics[name] <= 1 for name in found.metrics if name.startswith("assess/variance"))
    assert {
        f"assess/auc.{name}.block2.{row}" for name in ("arm", "leg") for row in ("backbone", "random")
    } <= set(found.metrics)
    assert {"components_key", "components_token", "attention", "attention_auc", "variance"} <= set(
        found.pictures
    )


def looked_at(backbone, config, frame):
    """A frame's descriptors (N, D), which of its patches are salient (N,), and the truth's share of each (N,)."""
    look = Eye(backbone, config).look(frame)
    described = log_binned(look.descriptors) if config.log_binning else look.descriptors
    salient = saliency_of(look.attention, config.cosegment) >= config.cosegment.tau
    return described.reshape(salient.size, -1), salient.ravel(), look.share(frame.mask).ravel()


def slow_buddies(a, b):
    """Pairs that choose each other, as loops over all patches of both frames: (patch, patch) -> cosine."""
    (a_ND, salient_a, _), (b_MD, salient_b, _) = a, b
    cosine = [[float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in b_MD] for x in a_ND]
    return {
        (i, j): cosine[i][j]
        for i in range(len(a_ND))
        for j in range(len(b_MD))
        if salient_a[i]
        and salient_b[j]
        and cosine[i][j] == max(cosine[i])
        and cosine[i][j] == max(row[j] for row in cosine)
    }


@pytest.mark.parametrize("log_binning", [False, True])
def test_assess_finds_the_best_buddies_that_slow_loops_find(domains, tiny, log_binning):
    config = AssessConfig(buddies=3, facet="token", block=1, log_binning=log_binning, **QUICK)
    found = assess(domains, tiny, config)
    a, b = (drawn_from(domain, config.seed)[0] for domain in domains)
    seen = [looked_at(tiny, config, frame) for frame in (a, b)]
    slow = slow_buddies(*seen)
    rows = found.tables["buddies"]
    assert len(rows) == len(slow) == found.metrics["assess/buddies.arm.with_leg.backbone"] > 3
    told = {}
    for row in rows:  # 6 x 8 patches of 8 pixels in a; b, 56 x 64, was shrunk to 48 x 55 and has 6 x 6
        row_b, column_b = (row["row_b"] + 0.5) * 48 / 56 - 0.5, (row["column_b"] + 0.5) * 55 / 64 - 0.5
        places = np.array([row["row_a"], row["column_a"], row_b, column_b])
        assert places % 8 == pytest.approx(3.5, abs=0.06)
        down_a, right_a, down_b, right_b = (places // 8).astype(int)
        told[8 * down_a + right_a, 6 * down_b + right_b] = row["cosine"]
    assert told == pytest.approx(slow, abs=1e-4)
    cosines = [row["cosine"] for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    assert {(row["pair"], row["image_a"], row["image_b"]) for row in rows} == {("arm + leg", a.name, b.name)}
    inside = [[share[pair[side]] >= 0.5 for pair in slow] for side, (_, _, share) in enumerate(seen)]
    agree = np.mean([one == other for one, other in zip(*inside, strict=True)])
    assert found.metrics["assess/buddies_agree.arm.with_leg.backbone"] == agree
    mixed = np.mean([one == other for one in inside[0] for other in inside[1]])
    assert found.metrics["assess/buddies_chance.arm.with_leg.backbone"] == pytest.approx(mixed)
    assert "assess/buddies.arm.with_leg.random" in found.metrics
    assert found.pictures["buddies"].startswith(b"\x89PNG")


def test_every_salient_patch_of_a_copied_frame_is_its_own_buddy(domains, tiny):
    frame = domains[0].frames[0]
    twice = Domain("arm", (frame, replace(frame, name="copy")))
    config = AssessConfig(buddies=5, **QUICK)
    found = assess([twice], tiny, config)
    _, salient, _ = looked_at(tiny, config, frame)
    rows = found.tables["buddies"]
    assert len(rows) == salient.sum() > 0
    assert all((row["row_a"], row["column_a"]) == (row["row_b"], row["column_b"]) for row in rows)
    assert {row["cosine"] for row in rows} == {1.0}
    assert found.metrics["assess/buddies_agree.arm.with_arm.backbone"] == 1


def test_no_buddies_are_drawn_unless_asked_for_and_fewer_than_none_are_refused(domains, tiny):
    found = assess(domains, tiny, AssessConfig(**QUICK))
    assert not any(
        "buddies" in name for part in (found.metrics, found.tables, found.pictures) for name in part
    )
    with pytest.raises(ConfigError, match="buddies -1"):
        assess(domains, tiny, AssessConfig(buddies=-1, **QUICK))


def test_what_keeps_buddies_or_their_agreement_from_being_told_is_said(domains, tiny):
    bare = Domain("leg", tuple(Frame(one.name, "leg", one.pixels) for one in domains[1].frames))
    alone = assess(
        [replace(domains[0], frames=domains[0].frames[:1])], tiny, AssessConfig(buddies=2, **QUICK)
    )
    assert "a second" in alone.left_out["buddies"]
    assert "buddies" not in alone.pictures
    found = assess([domains[0], bare], tiny, AssessConfig(buddies=2, **QUICK))
    assert found.metrics["assess/buddies.arm.with_leg.backbone"] > 0
    assert "assess/buddies_agree.arm.with_leg.backbone" not in found.metrics
    assert "masks/" in found.left_out["buddies_agree.arm.with_leg"]
    high = replace(QUICK["cosegment"], tau=2.0)
    none = assess(domains, tiny, AssessConfig(buddies=2, **{**QUICK, "cosegment": high}))
    assert none.metrics["assess/buddies.arm.with_leg.backbone"] == 0
    assert "tau 2" in none.left_out["buddies_agree.arm.with_leg.backbone"]
    assert "buddies" in none.pictures


def test_ends_that_all_lie_outside_agree_no_more_than_by_chance():
    outside, mixed = np.zeros(4, bool), np.array([True, True, False, False])
    assert agreement(outside, outside) == (1, 1)
    assert agreement(mixed, mixed) == (1, 0.5)
    assert agreement(mixed, ~mixed) == (0, 0.5)


def test_scatter_labels_every_patch_and_its_page_fetches_nothing(domains, tiny):
    found = scatter(domains, tiny, ScatterConfig(images=1, **QUICK))
    rows = found.tables["scatter"]
    assert len(rows) == sum(row["patches"] for row in found.tables["images"])
    assert all((row["label"] == f"bone of {row['domain']}") == (row["share"] >= 0.5) for row in rows)
    assert {row["label"] for row in rows} == {"other", "bone of arm", "bone of leg"}
    page = found.pages["scatter.html"]
    assert all(word not in page for word in ("http:", "https:", "src=", "import "))
    told = json.loads(page.split("const data = ")[1].split(";\n")[0])
    assert len(told["points"]) == len(rows)
    assert np.abs(told["points"]).max() <= 1


def test_one_image_is_segmented_with_a_warning(tmp_path, drawn, tiny, caplog):
    save_backbone(tmp_path / "net", tiny)
    folder = drawn(tmp_path / "leg", 1)
    shares = segment([folder], tmp_path / "net", tmp_path / "out", SegmentConfig(**QUICK))
    assert list(shares) == ["00"]
    assert any("1 image" in said for said in caplog.messages)


@pytest.mark.parametrize("method", ["cosegment", "tokencut"])
def test_new_frames_get_masks_of_their_own_size(tmp_path, drawn, tiny, method):
    save_backbone(tmp_path / "net", tiny)
    folder = drawn(tmp_path / "leg", 3)
    shares = segment([folder], tmp_path / "net", tmp_path / "out", SegmentConfig(method=method, **QUICK))
    for name, share in shares.items():
        with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as picture:
            mask = np.array(picture)
        assert mask.shape == (48, 64)
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).mean() == share
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as picture:
            assert picture.size == (64, 48)
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["found_share"] == shares
    segment([folder / "images" / "00.png"], tmp_path / "net", tmp_path / "out", SegmentConfig(**QUICK))
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["00.png"]


def test_a_pretrained_and_a_random_network_are_told_apart_by_their_figures(domains, tiny):
    """The table would be blind if it took the floor's looks for the backbone's own."""
    frames, config = drawn_from(domains[0], 0)[:2], ZeroshotConfig(**QUICK)
    eyes = Eyes(tiny, config)
    own, floor = eyes.own.look(frames[0]), eyes.random.look(frames[0])
    assert not np.allclose(own.descriptors, floor.descriptors)
    alike = Eye(random_backbone(tiny.card.config, config.seed).eval(), config).look(frames[0])
    assert np.array_equal(floor.descriptors, alike.descriptors)
