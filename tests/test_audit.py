"""Audits of RL runs: what is found, where, and what adds up."""

import json
import pickle
import re

import ml_dtypes
import numpy as np
import pytest
from rollout_runs import (
    FAULTS,
    WITH_ENTROPIES,
    at,
    audited,
    bad_source,
    clean_run,
    draw,
    log_softmax,
    redrawn,
    rounding,
    sampling_temperature,
    shift,
    temperature,
    top_p,
    unrelated,
    with_fault,
    zero_filled,
)  # fmt: skip

from kullback.rlhf import AUDIT_CHECKS, AuditReport, audit, mismatch_report

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def run():
    return clean_run(3, 300)


def checks(report):
    return {finding.check for finding in report.findings}


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_run_has_no_findings_but_its_storage(seed):
    assert checks(audited(clean_run(seed, 300), entropies=True)) <= {"rounding"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_named(run, fault):
    """A tenth of the sequences, all of them where that is what it takes."""
    share = 1.0 if fault in WITH_ENTROPIES else 0.1
    faulty, which = with_fault(run, fault, share, np.random.default_rng(1))
    report = audited(faulty, entropies=fault in WITH_ENTROPIES)
    assert checks(report) - {"rounding"} == {FAULTS[fault]} - {"rounding"}
    found = next(finding for finding in report.findings if finding.check == FAULTS[fault])
    known = AUDIT_CHECKS[found.check]
    assert (found.severity, found.advice) == (known.severity, known.advice)
    assert found.confidence >= 1 - 1e-3
    assert str(found).startswith(f"{found.severity}: {found.check}: {found.seen}")
    if fault not in (*WITH_ENTROPIES, rounding):  # of which all sequences have it
        named = np.flatnonzero(report.sequences["check"] == found.check)
        assert named.size == sum(f.sequences for f in report.findings if f.check == found.check)
        assert {sequence for sequence, _ in found.where} <= set(named.tolist())
    if found.check not in ("rounding", "temperature"):
        # of two equal ones the second counts, whichever was there first
        either = {*which.tolist(), *(which ^ 1).tolist()} if found.check == "duplicates" else set(which.tolist())
        assert {sequence for sequence, _ in found.where} <= either


def test_findings_say_where_and_what_the_kl_would_be(run):
    rollout, train = run.rollout.copy(), run.train.copy()
    place = np.array([7, 40, 200])
    rollout[run.offsets[place] + [3, 0, 11]] = -9999.0
    report = audit(rollout, train, offsets=run.offsets)
    (found,) = report.findings
    assert (found.check, found.tokens, found.sequences) == ("sentinel", 3, 3)
    assert found.where == ((7, 3), (40, 0), (200, 11))
    assert found.share_of_sequences == 0.01 and found.share_of_tokens == 3 / rollout.size
    keep = rollout > -9999
    assert found.effect[0] == np.inf == report.kl
    assert found.effect[1] == pytest.approx(mismatch_report(rollout[keep], train[keep]).kl_k3.mean, rel=1e-9)
    assert report.mismatch.tokens == rollout.size - 3


def test_one_infinity_does_not_wipe_out_the_mismatch(run):
    train = run.train.copy()
    train[1000] = -np.inf
    report = audit(run.rollout, train, offsets=run.offsets)
    assert checks(report) == {"infinite"}
    sequence = int(np.searchsorted(run.offsets, 1000, side="right")) - 1
    assert report.findings[0].where == ((sequence, 1000 - int(run.offsets[sequence])),)
    assert np.isfinite(report.mismatch.kl_k3.mean) and np.isfinite(report.mismatch.ess)
    assert report.kl == np.inf


def test_padding_is_not_read_and_layouts_agree(run):
    lengths = np.diff(run.offsets)
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = {}
    for name in ("rollout", "train"):
        padded[name] = np.full(mask.shape, RNG.choice([np.nan, -9999.0, 5.0]))
        padded[name][mask] = getattr(run, name)
    packed = audit(run.rollout, run.train, offsets=run.offsets)
    assert audit(padded["rollout"], padded["train"], mask) == packed
    pieces = [np.split(getattr(run, name), run.offsets[1:-1]) for name in ("rollout", "train")]
    assert audit(*pieces) == packed
    left = audit(padded["rollout"][:, ::-1], padded["train"][:, ::-1], mask[:, ::-1])
    assert left.tokens == packed.tokens and not left.findings


def test_parts_add_up_in_any_order(run):
    faulty = run
    for number, fault in enumerate(FAULTS):
        if fault.__name__ not in ("duplicates", "rounding", "sampling_temperature"):
            faulty, _ = with_fault(faulty, fault, 0.02, np.random.default_rng(number))
    whole = audited(faulty)
    count = len(faulty.offsets) - 1
    parts = []
    for which in (range(10), range(10, 200), range(200, 200), range(200, count)):
        own = slice(faulty.offsets[which.start], faulty.offsets[which.stop])
        parts.append(
            audit(
                faulty.rollout[own], faulty.train[own], tokens=faulty.tokens[own],
                offsets=faulty.offsets[which.start : which.stop + 1] - faulty.offsets[which.start],
                sources=faulty.sources[which.start : which.stop], sequence_ids=np.array(which, int),
            )
        )  # fmt: skip
    assert parts[0].merge(parts[1:]) == whole == parts[3].merge(parts[1], [parts[2], parts[0]])
    merged = parts[2].merge(parts[3], parts[0], parts[1])
    assert merged.findings == whole.findings
    assert merged.to_dict() == whole.to_dict() and str(merged) == str(whole)
    assert merged.mismatch == whole.mismatch and parts[0] != whole
    with pytest.raises(ValueError, match="two parts have a sequence 10"):
        whole.merge(parts[1])


def test_what_a_report_holds(run):
    train = run.train.copy()
    train[run.offsets[4]] -= 30.0
    rewards = RNG.normal(size=300)
    report = audit(run.rollout, train, offsets=run.offsets, tokens=run.tokens, rewards=rewards, sources=run.sources)
    assert isinstance(report, AuditReport)
    worst = report.worst_tokens
    assert (worst["sequence"][0], worst["position"][0], worst["token"][0]) == (4, 0, run.tokens[run.offsets[4]])
    assert np.all(np.diff(np.abs(worst["difference"])) <= 0) and worst["train"].size == 64
    table = report.sequences
    assert {values.shape for values in table.values()} == {(300,)}
    np.testing.assert_array_equal(table["reward"], rewards)
    d = train.astype(float) - run.rollout
    np.testing.assert_allclose(table["kl_k1"], -np.add.reduceat(d, run.offsets[:-1]) / np.diff(run.offsets), rtol=1e-12)
    for level in (0.1, 0.5, 0.9, 0.99, 1.0):
        exact = np.quantile(np.abs(d), level, method="inverted_cdf")
        assert exact * (1 - 1 / 32) <= report.quantile(level) <= exact
    edges, counts = report.histogram()
    assert counts.sum() == d.size and np.all(np.diff(edges) > 0) and edges.size == counts.size + 1
    above = np.histogram(d[d >= 0], edges[1920:])[0]
    below = np.histogram(-d[d < 0], edges[1920:])[0]
    np.testing.assert_array_equal(counts[1920:], above[:])
    np.testing.assert_array_equal(counts[:1919], below[::-1])
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["tokens"] == d.size


def test_sides_of_different_lengths():
    sides = [[-RNG.exponential(0.5, n) for n in (40, 60, 80, 50)]]
    sides.append([np.minimum(x + RNG.normal(0, 0.01, x.size), 0) for x in sides[0]])
    sides[1][1] = np.insert(sides[1][1], 0, -2.0)  # one in front
    sides[1][2] = sides[1][2][:-5]
    report = audit(*sides)
    (found,) = report.findings
    assert (found.check, found.sequences, found.where[0][0]) == ("length", 1, 1)
    assert "lag +1" in found.seen


def test_short_sequences_say_where_they_agree():
    """Answers of six tokens, all of them shifted."""
    rollout = -RNG.exponential(0.7, (400, 6))
    train = np.roll(np.minimum(rollout + RNG.normal(0, 0.01, rollout.shape), 0), 1, axis=1)
    found = audit(rollout, train).findings[0]
    assert found.check == "shift" and found.sequences > 300


def test_an_audit_of_nothing():
    report = audit(np.zeros((0, 5)), np.zeros((0, 5)))
    assert report.findings == [] and report.tokens == 0 and np.isnan(report.kl)
    report = audit(np.full((2, 5), np.nan), np.zeros((2, 5)), np.zeros((2, 5), bool))
    assert report.findings == [] and report.tokens == 0
    assert report == audit(np.zeros((2, 5)), np.full((2, 5), 7.0), np.zeros((2, 5), bool))
    assert "0 tokens in 2 sequences" in str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def test_wrong_arguments():
    x = -RNG.exponential(1, (3, 6))
    for call, match in (
        (lambda: audit(x, x[:, :5]), r"`rollout` has shape \(3, 6\), expected \(3, 5\)"),
        (lambda: audit(x, x, sources=["a"]), "`sources` has 1 labels, expected 3"),
        (lambda: audit(x, x, rewards=[1.0]), r"`rewards` has shape \(1,\), expected \(3,\)"),
        (lambda: audit(x, x, sequence_ids=[1, 1, 2]), "`sequence_ids` has an id twice"),
        (lambda: audit(x, x, tokens=[1, 2]), r"`tokens` has shape \(2,\), expected \(3, 6\)"),
        (lambda: audit(x, x, rollout_entropy=x[:1]), r"`rollout_entropy` has shape \(1, 6\)"),
        (lambda: audit(x[0], x[0]), "with `offsets`"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="`others` holds int"):
        audit(x, x).merge([3])


@pytest.mark.integration
def test_tables_of_pandas(run):
    report = audited(with_fault(run, next(iter(FAULTS)), 0.1, RNG)[0])
    assert report.to_pandas().shape[0] == 300
    assert list(report.to_pandas("findings").check) == [finding.check for finding in report.findings]
    assert len(report.to_pandas("worst_tokens")) == 64


@pytest.mark.parametrize("cut", [lambda t: np.minimum(t, 0.0), lambda t: -np.abs(t)], ids=["cut at 0", "folded at 0"])
@pytest.mark.parametrize("noise", [1e-4, 0.01, 0.05])
@pytest.mark.parametrize("certain", [0.0, 0.5])
def test_noise_of_no_logits_is_no_fault(cut, noise, certain):
    """The same noise at all tokens, zeros that are no more zero: what people make up, and no engine does."""
    for seed, mean in enumerate((0.1, 0.3, 1.0)):
        rng = np.random.default_rng(seed)
        rollout = -rng.exponential(mean, (200, 80)) * (rng.random((200, 80)) >= certain)
        train = cut(rollout + noise * rng.normal(size=rollout.shape))
        mask = np.arange(80) < rng.integers(10, 80, (200, 1))
        assert not checks(audit(rollout, train, mask, sources=[i % 4 for i in range(200)]))


def test_long_tailed_noise_of_log_probs_is_no_support():
    """Noise of the same size at tokens that are all but certain: half of them look cut, on either side."""
    for seed in (3, 11, 14, 16):
        run, rng = clean_run(seed, 200), np.random.default_rng(seed)
        noise = 0.03 * rng.standard_t(3, run.rollout.size) * (run.rollout < 0)
        run.train = np.minimum(run.rollout.astype(float) + noise, 0.0)
        assert checks(audited(run)) <= {"rounding"}


def test_drift_of_the_policy_is_no_fault():
    """A KL of 0.2 a token by noise of logits lowers log-odds at all tokens, as a truncated support does."""
    for seed in range(3):
        run = clean_run(seed, 300)
        z = run.logits[1] + np.float32(1.2) * np.random.default_rng(seed).standard_normal(run.logits[1].shape)
        run.train = at(log_softmax(z), run.tokens)
        report = audited(run, entropies=True)
        assert report.kl > 0.1 and checks(report) <= {"rounding"}


def test_faults_of_a_few_sequences_leave_no_echo_of_another_name():
    for seed in range(3):
        run = clean_run(seed, 500)
        for number, fault in enumerate((shift, unrelated, bad_source)):
            for share in (0.05, 0.5):
                faulty, _ = with_fault(run, fault, share, np.random.default_rng([seed, number]))
                assert checks(audited(faulty)) - {"rounding"} == {fault.__name__}


def test_a_source_is_named(run):
    """What has one source in common says so."""
    faulty = run.copy()
    which = np.flatnonzero(np.array(run.sources) == "worker-3")
    zero_filled(faulty, which, np.random.default_rng(0))
    (found,) = audited(faulty).findings
    assert found.check == "zero_filled" and "all of 'worker-3'" in found.seen


@pytest.mark.parametrize("side", ["rollout", "train"])
def test_entropies_tell_of_another_sampling_temperature(side):
    """Of either side; of one environment alone too, which is then named."""
    run = clean_run(2, 400)
    faulty, _ = with_fault(run, sampling_temperature, 1.0, np.random.default_rng(0))
    entropy = {f"{side}_entropy": faulty.rollout_entropy}
    report = audit(faulty.rollout, faulty.train, offsets=faulty.offsets, **entropy)
    assert checks(report) - {"rounding"} == {"temperature"} and f"{side}'s entropy" in report.findings[0].seen
    if side == "train":
        return
    faulty = run.copy()
    own = [i for i, name in enumerate(run.sources) if name in ("worker-1", "worker-2", "worker-5")]
    for i in own:
        faulty.sources[i] = "math"
    faulty.first_train = run.train
    sampling_temperature(faulty, np.array(own), np.random.default_rng(1))
    (found,) = (f for f in audited(faulty, entropies=True).findings if f.check == "temperature")
    assert found.sequences == len(own) and "(math)" in found.seen


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float64"])
def test_storage_of_any_width(run, name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    rollout, train = (side.astype(dtype) for side in (run.rollout, run.train))
    report = audit(rollout, train, offsets=run.offsets)
    found = [f.seen for f in report.findings]
    assert len(found) == (2 if dtype.itemsize == 2 else 0) and all(f"is kept in {name}" in seen for seen in found)
    if dtype.itemsize == 2:
        # what rounding alone makes of equal sides, measured and as said
        exact = run.rollout.astype(float)
        measured = mismatch_report(rollout.astype(float), exact).kl_k3.mean
        said = float(found[0].split("KL of ")[1].split()[0])
        assert measured == pytest.approx(said, rel=0.1)


def test_reports_travel_between_processes(run):
    report = audited(with_fault(run, shift, 0.1, np.random.default_rng(0))[0])
    twin = pickle.loads(pickle.dumps(report))
    assert twin == report and twin.findings == report.findings


def test_small_sources_and_short_sequences_are_not_bad():
    """Sources of one sequence each, of two tokens each, of few sequences in all."""
    for seed, (sequences, tokens, named) in enumerate(((64, 8, 64), (400, 2, 50), (3, 8, 3), (64, 40, 50))):
        run = clean_run(seed, sequences)
        own = np.concatenate([np.arange(start, start + tokens) for start in run.offsets[:-1]])
        sources = np.arange(sequences) % named
        report = audit(run.rollout[own], run.train[own], offsets=np.arange(sequences + 1) * tokens, sources=sources)
        assert checks(report) <= {"rounding"}


def test_a_hundredth_of_a_temperature_is_not_told():
    run = clean_run(3, 300)
    for factor, expected in ((1.01, set()), (1.1, {"temperature"})):
        run.train = at(log_softmax(run.logits[1] * np.float32(factor)), run.tokens)
        assert checks(audited(run)) == expected


def told_temperature(finding):
    return float(re.search(r"temperature of about (\d+\.\d+)", finding.seen)[1])


@pytest.mark.parametrize("value", [0.5, 0.7, 0.85, 1.2, 1.5])
@pytest.mark.parametrize("drawn", ["rollout", "train"])
def test_a_temperature_of_all_sequences_is_named_and_told(drawn, value):
    """Without one clean sequence to compare with, and without entropies."""
    for seed in range(3):
        run = clean_run(seed, 100)
        log_p = log_softmax(run.logits[0] / np.float32(value))
        if drawn == "rollout":
            redrawn(run, np.arange(run.tokens.size), log_p, np.random.default_rng(seed))
        else:
            run.rollout = at(log_p, run.tokens)
        report = audited(run)
        assert checks(report) - {"rounding"} == {"temperature"}
        found = report.findings[0]
        assert found.sequences == 100 and f"drawn as {drawn} says" in found.seen
        assert told_temperature(found) == pytest.approx(value, rel=0.1)


@pytest.mark.parametrize("share", [0.9, 0.95])
def test_a_support_of_all_sequences_is_no_temperature(share):
    for seed in range(4):
        run = clean_run(seed, 100)
        log_p = top_p(log_softmax(run.logits[0]), share)
        redrawn(run, np.arange(run.tokens.size), log_p, np.random.default_rng(seed))
        (found,) = (f for f in audited(run).findings if f.check != "rounding")
        assert found.check == "truncated_support" and found.share_of_sequences > 0.9


@pytest.mark.parametrize("value", [0.7, 1.2])
def test_a_temperature_and_a_support_are_both_told(value):
    for seed in range(3):
        run = clean_run(seed, 100)
        log_p = top_p(log_softmax(run.logits[0] / np.float32(value)), 0.9)
        redrawn(run, np.arange(run.tokens.size), log_p, np.random.default_rng(seed))
        (found,) = (f for f in audited(run).findings if f.check != "rounding")
        assert found.check == "temperature" and "from a truncated support too" in found.seen
        assert told_temperature(found) == pytest.approx(value, rel=0.15)


def test_a_hot_start_is_no_prompt():
    """All of a run drawn at temperature 2, some sequences more surprising at the start than later."""
    for seed in range(3):
        run, rng = clean_run(seed, 300), np.random.default_rng(seed)
        run.tokens = draw(rng, log_softmax(run.logits[0] / np.float32(2.0)))
        run.rollout, run.train = (at(log_softmax(z), run.tokens) for z in run.logits)
        assert checks(audited(run, entropies=True)) <= {"temperature", "rounding"}


@pytest.mark.parametrize("value", [0.5, 1.5])
def test_a_temperature_of_some_sequences_is_not_called_one_of_all(value):
    """Nor anything else: a fifth of them drawn and reported at it."""
    run = clean_run(7, 200)
    log_p = log_softmax(run.logits[0] / np.float32(value))
    redrawn(run, (own := run.pieces(np.arange(0, 200, 5))), log_p[own], np.random.default_rng(0))
    (found,) = (f for f in audited(run).findings if f.check != "rounding")
    assert found.check == "temperature" and 32 <= found.sequences <= 40
    assert told_temperature(found) == pytest.approx(value, rel=0.1)


def test_two_temperatures_are_one_finding(run):
    """A tenth of the sequences reported at another one, the others drawn at another one."""
    faulty, which = with_fault(run, temperature, 0.1, np.random.default_rng(1))
    others = np.setdiff1d(np.arange(300), which)
    sampling_temperature(faulty, others, np.random.default_rng(1))
    (found,) = (f for f in audited(faulty, entropies=True).findings if f.check == "temperature")
    assert "-log-prob that rollout's entropy says" in found.seen and "of about" in found.seen
    assert found.sequences > 290


def test_zeros_at_the_start_are_a_prompt_or_an_answer(run):
    """Which of both, the other side says: a model finds what it wrote likelier than what others did."""
    lengths = np.diff(run.offsets)
    first = np.concatenate([np.arange(b, b + n // 3) for b, n in zip(run.offsets[:30], lengths, strict=False)])
    for prompt, words in ((False, "may be the answer's own first ones"), (True, "as those of a prompt are")):
        rollout, train = run.rollout.copy(), run.train.copy()
        rollout[first] = 0.0
        if prompt:
            train[first] -= np.random.default_rng(0).exponential(2.5, first.size).astype(np.float32)
        (found,) = (f for f in audit(rollout, train, offsets=run.offsets).findings if f.check != "rounding")
        assert found.check == "masked_prompt" and words in found.seen
    assert "the engine gave no log-probs for the first ones" in found.advice


def test_one_placeholder_does_not_wipe_out_the_effect_of_other_findings(run):
    faulty, which = with_fault(run, shift, 0.1, np.random.default_rng(0))
    alone = {f.check: f.effect for f in audited(faulty).findings}
    faulty.train[faulty.offsets[np.setdiff1d(np.arange(300), which)[0]] + 2] = -np.inf
    found = {f.check: f.effect for f in audited(faulty).findings}
    assert found["infinite"][0] == np.inf and found["infinite"][1] < 0.1
    for check in alone:
        assert found[check] == pytest.approx(alone[check], rel=1e-2)
