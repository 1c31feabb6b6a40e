import numpy as np
import pytest
import SimpleITK as sitk

from calcium.calibration import Calibration, ErrorBin
from calcium.networks.predictor import Predictor
from calcium.scoring import Scorer
from calcium.territories import VesselAtlas
from registration.geometry import Ellipsoid, ImageGrid, affine_transform

GRID = ImageGrid((160, 150, 12), (0.8, 0.7, 2.5), (-30.0, -170.0, -60.0))
HEART = Ellipsoid((0.0, 0.0, 0.0), (60.0, 50.0, 40.0))
TO_SCAN = affine_transform([[1, 0, 0, 33.0], [0, 1, 0, -118.0], [0, 0, 1, -46.0], [0, 0, 0, 1]])


class FixedAttention:
    """Stands in for a network: one attention right of the heart center, one left of it."""

    network_name = "additive"

    def __init__(self, low, high):
        self.low, self.high = low, high

    def predict(self, inputs, *, batch_size):
        return np.where(inputs[..., -3:-2] < 0, self.low, self.high).astype(np.float32)


def scan_with_plaques():
    """Two plaques: 4 x 3 pixels of 250 HU on two slices, 2 x 2 of 420 HU on one."""
    hu = np.full(GRID.shape, 40, np.int16)
    hu[5:7, 70:73, 40:44] = 250
    hu[4, 80:82, 100:102] = 420
    return hu


# area x weight x spacing / 3 mm, by hand
FIRST = 2 * (12 * 0.8 * 0.7) * 2 * 2.5 / 3
SECOND = (4 * 0.8 * 0.7) * 4 * 2.5 / 3


def test_full_attention_gives_the_agatston_score_by_hand():
    scorer = Scorer(FixedAttention(1.0, 1.0), HEART)
    score = scorer.score(GRID.to_image(scan_with_plaques()), TO_SCAN)
    assert score.agatston == pytest.approx(FIRST + SECOND, rel=1e-6)
    assert score.volume_mm3 == pytest.approx((24 + 4) * 0.8 * 0.7 * 2.5)
    assert score.preset == "agatston-1990"


def test_voxel_decision_weighs_each_plaque_by_its_attention():
    scorer = Scorer(FixedAttention(0.25, 0.5), HEART, decision="voxel")
    score = scorer.score(GRID.to_image(scan_with_plaques()), TO_SCAN)
    assert score.agatston == pytest.approx(0.25 * FIRST + 0.5 * SECOND, rel=1e-5)


@pytest.mark.parametrize("decision", ["lesion", "slice"])
def test_a_lesion_counts_whole_or_not_at_all(decision):
    scorer = Scorer(FixedAttention(0.6, 0.4), HEART, decision=decision)
    score = scorer.score(GRID.to_image(scan_with_plaques()), TO_SCAN)
    assert score.agatston == pytest.approx(FIRST, rel=1e-6)
    assert [lesion.slice_indices for lesion in score.lesions] == [(5, 6)]
    # middle of columns 40-43, rows 70-72, slices 5-6
    expected = (-30.0 + 41.5 * 0.8, -170.0 + 71 * 0.7, -60.0 + 5.5 * 2.5)
    assert score.lesions[0].center_mm == pytest.approx(expected)
    assert score.lesions[0].peak_hu == 250


def test_feedback_sums_to_the_score_and_lies_on_the_plaques():
    hu = scan_with_plaques()
    score = Scorer(FixedAttention(0.7, 0.9), HEART, decision="voxel").score(
        GRID.to_image(hu), TO_SCAN
    )
    assert score.feedback.shape == GRID.shape
    assert float(score.feedback.sum(dtype=np.float64)) == pytest.approx(score.agatston, rel=1e-6)
    assert np.array_equal(score.feedback > 0, hu >= 130)


def test_calcium_far_from_the_heart_scores_zero_with_an_empty_feedback():
    hu = np.full(GRID.shape, 40, np.int16)
    hu[5, 2:6, 2:6] = 500  # 60 mm from the center in both directions
    score = Scorer(FixedAttention(1.0, 1.0), HEART).score(GRID.to_image(hu), TO_SCAN)
    assert (score.agatston, score.volume_mm3, score.lesions) == (0.0, 0.0, ())
    assert not score.feedback.any()


@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True), (True, True, True)])
def test_mirrored_storage_gives_the_same_score_and_the_mirrored_feedback(flips):
    image = GRID.to_image(scan_with_plaques())
    flipped = sitk.Flip(image, list(flips), False)
    predictor = Predictor("additive", (4, 6))
    straight = Scorer(predictor, HEART, decision="voxel").score(image, TO_SCAN)
    turned = Scorer(predictor, HEART, decision="voxel").score(flipped, TO_SCAN)
    assert turned.agatston == pytest.approx(straight.agatston, rel=1e-5)
    axes = tuple(2 - k for k in range(3) if flips[k])
    assert np.allclose(np.flip(turned.feedback, axes), straight.feedback, rtol=1e-4)


def test_plain_network_shares_the_regressed_score_among_candidates():
    class Fixed:
        network_name = "plain"

        def predict(self, inputs, *, batch_size):
            return np.full((len(inputs), 1), np.log1p(7.0), np.float32)

    score = Scorer(Fixed(), HEART).score(GRID.to_image(scan_with_plaques()), TO_SCAN)
    # three slices hold candidates, 7 each
    assert score.agatston == pytest.approx(21.0, rel=1e-5)
    assert float(score.feedback.sum(dtype=np.float64)) == pytest.approx(21.0, rel=1e-5)


def test_other_weights_give_a_visibly_different_map():
    import keras

    hu = np.full(GRID.shape, 40, np.int16)
    hu[2:10, 30:120:9, 30:130:9] = 300
    hu[2:10, 31:121:9, 30:130:9] = 300
    image = GRID.to_image(hu)
    maps = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        scorer = Scorer(Predictor("additive", (8, 12, 16)), HEART, decision="voxel")
        maps.append(scorer.score(image, TO_SCAN).feedback)
    at = maps[0] > 0
    assert np.count_nonzero(at) > 500
    assert maps[0][at].std() > 0
    assert abs(np.corrcoef(maps[0][at], maps[1][at])[0, 1]) < 0.7


def test_scoring_twice_gives_identical_numbers():
    scorer = Scorer(Predictor("additive", (4, 6)), HEART, decision="voxel")
    image = GRID.to_image(scan_with_plaques())
    first, second = scorer.score(image, TO_SCAN), scorer.score(image, TO_SCAN)
    assert first.agatston == second.agatston
    assert np.array_equal(first.feedback, second.feedback)


def test_sagittal_slices_are_refused():
    sagittal = ImageGrid((9, 8, 7), (1, 1, 1), (0, 0, 0), (0, 0, 1, 1, 0, 0, 0, 1, 0))
    scorer = Scorer(FixedAttention(1.0, 1.0), HEART)
    with pytest.raises(ValueError, match="slices must be axial"):
        scorer.score(sagittal.empty_image(), TO_SCAN)


def test_loading_names_the_networks_it_knows():
    config = {"network": "other", "widths": [4, 6]}
    with pytest.raises(ValueError, match="network must be one of additive, plain"):
        Scorer.from_settings(HEART, config, None)


def test_weights_saved_and_loaded_give_the_same_score(tmp_path):
    trained = Predictor("additive", (4, 6))
    path = tmp_path / "scoring.weights.h5"
    trained.network.save_weights(path)
    config = {"network": "additive", "widths": [4, 6], "decision": "voxel"}
    loaded = Scorer.from_settings(HEART, config, path)
    image = GRID.to_image(scan_with_plaques())
    expected = Scorer(trained, HEART, decision="voxel").score(image, TO_SCAN).agatston
    assert loaded.score(image, TO_SCAN).agatston == pytest.approx(expected, rel=1e-6)


def test_intervals_and_chances_are_those_of_the_kind_and_of_the_calibrated_definition():
    # chest scans of any score: half right, half twice as much, on the scale of log1p
    errors = (0.0, float(np.log(2.0)))
    bins = {"chest": (ErrorBin(0.0, 0.0, errors[1], errors),)}
    scorer = Scorer(FixedAttention(1.0, 1.0), HEART, calibration=Calibration("agatston-1990", bins))
    image = GRID.to_image(scan_with_plaques())
    score = scorer.score(image, TO_SCAN, kind="chest")
    total = FIRST + SECOND
    assert (score.agatston_low, score.agatston_high) == pytest.approx((total, 2 * total + 1))
    # 29.9 or 60.8, the same category
    assert score.category_probabilities["11-100"] == 1.0
    for other in (
        scorer.score(image, TO_SCAN, kind="cardiac"),
        scorer.score(image, TO_SCAN),
        scorer.with_preset("agatston-4conn").score(image, TO_SCAN, kind="chest"),
    ):
        assert other.agatston_low is None
        assert other.agatston_high is None
        assert other.category_probabilities is None


def test_lesions_are_told_apart_by_the_artery_that_runs_there():
    # the plaques lie right and left of the heart's center; so do these arteries, in heart units
    courses = {
        "RCA": np.array([[-0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]]),
        "LAD": np.array([[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]]),
    }
    image = GRID.to_image(scan_with_plaques())
    scorer = Scorer(FixedAttention(1.0, 1.0), HEART, vessels=VesselAtlas((courses,)))
    found = scorer.with_preset("agatston-1990").score(image, TO_SCAN).lesions
    right = [lesion.center_mm[0] < 33.0 for lesion in found]
    assert sorted(right) == [False, True]
    assert [lesion.territory for lesion in found] == ["RCA" if r else "LM/LAD" for r in right]
    unknown = Scorer(FixedAttention(1.0, 1.0), HEART).score(image, TO_SCAN).lesions
    assert [lesion.territory for lesion in unknown] == [None, None]


def test_preset_can_be_changed_without_another_network():
    scorer = Scorer(FixedAttention(1.0, 1.0), HEART).with_preset("agatston-4conn")
    hu = np.full(GRID.shape, 40, np.int16)
    hu[5, 70:72, 40:42] = 210
    hu[5, 72:74, 42:44] = 450  # touches at a corner: its peak weighs only its own part
    score = scorer.score(GRID.to_image(hu), TO_SCAN)
    assert score.agatston == pytest.approx(4 * 0.56 * (2 + 4) * 2.5 / 3, rel=1e-6)
    assert score.preset == "agatston-4conn"
