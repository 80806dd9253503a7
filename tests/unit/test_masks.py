"""Parity of uniform masks with TF-MOT is tested in test_masks_tfmot."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedprune.model.randomness import Keyed
from fedprune.model.tensors import Array, Mask, TensorClass, TensorSpec, TensorTable
from fedprune.pruning.masks import Allocation, apply_mask, full_mask, keep_above, mask_sparsity, score_mask

TABLE = TensorTable(
    (
        TensorSpec("conv/kernel", (3, 3, 2, 4), "float32", TensorClass.PRUNABLE, "conv"),
        TensorSpec("conv/bias", (4,), "float32", TensorClass.DENSE, "conv"),
        TensorSpec("dense/kernel", (20, 10), "float32", TensorClass.PRUNABLE, "dense"),
    )
)
EXACT = [Allocation.LAMP, Allocation.GLOBAL]
EVERYTHING = full_mask(TABLE)


def weights(seed: int = 1) -> dict[str, Array]:
    keyed = Keyed(seed, "weights")
    return {spec.name: keyed.uniform(spec.size, -1.0, 1.0).reshape(spec.shape) for spec in TABLE}


def coarse_weights() -> st.SearchStrategy[dict[str, Array]]:
    """Weights with few distinct magnitudes, hence many ties and zeros."""
    level = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0])
    return st.fixed_dictionaries({spec.name: arrays.arrays(np.float32, spec.shape, elements=level) for spec in TABLE})


def lamp_scores(array: Array) -> list[float]:
    """The definition in the paper, read literally: ascending magnitudes, each over the sum from itself upwards."""
    flat = array.ravel().astype(np.float64).tolist()
    # Of equal magnitudes the lower index counts as the larger.
    ascending = sorted(range(len(flat)), key=lambda index: (abs(flat[index]), -index))
    scores, above = [0.0] * len(flat), 0.0
    for index in reversed(ascending):
        above += flat[index] ** 2
        scores[index] = flat[index] ** 2 / above if flat[index] else 0.0
    return scores


def keep_literally(scores: list[float], keep: int) -> list[bool]:
    kept = set(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:keep])
    return [index in kept for index in range(len(scores))]


@given(coarse_weights(), st.floats(0.0, 0.999))
def test_global_keeps_the_largest_magnitudes_and_of_ties_the_first(tensors: dict[str, Array], sparsity: float) -> None:
    mask = score_mask(tensors, TABLE, sparsity, Allocation.GLOBAL, EVERYTHING)
    magnitudes = np.concatenate([np.abs(tensors[name]).ravel() for name in mask]).tolist()
    expected = keep_literally(magnitudes, round(TABLE.prunable * (1 - sparsity)))
    assert np.concatenate([kept.ravel() for kept in mask.values()]).tolist() == expected


@given(coarse_weights(), st.floats(0.0, 0.999))
def test_lamp_keeps_the_highest_scores_and_of_ties_the_first(tensors: dict[str, Array], sparsity: float) -> None:
    mask = score_mask(tensors, TABLE, sparsity, Allocation.LAMP, EVERYTHING)
    scores = [score for name in mask for score in lamp_scores(tensors[name])]
    expected = keep_literally(scores, round(TABLE.prunable * (1 - sparsity)))
    assert np.concatenate([kept.ravel() for kept in mask.values()]).tolist() == expected


def test_lamp_empties_no_layer_however_small_its_weights() -> None:
    tensors = weights()
    tensors["conv/kernel"] = np.full((3, 3, 2, 4), 1e-6, np.float32)
    assert not score_mask(tensors, TABLE, 0.99, Allocation.GLOBAL, EVERYTHING)["conv/kernel"].any()
    assert score_mask(tensors, TABLE, 0.99, Allocation.LAMP, EVERYTHING)["conv/kernel"].any()


@pytest.mark.parametrize("allocation", Allocation)
def test_mask_covers_the_prunable_tensors_only(allocation: Allocation) -> None:
    mask = score_mask(weights(), TABLE, 0.5, allocation, EVERYTHING)
    assert {name: kept.shape for name, kept in mask.items()} == {"conv/kernel": (3, 3, 2, 4), "dense/kernel": (20, 10)}
    assert mask_sparsity(mask) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("allocation", Allocation)
def test_sparsity_zero_keeps_everything(allocation: Allocation) -> None:
    mask = score_mask(weights(), TABLE, 0.0, allocation, EVERYTHING)
    assert mask_sparsity(mask) == 0.0
    assert {name: kept.tolist() for name, kept in mask.items()} == {
        name: kept.tolist() for name, kept in full_mask(TABLE).items()
    }


def kept_of(mask: Mask) -> int:
    return sum(int(np.count_nonzero(kept)) for kept in mask.values())


@given(coarse_weights(), coarse_weights(), st.sampled_from(Allocation), st.floats(0.0, 0.999), st.floats(0.0, 0.999))
def test_a_pruned_weight_stays_pruned_and_a_kept_one_that_became_zero_frees_none(
    tensors: dict[str, Array], later: dict[str, Array], allocation: Allocation, first: float, second: float
) -> None:
    """`later` has zeros where weights are kept, and other values than zero where they were pruned."""
    before = score_mask(tensors, TABLE, first, allocation, EVERYTHING)

    after = score_mask(later, TABLE, second, allocation, before)

    assert not any((after[name] & ~before[name]).any() for name in after)
    if allocation in EXACT:
        assert kept_of(after) == min(kept_of(before), round(TABLE.prunable * (1 - second)))


@pytest.mark.parametrize("allocation", Allocation)
def test_what_was_pruned_does_not_change_what_else_is(allocation: Allocation) -> None:
    before = score_mask(weights(), TABLE, 0.4, allocation, EVERYTHING)
    pruned, drifted = apply_mask(weights(), before), weights()
    for name, kept in before.items():
        drifted[name] = np.where(kept, drifted[name], np.float32(100.0))

    found = score_mask(drifted, TABLE, 0.7, allocation, before)

    expected = score_mask(pruned, TABLE, 0.7, allocation, EVERYTHING)
    assert {name: kept.tolist() for name, kept in found.items()} == {n: kept.tolist() for n, kept in expected.items()}


def test_apply_mask_leaves_positive_zeros_and_other_tensors_alone() -> None:
    tensors = {name: -np.abs(array) for name, array in weights().items()}
    mask = score_mask(tensors, TABLE, 0.5, Allocation.UNIFORM, EVERYTHING)
    masked = apply_mask(tensors, mask)
    np.testing.assert_array_equal(masked["conv/bias"], tensors["conv/bias"])
    for name, kept in mask.items():
        np.testing.assert_array_equal(masked[name][kept], tensors[name][kept])
        assert masked[name].dtype == np.float32
        assert not np.signbit(masked[name][~kept]).any()


def test_a_table_with_nothing_to_prune_has_an_empty_mask() -> None:
    table = TensorTable((TensorSpec("bias", (4,), "float32", TensorClass.DENSE, "layer"),))
    for allocation in Allocation:
        assert score_mask({"bias": np.ones(4, np.float32)}, table, 0.8, allocation, {}) == {}
    assert mask_sparsity(full_mask(table)) == 0.0


@pytest.mark.parametrize(
    ("allocation", "digest"),
    [
        (Allocation.LAMP, "0e7c6705626f4452"),
        (Allocation.GLOBAL, "05e10687175151ad"),
        (Allocation.UNIFORM, "5ed89414ff62fa75"),
        (Allocation.ERK, "4df651e8c6aed9d6"),
    ],
)
def test_masks_are_the_same_on_every_machine(allocation: Allocation, digest: str) -> None:
    mask = score_mask(weights(seed=7), TABLE, 0.8, allocation, EVERYTHING)
    assert digest_of(mask) == digest


def digest_of(mask: Mask) -> str:
    packed = b"".join(np.packbits(kept).tobytes() for kept in mask.values())
    return hashlib.sha256(packed).hexdigest()[:16]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_erk_keeps_small_layers_denser_and_reaches_the_whole_sparsity(sparsity: float) -> None:
    mask = score_mask(weights(), TABLE, sparsity, Allocation.ERK, EVERYTHING)

    density = {name: float(kept.mean()) for name, kept in mask.items()}
    assert density["conv/kernel"] >= density["dense/kernel"]
    assert mask_sparsity(mask) == pytest.approx(sparsity, abs=0.005)
    if density["conv/kernel"] < 1.0:
        ratio = (12 / 72) / (30 / 200)  # sums of sizes over their products
        assert density["conv/kernel"] / density["dense/kernel"] == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize("allocation", Allocation)
@pytest.mark.parametrize("block", [(1, 4), (2, 2), (3, 7)])
def test_a_block_is_kept_or_pruned_whole(allocation: Allocation, block: tuple[int, int]) -> None:
    mask = score_mask(weights(), TABLE, 0.6, allocation, EVERYTHING, block)

    for name, kept in mask.items():
        assert kept.shape == weights()[name].shape
        matrix = kept.reshape(-1, kept.shape[-1])
        for row in range(0, matrix.shape[0], block[0]):
            for column in range(0, matrix.shape[1], block[1]):
                one = matrix[row : row + block[0], column : column + block[1]]
                assert one.all() or not one.any()
    assert mask_sparsity(mask) == pytest.approx(0.6, abs=0.1)


@given(coarse_weights(), coarse_weights(), st.sampled_from(Allocation), st.floats(0.0, 0.9), st.floats(0.0, 0.999))
def test_a_block_that_was_pruned_stays_pruned(
    tensors: dict[str, Array], later: dict[str, Array], allocation: Allocation, first: float, second: float
) -> None:
    before = score_mask(tensors, TABLE, first, allocation, EVERYTHING, (1, 4))

    after = score_mask(later, TABLE, second, allocation, before, (1, 4))

    assert not any((after[name] & ~before[name]).any() for name in after)


def test_weights_below_a_threshold_go_and_a_tensor_keeps_its_largest() -> None:
    tensors = {"conv/kernel": weights()["conv/kernel"] * np.float32(1e-6), "dense/kernel": weights()["dense/kernel"]}
    before = score_mask(weights(), TABLE, 0.3, Allocation.UNIFORM, EVERYTHING)

    mask = keep_above(tensors, before, 0.5)

    np.testing.assert_array_equal(
        mask["dense/kernel"], before["dense/kernel"] & (np.abs(tensors["dense/kernel"]) >= 0.5)
    )
    largest = np.where(before["conv/kernel"], np.abs(tensors["conv/kernel"]), 0.0).argmax()
    assert np.flatnonzero(mask["conv/kernel"]).tolist() == [largest]


def test_masks_of_blocks_are_the_same_on_every_machine() -> None:
    mask = score_mask(weights(seed=7), TABLE, 0.8, Allocation.LAMP, EVERYTHING, (1, 4))
    assert digest_of(mask) == "ac00f5e0e3af2eb7"


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 7])
def test_equal_lamp_scores_go_to_the_first_in_the_table(keep: int) -> None:
    """Weights whose squares vanish in the sum have equal scores where their magnitudes are equal."""
    rows = (TensorSpec(name, (7,), "float32", TensorClass.PRUNABLE, name) for name in ("first", "second"))
    table = TensorTable(tuple(rows))
    kernel = np.float32([1, 2, 1e30, 1, -2, 1, 1]) * np.float32(1e-10)
    tensors = {"first": kernel, "second": kernel[::-1].copy()}
    scores = [score for array in tensors.values() for score in lamp_scores(array)]

    mask = score_mask(tensors, table, 1.0 - 2 * keep / 14, Allocation.LAMP, full_mask(table))

    assert len(set(scores)) == 3
    assert np.concatenate(list(mask.values())).tolist() == keep_literally(scores, 2 * keep)
