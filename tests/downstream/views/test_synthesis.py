"""View synthesis paints what the other view shows, measures it as scikit-image does, and beats or loses openly."""

import io
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vetdino.downstream.common.sources import Sources
from vetdino.downstream.views.decoder import PERFECT, Decoder, fit, psnr, ssim
from vetdino.downstream.views.pairs import (
    PROJECTIONS,
    Views,
    drawn_pairs,
    gathered,
    mean_pictures,
    median_pictures,
    pairs_of,
)
from vetdino.downstream.views.synthesis import COLUMNS, MIRRORED, SynthesisConfig, _strangers, synthesis
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError, FeaturesError, ShardError, TrainingError
from vetdino.platform.data.shards import VERSION, Manifest, ShardWriter, read, save_manifest
from vetdino.platform.data.study import StoredView, Study, View
from vetdino.platform.models.backbone import (
    BackboneConfig,
    letterbox_of,
    letterboxed,
    random_backbone,
    save_backbone,
)

TINY = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=1, heads=2)

SMALL = SynthesisConfig(
    side=16,
    train_views=240,
    val_views=40,
    test_views=80,
    width=32,
    layers=1,
    heads=2,
    dropout=0.0,
    epochs=50,
    patience=50,
    batch=8,
    lr=3e-3,
)


def drawn(number, projection):
    """A view of study `number`: a bright bar whose place and strength all views of the study share."""
    random = np.random.default_rng([number, PROJECTIONS.index(projection)])
    shared = np.random.default_rng(number)
    at, strength = int(shared.integers(2, 22)), int(shared.integers(60, 200))
    pixels = random.integers(0, 20, (32, 24)).astype(np.uint8)
    pixels[at : at + 8] += np.uint8(strength)
    return View(pixels if projection in ("VD", "DV") else pixels.T.copy(), projection)


def study(number, split="train", projections=("VD", "LLAT"), patient=None):
    views = tuple(drawn(number, projection) for projection in projections)
    return Study(f"k{number}", patient or f"p{number // 2}", views, {}, split)


def shards(folder, studies):
    studies, written = list(studies), []
    for split in ("train", "val", "test"):
        with ShardWriter(folder, split) as writer:
            for one in studies:
                if one.split == split:
                    writer.write(one)
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "bars", (), tuple(written), {}, "c"))
    return folder


def many(train=100, val=16, test=32, projections=("VD", "LLAT")):
    """Studies of all splits; every patient has two."""
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    for number, split in enumerate(splits):
        yield study(number, split, projections)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, random_backbone(TINY, seed=3))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("bars"), many())


@pytest.fixture(scope="module")
def source(tmp_path_factory, backbone, place):
    return Sources(place, tmp_path_factory.mktemp("tables")).backbone("tiny", backbone)


@pytest.fixture(scope="module")
def measured(source, place):
    return synthesis(source, place, SMALL, resamples=200, seed=5)


def found(measured, metric, row):
    return next(one for one in measured.figures if (one.metric, one.finding) == (metric, row))


def as_source(folder, tmp_path, backbone):
    return Sources(folder, tmp_path / "tables").backbone("tiny", backbone)


def grey(view, side):
    return letterboxed(view.pixels, side).astype(np.float64) / 255


def test_psnr_and_ssim_are_those_of_scikit_image_inside_the_letterbox():
    random = np.random.default_rng(0)
    a_BSS, b_BSS = random.random((2, 12, 40, 40))
    a_BSS[:6] = np.clip(b_BSS[:6] + 0.05 * a_BSS[:6], 0, 1)
    inside_BSS = np.zeros(a_BSS.shape, bool)
    boxes = [(40, 40), (7, 40), (40, 7), *(tuple(random.integers(7, 41, 2)) for _ in range(9))]
    expected = []
    for a, b, inside, (rows, columns) in zip(a_BSS, b_BSS, inside_BSS, boxes, strict=True):
        top, left = (40 - rows) // 2, (40 - columns) // 2
        cut = np.s_[top : top + rows, left : left + columns]
        inside[cut] = True
        expected.append(
            (
                peak_signal_noise_ratio(b[cut], a[cut], data_range=1.0),
                structural_similarity(a[cut], b[cut], data_range=1.0),
            )
        )
    given = [torch.from_numpy(x) for x in (a_BSS, b_BSS, inside_BSS)]
    ours = np.stack([psnr(*given).numpy(), ssim(*given).numpy()], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_the_truth_itself_gets_the_most_there_is_and_a_box_without_a_window_no_ssim():
    picture = torch.rand(1, 16, 16, dtype=torch.float64)
    inside = torch.ones(1, 16, 16, dtype=torch.bool)
    assert psnr(picture, picture, inside).item() == PERFECT
    assert ssim(picture, picture, inside).item() == pytest.approx(1)
    inside[:, 6:] = False
    assert ssim(picture, picture, inside).isnan().all()


def test_the_decoder_begins_at_its_base_and_is_light():
    base_JSS = torch.rand(4, 64, 64)
    config = SynthesisConfig()
    for patches, width in ((144, 128), (1369, 768)):
        decoder = Decoder(
            torch.randn(3, patches, width).half(), base_JSS, width=config.width, layers=config.layers
        )
        assert decoder.parameter_count <= 1_500_000
        target_B = torch.tensor([2, 0, 3])
        answer = decoder(torch.randn(3, patches, width), torch.tensor([0, 1, 2]), target_B)
        torch.testing.assert_close(answer, base_JSS[target_B])


def test_pairs_join_two_projections_of_one_study(tmp_path):
    folder = shards(
        tmp_path,
        [
            study(0, projections=("VD", "VD", "LLAT")),
            study(1, projections=("RLAT", "RLAT")),
            study(2, projections=("DV", "VD")),
        ],
    )
    views = gathered(random_backbone(TINY, 0), folder, "train", bound=10, side=16, batch=4)
    assert sorted(set(views.keys)) == ["k0", "k2"]
    told = sorted(
        (views.keys[i], PROJECTIONS[views.projection[i]], PROJECTIONS[views.projection[j]])
        for i, j in pairs_of(views).tolist()
    )
    assert told == [
        ("k0", "LLAT", "VD"),
        ("k0", "LLAT", "VD"),
        ("k0", "VD", "LLAT"),
        ("k0", "VD", "LLAT"),
        ("k2", "DV", "VD"),
        ("k2", "VD", "DV"),
    ]
    assert all(views.keys[i] == views.keys[j] for i, j in pairs_of(views).tolist())


def test_the_pairs_of_an_epoch_follow_from_seed_epoch_and_key_wherever_the_studies_lie(tmp_path):
    studies = [study(number, projections=PROJECTIONS) for number in range(12)]
    model = random_backbone(TINY, 0)

    def told(name, order, seed, epoch):
        folder = shards(tmp_path / name, order)
        views = gathered(model, folder, "train", bound=1000, side=16, batch=8)
        pairs = drawn_pairs(views, pairs_of(views), seed, epoch)
        return [
            (views.keys[i], int(views.projection[i]), int(views.projection[j])) for i, j in pairs.tolist()
        ]

    first = told("a", studies, 0, 0)
    assert sorted(key for key, _, _ in first) == sorted(one.key for one in studies)
    assert told("b", studies[::-1], 0, 0) == first
    assert told("c", studies, 0, 1) != first != told("d", studies, 1, 0)
    # A study that comes in changes nothing about the others' pairs.
    more = told("e", [*studies, study(50, projections=PROJECTIONS)], 0, 0)
    assert [one for one in more if one[0] != "k50"] == first


def test_tokens_and_pictures_are_those_of_the_views_within_the_bound(place):
    model = random_backbone(TINY, 1)
    views = gathered(model, place, "train", bound=31, side=16, batch=7)
    whole = gathered(model, place, "train", bound=10_000, side=16, batch=64)
    assert (len(views), len(whole)) == (30, 200)
    assert views.keys == whole.keys[:30]
    studies = {one.key: one for one in read(place, "train")}
    for row in range(0, 30, 7):
        (view,) = (
            one.decode()
            for one in studies[views.keys[row]].views
            if one.projection == PROJECTIONS[views.projection[row]]
        )
        tokens = model.tokens(model.prepare(view.pixels)[None])
        torch.testing.assert_close(views.tokens[row].float(), tokens.patches[0], atol=5e-3, rtol=1e-2)
        torch.testing.assert_close(views.cls[row], tokens.cls[0], atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(views.pictures[row], letterboxed(view.pixels, 16))
        top, left, rows, columns = letterbox_of(*view.pixels.shape, 16)
        assert views.inside[row].sum() == rows * columns
        assert views.inside[row, top : top + rows, left : left + columns].all()


def test_views_with_nothing_to_compare_are_passed_over(tmp_path):
    good = study(0, projections=("VD", "LLAT")).views
    blank = View(np.full((32, 24), 9, np.uint8), "RLAT")
    thin = View(np.random.default_rng(0).integers(0, 255, (64, 8)).astype(np.uint8), "DV")
    studies = [Study("k0", "p0", (*good, blank, thin)), Study("k1", "p1", (good[0], blank))]
    views = gathered(random_backbone(TINY, 0), shards(tmp_path, studies), "train", bound=9, side=16, batch=4)
    assert views.keys == ("k0", "k0")
    assert sorted(views.projection.tolist()) == [PROJECTIONS.index("VD"), PROJECTIONS.index("LLAT")]


def test_mean_and_median_pictures_are_those_of_what_the_letterboxes_show():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (9, 8, 8)).astype(np.uint8)
    inside = random.random((9, 8, 8)) < 0.3
    projection = np.array([0, 1, 0, 1, 1, 0, 0, 1, 1])
    views = Views(
        keys=tuple("abcdefghi"),
        patients=tuple("abcdefghi"),
        projection=torch.from_numpy(projection),
        tokens=torch.zeros(9, 1, 1),
        cls=torch.zeros(9, 1),
        pictures=torch.from_numpy(pictures),
        inside=torch.from_numpy(inside),
    )
    for ours, typical in (
        (mean_pictures(views), statistics.fmean),
        (median_pictures(views), statistics.median_low),
    ):
        for number in (0, 1):
            rows = np.flatnonzero(projection == number)
            everything = np.concatenate([pictures[row][inside[row]] for row in rows]) / 255
            for y in range(8):
                for x in range(8):
                    seen = [pictures[row, y, x] / 255 for row in rows if inside[row, y, x]]
                    expected = typical(seen or everything.tolist())
                    assert ours[number, y, x].item() == pytest.approx(expected, abs=1e-6)
        assert not ours[2:].any()


def test_the_decoder_beats_both_floors_where_one_view_tells_the_other(measured):
    assert not set(measured.left_out) & {"VD-LLAT", "LLAT-VD"}
    for row in ("all", "crossed", "VD-LLAT", "LLAT-VD"):
        for metric in ("psnr", "ssim"):
            value, gap = found(measured, metric, row), found(measured, f"{metric}_minus_mean_image", row)
            assert value.low <= value.value <= value.high
            assert gap.low > 0
            floor = found(measured, f"{metric}_mean_image", row)
            assert gap.value == pytest.approx(value.value - floor.value)
            assert found(measured, f"{metric}_minus_median_image", row).low > 0
            assert found(measured, f"{metric}_minus_stranger", row).low > 0
        # A neighbour's bar lies on the true one or beside it: its decibels spread too widely for 16 patients.
        assert found(measured, "ssim_minus_neighbour", row).low > 0
    assert {one.finding for one in measured.figures} == {"all", "crossed", "VD-LLAT", "LLAT-VD"}
    assert {one.metric for one in measured.figures} == set(COLUMNS)
    assert {one.source for one in measured.figures} == {"tiny"}
    assert found(measured, "psnr", "VD-LLAT").known == 32
    assert measured.facts["test_patients"] == 16
    assert (measured.facts["train_studies"], measured.facts["test_pairs"]) == (100, 64)


def test_the_floors_are_what_a_slow_loop_with_scikit_image_makes_of_them(measured, source, place):
    model, side = source.backbone, SMALL.side
    train, test = list(read(place, "train")), list(read(place, "test"))

    def view(one, projection):
        return next(view.decode() for view in one.views if view.projection == projection)

    def cls(one, projection):
        vector = model.tokens(model.prepare(view(one, projection).pixels)[None]).cls[0].numpy()
        return vector / np.linalg.norm(vector)

    def inside(view):
        top, left, rows, columns = letterbox_of(*view.pixels.shape, side)
        return np.s_[top : top + rows, left : left + columns]

    for given, wanted in (("VD", "LLAT"), ("LLAT", "VD")):
        targets = [view(one, wanted) for one in train]
        mean = np.mean([grey(target, side) for target in targets], axis=0)  # one letterbox for all here
        median = np.quantile([grey(target, side) for target in targets], 0.5, axis=0, method="lower")
        bank = np.stack([cls(one, given) for one in train])
        values = []
        for one in test:
            truth = view(one, wanted)
            box = inside(truth)
            neighbour = targets[int(np.argmax(bank @ cls(one, given)))]
            for said in (mean, median, grey(neighbour, side)):
                values += [
                    peak_signal_noise_ratio(grey(truth, side)[box], said[box], data_range=1.0),
                    structural_similarity(grey(truth, side)[box], said[box], data_range=1.0),
                ]
        expected = np.reshape(values, (len(test), 6)).mean(axis=0)
        for column, metric in enumerate(
            f"{metric}_{floor}"
            for floor in ("mean_image", "median_image", "neighbour")
            for metric in ("psnr", "ssim")
        ):
            ours = found(measured, metric, f"{given}-{wanted}").value
            assert ours == pytest.approx(expected[column], abs=1e-5), metric


def test_where_one_view_tells_nothing_of_the_other_the_decoder_is_no_better_than_on_a_stranger(
    tmp_path, backbone
):
    def unrelated(number, split):
        return replace(study(number, split), views=(drawn(number, "VD"), drawn(number + 1000, "LLAT")))

    splits = ["train"] * 40 + ["val"] * 8 + ["test"] * 32
    folder = shards(tmp_path / "s", [unrelated(number, split) for number, split in enumerate(splits)])
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, replace(SMALL, patience=3, panels=0))
    gap = found(measured, "psnr_minus_stranger", "all")
    assert gap.low < 0 < gap.high


def test_equal_arguments_give_equal_figures_and_leave_the_random_state_alone(measured, source, place):
    torch.manual_seed(77)
    before = torch.get_rng_state()
    again = synthesis(source, place, SMALL, resamples=200, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.figures == measured.figures
    assert again.facts == measured.facts
    assert again.pictures == measured.pictures
    other = synthesis(source, place, replace(SMALL, epochs=1, panels=0), resamples=20, seed=6)
    assert found(other, "psnr", "all").value != found(measured, "psnr", "all").value
    assert found(other, "psnr_neighbour", "all").value == found(measured, "psnr_neighbour", "all").value
    assert other.pictures == {}


def test_the_picture_is_a_png_with_a_line_for_each_row(measured):
    (name,), (content,) = measured.pictures, measured.pictures.values()
    assert name == "synthesis_tiny.png"
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1100
        assert 400 < picture.height < 700


def test_mirrored_pairs_have_rows_of_their_own_and_are_not_among_the_crossed(tmp_path, backbone):
    folder = shards(tmp_path / "s", many(20, 4, 8, ("VD", "DV", "LLAT")))
    config = replace(SMALL, epochs=1, min_pairs=5)
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20)
    rows = {one.finding: one.known for one in measured.figures if one.metric == "psnr"}
    assert {"VD-DV", "DV-VD"} <= set(rows)
    assert (rows["all"], rows["crossed"]) == (48, 32)
    assert rows["crossed"] == sum(count for row, count in rows.items() if "-" in row and row not in MIRRORED)
    assert list(measured.left_out) == [
        "VD-RLAT",
        "DV-RLAT",
        "LLAT-RLAT",
        "RLAT-VD",
        "RLAT-DV",
        "RLAT-LLAT",
    ]


def test_rows_with_too_few_pairs_are_named_and_not_measured(tmp_path, backbone):
    studies = [*many(20, 4, 8), *(study(100 + i, "train", ("VD", "DV")) for i in range(20))]
    folder = shards(tmp_path / "s", [*studies, study(200, "test", ("VD", "DV"))])
    config = replace(SMALL, epochs=1, min_pairs=5, panels=1)
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20)
    assert measured.left_out["VD-DV"] == "20 pairs in train and 1 in test, 5 are needed in each"
    assert found(measured, "psnr", "all").known == 16


def test_studies_of_one_projection_give_no_figure_and_say_why(tmp_path, backbone):
    folder = shards(tmp_path / "s", many(6, 2, 4, ("VD",)))
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, SMALL)
    assert (measured.figures, dict(measured.pictures)) == ((), {})
    assert len(measured.left_out) == 12
    assert measured.left_out["VD-LLAT"] == "0 pairs in train and 0 in test, 10 are needed in each"
    assert measured.facts["test_studies"] == 0


def test_a_row_of_one_patient_has_no_stranger_and_is_left_out(tmp_path, backbone):
    test = [study(300 + i, "test", patient="alone") for i in range(6)]
    folder = shards(tmp_path / "s", [*many(20, 4, 0), *test])
    config = replace(SMALL, epochs=1, min_pairs=5)
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20)
    assert measured.figures == ()
    assert measured.left_out["VD-LLAT"] == "1 patient in test, 2 are needed"


def test_strangers_are_other_patients_of_the_same_projection_wherever_the_studies_lie(tmp_path):
    def told(name, order):
        folder = shards(tmp_path / name, order)
        views = gathered(random_backbone(TINY, 0), folder, "test", bound=1000, side=16, batch=16)
        pairs = pairs_of(views)
        found = _strangers(views, pairs)
        for (own, _), stranger in zip(pairs.tolist(), found.tolist(), strict=True):
            assert views.patients[own] != views.patients[stranger]
            assert views.projection[own] == views.projection[stranger]
        ways = zip(pairs[:, 0].tolist(), found.tolist(), strict=True)
        return {(views.keys[own], int(views.projection[own]), views.keys[stranger]) for own, stranger in ways}

    studies = [study(number, "test") for number in range(9)]
    assert told("a", studies) == told("b", studies[::-1])


def test_without_val_training_runs_to_its_end_and_says_so(tmp_path, backbone):
    folder = shards(tmp_path / "s", many(20, 0, 8))
    config = replace(SMALL, epochs=3, patience=1, min_pairs=5, panels=0)
    facts = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20).facts
    assert (facts["epochs"], facts["kept_epoch"]) == (3, 3)
    assert facts["kept_because"] == "the last, as val has no pairs"


def test_the_epoch_of_least_loss_on_val_is_kept_and_training_stops_after_patience(source, place):
    how = {"side": 16, "batch": 32}
    train = gathered(source.backbone, place, "train", bound=60, **how)
    val = gathered(source.backbone, place, "val", bound=20, **how)
    pairs, asked = pairs_of(train), pairs_of(val)
    torch.manual_seed(0)
    decoder = Decoder(train.tokens, mean_pictures(train), width=32, layers=1, heads=2)
    settings = {"patience": 2, "batch": 8, "lr": 0.1, "weight_decay": 0.0, "ssim_weight": 0.5}
    fitted = fit(
        decoder, train, lambda epoch: drawn_pairs(train, pairs, 0, epoch), val, asked, epochs=40, **settings
    )
    assert fitted.epochs == fitted.best + 2 < 40
    answer, truth, inside = decoder.painted(val, asked), val.grey(asked[:, 1]), val.inside[asked[:, 1]]
    error = ((answer - truth).abs() * inside).sum((1, 2)) / inside.sum((1, 2))
    expected = (error + 0.5 * (1 - ssim(answer, truth, inside))).mean().item()
    assert fitted.loss == pytest.approx(expected, rel=0.05)  # the loss is that of pictures not yet clipped


def test_a_training_that_runs_away_is_stopped_and_says_what_to_change(source, place):
    with pytest.raises(TrainingError, match=r"not finite; lower synthesis\.lr"):
        synthesis(source, place, replace(SMALL, lr=1e36))


def test_a_source_without_a_backbone_is_refused_by_name(tmp_path, place):
    with pytest.raises(ConfigError, match="source 'pixels' has no backbone"):
        synthesis(Sources(place, tmp_path).pixels(), place, SMALL)


def test_settings_that_quarrel_are_refused_before_a_view_is_read(source, place):
    for change, said in (
        ({"side": 60}, "synthesis.side is 60"),
        ({"width": 30, "heads": 4}, "no multiple of synthesis.heads 4"),
        ({"epochs": 0}, "synthesis.epochs is 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            synthesis(source, place, replace(SMALL, **change))


def test_a_patient_in_two_splits_is_refused(tmp_path, backbone):
    folder = shards(tmp_path / "s", [*many(20, 4, 8), study(300, "test", patient="p0")])
    with pytest.raises(FeaturesError, match="1 patients are in both train and test"):
        synthesis(as_source(folder, tmp_path, backbone), folder, SMALL)


def test_a_backbone_that_answers_with_nan_is_refused(place):
    broken = random_backbone(TINY, 0)
    with torch.no_grad():
        broken.vit.norm.weight[0] = float("nan")
    with pytest.raises(FeaturesError, match="views of train with NaN"):
        gathered(broken, place, "train", bound=10, side=16, batch=4)


def test_a_view_that_is_no_picture_is_refused_by_its_study(tmp_path):
    spoilt = Study("k9", "p9", (drawn(9, "VD"), StoredView(b"\x89PNG no", "LLAT")), {}, "train")
    with pytest.raises(ShardError, match="study k9: view 1 is no picture"):
        gathered(random_backbone(TINY, 0), shards(tmp_path, [spoilt]), "train", bound=9, side=16, batch=4)


def test_the_config_survives_json():
    config = SynthesisConfig(side=32, ssim_weight=0.25)
    assert from_json(SynthesisConfig, to_json(config)) == config
