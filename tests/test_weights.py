"""Importance weights, rejection masks and the table of what others would do, against formulas written out."""

import decimal
import functools
import itertools
import json
import math
import pickle

import numpy as np
import pytest

from kullback.rlhf import (
    RATIO_LEVELS,
    REJECTION_KINDS,
    WEIGHT_KINDS,
    importance_ratios,
    importance_weights,
    rejection_mask,
    rejection_statistic,
    what_if,
)
from kullback.rlhf.bernoulli import bernoulli_kl, bernoulli_tv


def batch(seed, sequences=12, width=30, noise=0.4):
    """Padded log-probs with garbage behind the mask and a sequence without tokens."""
    rng = np.random.default_rng(seed)
    train = -rng.exponential(size=(sequences, width))
    rollout = np.minimum(train + noise * rng.normal(size=train.shape), -1e-3)
    mask = np.arange(width) < rng.integers(1, width + 1, (sequences, 1))
    mask[4] = False
    train[~mask], rollout[~mask] = np.nan, np.inf
    return rollout, train, mask


def packed(rollout, train, mask):
    return rollout[mask], train[mask], np.concatenate([[0], np.cumsum(mask.sum(-1))])


def ratio_of(d, level):
    return np.exp({"token": d, "sequence": d.sum(), "geometric": d.mean() if d.size else 0.0}[level])


@pytest.mark.parametrize("level", RATIO_LEVELS)
@pytest.mark.parametrize("kind", WEIGHT_KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_weights_against_their_formula(level, kind, normalize):
    rollout, train, mask = batch(1)
    low, high = WEIGHT_KINDS[kind].bounds
    expected = np.zeros(mask.shape)
    sequences = []
    for row, kept in enumerate(mask):
        ratio = ratio_of(train[row, kept] - rollout[row, kept], RATIO_LEVELS[level])
        inside = (ratio >= low) & (ratio <= high)
        weight = np.minimum(ratio, high) if kind in ("tis", "truncate") else np.where(inside, ratio, 0.0)
        expected[row, kept] = weight
        if kept.any():
            sequences.append(np.mean(weight))
    if normalize:
        expected /= expected[mask].mean() if level == "token" else np.mean(sequences)
    got = importance_weights(rollout, train, mask, kind=kind, level=level, normalize=normalize)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    x, y, offsets = packed(rollout, train, mask)
    flat = importance_weights(x, y, offsets=offsets, kind=kind, level=level, normalize=normalize)
    np.testing.assert_allclose(flat, got[mask], rtol=1e-14)
    assert got.dtype == np.float64 and not got[~mask].any() and got.flags.writeable


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_ratios_are_those_before_truncation(level):
    rollout, train, mask = batch(2)
    ratios = importance_ratios(rollout, train, mask, level=level)
    weights = importance_weights(rollout, train, mask, level=level, kind="none")
    if level == "token":
        assert np.array_equal(ratios, weights)
    else:
        assert ratios.shape == (12,) and ratios[4] == 1.0
        assert np.array_equal(np.where(mask, ratios[:, None], 0.0), weights)
    x, y, offsets = packed(rollout, train, mask)
    flat = importance_ratios(x, y, offsets=offsets, level=level)
    assert np.array_equal(flat, ratios[mask] if level == "token" else ratios)


def statistic_of(d, p, q, kind):
    """Of one sequence."""
    if kind.startswith("dppo"):
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        return q - p if kind == "dppo_tv" else np.sign(q - p) * kl
    name = {"geo_rs": "seq_mean_k1", "opsm": "seq_mean_k1"}.get(kind, kind)
    values = {"1": -d, "2": d**2 / 2, "3": np.exp(d) - 1 - d}[name[-1]]
    if name.startswith("token"):
        return values
    how = {"sum": np.sum, "mean": np.mean, "max": np.max}[name.split("_")[1]]
    return how(values) if d.size else 0.0


@pytest.mark.parametrize("kind", REJECTION_KINDS)
def test_statistics_and_masks_against_their_formula(kind):
    rollout, train, mask = batch(3)
    sequences = REJECTION_KINDS[kind].per_sequence
    expected = np.zeros(12 if sequences else mask.shape)
    with np.errstate(invalid="ignore"):
        for row, kept in enumerate(mask):
            y, x = train[row, kept], rollout[row, kept]
            expected[row if sequences else (row, kept)] = statistic_of(y - x, np.exp(x), np.exp(y), kind)
    got = rejection_statistic(rollout, train, mask, kind=kind)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-8)
    for threshold in (0.7, (0.9, 1.3), 0.05, 1.05):
        ratio = kind.endswith("k1") or kind == "geo_rs"
        if isinstance(threshold, tuple) and not (ratio or kind.startswith("dppo")):
            with pytest.raises(ValueError, match="expected a number with kind"):
                rejection_mask(rollout, train, mask, kind=kind, threshold=threshold)
            continue
        if ratio:
            if np.max(threshold) < 1:
                with pytest.raises(ValueError, match="the lower one first"):
                    rejection_mask(rollout, train, mask, kind=kind, threshold=threshold)
                continue
            low, high = np.log(threshold if isinstance(threshold, tuple) else (1 / threshold, threshold))
        else:
            low, high = threshold if isinstance(threshold, tuple) else (threshold, threshold)
            low = -low if kind.startswith("dppo") else -np.inf
        keep = (got >= low) & (got <= high)
        keep = mask & (keep[:, None] if sequences else keep)
        assert np.array_equal(rejection_mask(rollout, train, mask, kind=kind, threshold=threshold), keep)
        x, y, offsets = packed(rollout, train, mask)
        assert np.array_equal(rejection_mask(x, y, offsets=offsets, kind=kind, threshold=threshold), keep[mask])
    assert got.dtype == np.float64


def test_directions_of_the_two_ratios():
    """A token that training makes three times likelier: its weight is 3, verl's k1 bounds see 1/3."""
    rollout, train = [[math.log(0.2)]], [[math.log(0.6)]]
    assert importance_ratios(rollout, train)[0, 0] == pytest.approx(3.0)
    assert not rejection_mask(rollout, train, kind="token_k1", threshold=(0.5, 4.0))[0, 0]
    assert rejection_mask(rollout, train, kind="token_k1", threshold=(0.25, 2.0))[0, 0]


def test_what_lies_on_a_bound_is_kept():
    rollout, train = [[0.0, -math.log(2.0)]], [[-math.log(2.0), 0.0]]
    assert rejection_mask(rollout, train, kind="token_k1", threshold=2.0).all()
    assert not rejection_mask(rollout, train, kind="token_k1", threshold=2.0 - 1e-15).any()
    assert importance_weights(rollout, train, kind="icepop", bounds=(0.5, 2.0))[0].tolist() == [0.5, 2.0]
    for kind in ("token_k2", "token_k3", "seq_max_k2", "seq_mean_k3", "seq_sum_k3", "dppo_tv", "opsm"):
        worst = np.abs(rejection_statistic([[0.0]], [[-1.0]], kind=kind)).item()
        assert rejection_mask([[0.0]], [[-1.0]], kind=kind, threshold=worst)[0, 0], kind
        assert not rejection_mask([[0.0]], [[-1.0]], kind=kind, threshold=worst * (1 - 1e-15))[0, 0], kind


def test_advantages_decide_the_side():
    rollout, train = np.log([[0.2, 0.6, 0.3]] * 3), np.log([[0.6, 0.2, 0.3]] * 3)
    gains = np.array([1.0, -1.0, 0.0])
    for kind in ("dppo_tv", "dppo_kl"):
        both = rejection_mask(rollout, train, kind=kind, threshold=0.1)
        assert np.array_equal(both, [[False, False, True]] * 3)
        sided = rejection_mask(rollout, train, kind=kind, threshold=0.1, advantages=gains)
        assert np.array_equal(sided, [[False, True, True], [True, False, True], [True, False, True]])
        per_token = np.broadcast_to(gains[:, None], (3, 3))
        for same in (gains[:, None], per_token):
            assert np.array_equal(rejection_mask(rollout, train, kind=kind, threshold=0.1, advantages=same), sided)
    worse = train - 1.0
    assert np.array_equal(
        rejection_mask(rollout, worse, kind="opsm", threshold=0.1, advantages=gains)[:, 0], [True, False, True]
    )
    with pytest.raises(ValueError, match="`advantages` were given, expected None with kind 'token_k2'"):
        rejection_mask(rollout, train, kind="token_k2", threshold=0.1, advantages=gains)
    for wrong in (np.zeros(2), np.zeros((3, 2)), 0.0):
        with pytest.raises(ValueError, match="`advantages` has shape"):
            rejection_mask(rollout, train, kind="dppo_tv", threshold=0.1, advantages=wrong)


# ---------------------------------------------------------------------------------------------- the far ends

INF = float("inf")


def test_infinite_and_missing_log_probs():
    rollout = np.array([[-1.0, -INF, -1.0, -INF, -1.0, -800.0]])
    train = np.array([[-1.0, -1.0, -INF, -INF, np.nan, -1.0]])
    np.testing.assert_array_equal(importance_ratios(rollout, train), [[1, INF, 0, np.nan, np.nan, INF]])
    np.testing.assert_array_equal(importance_weights(rollout, train), [[1, 2, 0, np.nan, np.nan, 2]])
    popped = importance_weights(rollout, train, kind="icepop")
    np.testing.assert_array_equal(popped, [[1, 0, 0, np.nan, np.nan, 0]])
    popped = importance_weights(rollout, train, kind="icepop", preset="verl")
    np.testing.assert_array_equal(popped, [[1, 0, 0, 0, 0, 0]])
    equal = importance_weights(rollout, train, preset="trl")
    np.testing.assert_array_equal(equal, [[1, 2, 0, 1, 1, 2]])
    assert np.isnan(importance_weights(rollout, train, level="sequence")).all()
    for kind in REJECTION_KINDS:
        keep = rejection_mask(rollout, train, kind=kind, threshold=2.0)
        assert keep[0, 0] != REJECTION_KINDS[kind].per_sequence, kind
        assert not keep[0, 3:5].any(), kind


def test_masked_tokens_may_hold_anything():
    mask = np.array([[True, False, False, False]])
    for bad in itertools.product([np.nan, INF, -INF, 1e308], repeat=2):
        rollout, train = np.array([[-1.0, *[bad[0]] * 3]]), np.array([[-1.5, *[bad[1]] * 3]])
        for level in RATIO_LEVELS:
            weights = importance_weights(rollout, train, mask, level=level)
            np.testing.assert_allclose(weights, [[math.exp(-0.5), 0, 0, 0]], rtol=1e-15)
        for kind in REJECTION_KINDS:
            assert np.array_equal(rejection_mask(rollout, train, mask, kind=kind, threshold=2.0), mask)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 3)])
def test_nothing_to_weigh(shape):
    x, mask = np.zeros(shape), np.zeros(shape, bool)
    for level in RATIO_LEVELS:
        for normalize in (False, True):
            weights = importance_weights(x, x, mask, level=level, normalize=normalize)
            assert weights.shape == shape and not weights.any()
    for kind in REJECTION_KINDS:
        keep = rejection_mask(x, x, mask, kind=kind, threshold=2.0)
        assert keep.shape == shape and keep.dtype == np.bool_ and not keep.any()
    table = what_if(x, x, mask)
    assert (table.tokens, table.sequences) == (0, 0)
    assert all(math.isnan(row.ess) for row in table.rows)


def test_all_rejected_stay_zero_when_normalized():
    rollout, train = np.full((2, 3), -1.0), np.full((2, 3), -9.0)
    for level in RATIO_LEVELS:
        weights = importance_weights(rollout, train, kind="icepop", level=level, normalize=True)
        assert not weights.any()


def test_long_sequences_and_huge_ratios_do_not_overflow_on_the_way():
    """Σ d is 0 for 2,000 tokens of ±700: the ratio is 1; of 100,000 tokens of 1 it is inf, the weight its bound."""
    rollout = np.zeros((1, 2000))
    train = np.tile([700.0, -700.0], 1000)[None] - 1000.0
    ratios = importance_ratios(rollout - 1000.0, train, level="sequence")
    assert ratios[0] == 1.0
    rollout, train = np.full((1, 100_000), -2.0), np.full((1, 100_000), -1.0)
    assert importance_ratios(rollout, train, level="sequence")[0] == np.inf
    assert (importance_weights(rollout, train, level="sequence", bounds=3.0) == 3.0).all()
    assert importance_ratios(rollout, train, level="sequence", preset="verl")[0] == math.exp(20.0)


def test_flat_tokens_have_no_sequences():
    x = np.array([-1.0, -2.0])
    assert importance_weights(x, x).tolist() == [1.0, 1.0]
    assert rejection_mask(x, x - 0.1, [1, 0], kind="dppo_tv", threshold=0.1).tolist() == [True, False]
    for call in (
        lambda: importance_ratios(x, x, level="geo"),
        lambda: rejection_mask(x, x, kind="seq_max_k3", threshold=0.1),
        lambda: what_if(x, x),
    ):
        with pytest.raises(ValueError, match="`rollout` has shape"):
            call()
    with pytest.raises(ValueError, match="`train` has shape"):
        importance_ratios(x, x[:1])


@pytest.mark.parametrize(
    "bounds", [0.0, -1.0, (2.0, 1.0), (-0.1, 1.0), (None, 0.0), (1.0, 2.0, 3.0), math.nan, (1, INF * 0)]
)
def test_bounds_that_are_none(bounds):
    with pytest.raises(ValueError, match="`bounds` is"):
        importance_weights([[0.0]], [[0.0]], bounds=bounds)


def test_bounds_may_be_open():
    rollout, train = np.zeros((1, 3)) - 5.0, np.array([[-8.0, -5.0, -2.0]])
    ratios = importance_ratios(rollout, train)[0]
    assert importance_weights(rollout, train, bounds=(0.5, None))[0].tolist() == [0.5, 1.0, ratios[2]]
    assert importance_weights(rollout, train, kind="mask", bounds=(0.5, None))[0].tolist() == [0.0, 1.0, ratios[2]]
    assert importance_weights(rollout, train, kind="mask", bounds=(None, 3.0))[0].tolist() == [ratios[0], 1.0, 0.0]
    with pytest.raises(ValueError, match="expected None with kind 'none'"):
        importance_weights(rollout, train, kind="none", bounds=2.0)


# ------------------------------------------------------------------------------------------- binary divergences


def exact_kl(log_p, log_q):
    decimal.getcontext().prec = 400
    a, b = decimal.Decimal(log_p), decimal.Decimal(log_q)
    p, q = a.exp(), b.exp()
    return p * (a - b) + (1 - p) * ((1 - p).ln() - (1 - q).ln())


def test_binary_divergences_cancel_nothing():
    """Nearly sure tokens, policies that are close, tiny probabilities: against 400 digits."""
    rng = np.random.default_rng(7)
    log_p = -(10.0 ** rng.uniform(-17, 2.5, 150))
    near = log_p * (1 + 10.0 ** rng.uniform(-15, 0, 150))
    log_q = np.where(rng.random(150) < 0.5, near, -(10.0 ** rng.uniform(-17, 2.5, 150)))
    kl, tv = bernoulli_kl(log_p, log_q), bernoulli_tv(log_p, log_q)
    for i in range(150):
        exact = exact_kl(log_p[i], log_q[i])
        assert abs(kl[i]) == pytest.approx(float(exact), rel=3e-14, abs=0.0)
        change = decimal.Decimal(log_q[i]).exp() - decimal.Decimal(log_p[i]).exp()
        assert tv[i] == pytest.approx(float(change), rel=1e-15, abs=0.0)
        assert kl[i] * tv[i] >= 0.0


def test_binary_divergences_at_their_limits():
    p = np.array([0.0, 0.0, -1.0, -INF, -1.0, -INF, -1.0, 0.5, -1.0])
    q = np.array([0.0, -1.0, 0.0, -1.0, -INF, -INF, -1.0, -1.0, 0.5])
    sure = -math.log1p(-math.exp(-1.0))  # KL(Bernoulli(0)‖Bernoulli(1/e))
    np.testing.assert_allclose(bernoulli_kl(p, q), [0, -1, INF, sure, -INF, np.nan, 0, np.nan, np.nan], rtol=1e-15)


# ------------------------------------------------------------------------------------------------------ what if


def test_every_figure_of_the_table():
    rollout, train, mask = batch(8)
    values = np.random.default_rng(9).normal(size=mask.shape)
    settings = [
        *(("none", level) for level in ("token", "sequence", "geometric")),
        ("tis", 1.2),
        ("icepop", (0.8, 1.3)),
        ("tis", "sequence", (0.5, 2.0)),
        ("mask", "gspo", 1.05),
        ("token_k1", (0.8, 1.25)),
        ("seq_mean_k3", 0.08),
        ("dppo_tv", (0.05, 0.1)),
        "icepop",
    ]
    table = what_if(rollout, train, mask, settings=settings, values=values)
    assert (table.tokens, table.sequences, table.unscored) == (mask.sum(), 11, 0)
    for given, row in zip(settings, table.rows, strict=True):
        kind, *rest = (given,) if isinstance(given, str) else given
        level = RATIO_LEVELS[rest.pop(0)] if rest and isinstance(rest[0], str) else "token"
        if kind in WEIGHT_KINDS:
            w = importance_weights(rollout, train, mask, kind="none", level=level)[mask]
            c = importance_weights(rollout, train, mask, kind=kind, level=level, bounds=rest[0] if rest else None)[mask]
            looked_at = importance_ratios(rollout, train, mask, level=level)
        else:
            w = importance_ratios(rollout, train, mask)[mask]
            keep = rejection_mask(rollout, train, mask, kind=kind, threshold=rest[0])
            c = np.where(keep[mask], w, 0.0)
            looked_at = rejection_statistic(rollout, train, mask, kind=kind)
        looked_at = looked_at[mask] if looked_at.shape == mask.shape else looked_at[mask.any(-1)]
        v = values[mask]
        kept = np.zeros(mask.shape, bool)
        kept[mask] = c > 0
        expected = {
            "kept_tokens": np.mean(c > 0),
            "kept_sequences": kept.any(-1).sum() / 11,
            "cut_tokens": np.mean(c != w),
            "ess": c.sum() ** 2 / (c.size * (c**2).sum()),
            "mean_weight": c.mean(),
            "value": np.mean(c * v),
            "bias": np.mean(c * v) - np.mean(w * v),
            "least": looked_at.min(),
            "greatest": looked_at.max(),
        }
        for name, figure in expected.items():
            got = getattr(row, name)
            got = got.mean if isinstance(got, tuple) else got
            assert got == pytest.approx(figure, rel=1e-11, abs=1e-14), (row.setting, name)
        assert row.kind == kind and row.setting.startswith(kind)


def test_errors_of_the_table_match_the_spread_over_redrawn_sequences():
    tables = []
    for seed in range(300):
        rollout, train, mask = batch(seed, sequences=40, width=8)
        tables.append(what_if(rollout, train, mask, settings=[("tis", 1.2), ("seq_mean_k3", 0.1)]).rows)
    for place in range(2):
        for name in ("mean_weight", "bias"):
            found = [getattr(rows[place], name) for rows in tables]
            typical = np.sqrt(np.mean([f.standard_error**2 for f in found]))
            assert typical == pytest.approx(np.std([f.mean for f in found]), rel=0.12)


def test_parts_merge_to_the_same_bits():
    rollout, train, mask = batch(10, sequences=40)
    values = np.random.default_rng(11).normal(size=40)
    whole = what_if(rollout, train, mask, values=values)
    parts = [what_if(rollout[i::3], train[i::3], mask[i::3], values=values[i::3]) for i in range(3)]
    x, y, offsets = packed(rollout, train, mask)
    for order in itertools.permutations(parts):
        assert functools.reduce(lambda a, b: a.merge(b), order) == whole
    flat = what_if(x, y, offsets=offsets, values=values)
    assert flat == whole and flat.to_dict() == whole.to_dict()
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert parts[0] != whole and whole != 1
    with pytest.raises(ValueError, match="`other` has other settings"):
        whole.merge(what_if(rollout, train, mask, settings=["tis"]))
    with pytest.raises(ValueError, match="`other` has other nan_policy"):
        whole.merge(what_if(rollout, train, mask, nan_policy="omit"))


def test_blocks_do_not_change_the_table():
    """Two blocks of 2¹⁶ tokens and one."""
    rollout, train, mask = batch(12, sequences=150, width=600)
    settings = [("tis", 2.0), ("seq_mean_k3", 0.1)]
    parts = [what_if(rollout[i::2], train[i::2], mask[i::2], settings=settings) for i in range(2)]
    assert what_if(rollout, train, mask, settings=settings) == parts[0].merge(parts[1])


def test_as_many_blocks_as_are_added_up_at_once_and_more(monkeypatch):
    rollout, train, mask = batch(15, sequences=300)
    whole = what_if(rollout, train, mask)
    monkeypatch.setattr("kullback._engine.layout.BLOCK", 30)  # a sequence each
    assert what_if(rollout, train, mask) == whole


def test_tokens_without_a_ratio():
    rollout, train, mask = batch(13)
    holed = train.copy()
    holed[0, 0] = np.nan
    mask[0, 0] = True
    rollout[0, 0] = -1.0
    table = what_if(rollout, holed, mask)
    assert table.unscored == 1 and all(math.isnan(row.kept_tokens) for row in table.rows)
    without = mask.copy()
    without[0, 0] = False
    omitted = what_if(rollout, holed, mask, nan_policy="omit")
    assert omitted.unscored == 1 and omitted.rows == what_if(rollout, train, without).rows


def test_an_infinite_ratio_is_seen_and_survived():
    rollout, train = np.full((3, 4), -1.0), np.full((3, 4), -1.1)
    rollout[1, 2] = -INF
    raw, capped, popped = what_if(rollout, train, settings=["none", "tis", "icepop"]).rows
    assert raw.greatest == capped.greatest == popped.greatest == INF
    assert raw.mean_weight.mean == INF and math.isnan(raw.ess) and raw.bias.mean == 0.0
    assert capped.bias.mean == popped.bias.mean == -INF
    assert 0.9 < capped.ess < 1.0 and popped.kept_tokens == 11 / 12


def test_forms_of_the_table():
    rollout, train, mask = batch(14)
    table = what_if(rollout, train, mask)
    json.dumps(table.to_dict(), allow_nan=False)
    columns = table.columns()
    assert {len(column) for column in columns.values()} == {len(table.rows)}
    assert columns["bias_standard_error"].dtype == np.float64 and columns["setting"][0] == "none token"
    assert len(str(table).splitlines()) == len(table.rows) + 1
    assert len({row.setting for row in table.rows}) == len(table.rows)
    assert repr(table) == f"<WhatIf of {len(table.rows)} settings on {mask.sum()} tokens, 11 sequences>"


@pytest.mark.parametrize(
    "setting",
    [(), ("tis", "token", 2.0, 3.0), ("token_k2",), ("token_k2", 1.0, 2.0), ("tiss", 2.0), 3, ("tis", "tokens", 2.0)],
)
def test_settings_that_are_none(setting):
    with pytest.raises((ValueError, TypeError), match=r"`(settings|kind|bounds)` (is|has)"):
        what_if([[0.0]], [[0.0]], settings=[setting])
