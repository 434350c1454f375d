"""Which tokens of an audit are sound, which sources are bad, and what is said of it: one rule, in words that count."""

import numpy as np
import pytest
from rollout_runs import (
    FAULTS,
    WITH_ENTROPIES,
    audited,
    bad_source,
    clean_run,
    sampling_temperature,
    shift,
    with_fault,
)

from kullback.rlhf import AUDIT_CHECKS, audit

RNG = np.random.default_rng(8)
UNSOUND = {
    "infinite", "missing", "sentinel", "probabilities", "positive", "zero_filled", "constant", "length", "shift",
    "unrelated",
}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return clean_run(3, 300)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_finding_leaves_its_tokens_out_or_says_that_it_does_not(run, fault):
    """What is no log-prob of its token is left out, all of it and nothing else."""
    share = 1.0 if fault in WITH_ENTROPIES else 0.1
    faulty, _ = with_fault(run, fault, share, np.random.default_rng(1))
    report = audited(faulty, entropies=fault in WITH_ENTROPIES)
    for found in report.findings:
        assert found.unsound == (found.check in UNSOUND or fault.__name__ == "empty_prompt"), found
        if found.unsound:
            assert report.unsound[found.check] == found.tokens
    assert report.mismatch.tokens == report.tokens - sum(report.unsound.values()) == report.sound.sum()
    tree = report.to_dict()
    assert (tree["sound_tokens"], tree["unsound"]) == (report.mismatch.tokens, report.unsound)
    words = report.sound_in_words
    for check, count in report.unsound.items():
        assert f"{check} ({count}" in words
    stay = {found.check for found in report.findings if not found.unsound and found.severity != "note"}
    assert (f"; those of {', '.join(sorted(stay))} are among them" in words) == bool(stay)
    assert UNSOUND | stay <= AUDIT_CHECKS.keys()


def test_the_sound_tokens_in_words():
    rollout = -RNG.exponential(0.5, (30, 40))
    train = np.minimum(rollout + RNG.normal(0, 0.01, rollout.shape), 0)
    assert audit(rollout, train).sound_in_words == "all tokens are sound"
    rollout[3, 4] = -9999.0
    report = audit(rollout, train)
    assert report.sound_in_words == "1199 of 1200 tokens are sound, without those of sentinel (1)"
    text = str(report)
    assert "1 token (0.0833 %) in 1 sequence (3.33 %); at sequence:position 3:4" in text
    assert "KL (k3) is inf with it and" in text and text.endswith(report.sound_in_words)
    alone = audit(rollout[3:4, 4:5], train[3:4, 4:5])
    assert "1 token (all) in 1 sequence (all)" in str(alone) and "with it; no token is left without" in str(alone)
    assert "0 of 1 token are sound" in str(alone) and repr(alone) == "<AuditReport of 1 token: 1 finding>"


def test_a_few_sequences_of_another_name_are_counted_too():
    """Of 80 sequences that are a token late one is too short to show it: its zeros look like fills."""
    run = clean_run(1, 240, 60)
    for b in range(0, 240, 3):
        own = slice(*run.offsets[b : b + 2])
        run.train[own] = np.roll(run.train[own], 1)
    report = audited(run)
    assert [found.check for found in report.findings] == ["shift"] and list(report.unsound) == ["shift", "zero_filled"]
    assert f"zero_filled ({report.unsound['zero_filled']}, too few for a finding)" in report.sound_in_words
    assert report.mismatch.tokens == report.tokens - sum(report.unsound.values())


def two_sources(times, count=60, tokens=80, named=("math", "code")):
    """Sources that differ in nothing but that the differences of the first are so many times as large."""
    rng = np.random.default_rng(2)
    odds = rng.normal(1.0, 2.0, (count, tokens))
    noise = 0.02 * rng.normal(size=odds.shape)
    noise[:: len(named)] *= times
    sides = (-np.logaddexp(0.0, -x) for x in (odds, odds + noise))
    return audit(*sides, sources=[named[i % len(named)] for i in range(count)])


@pytest.mark.parametrize("named", [("math", "code"), ("math", "code", "chat", "tools")])
def test_a_bad_source_is_told_by_a_stated_test_and_effect(named):
    """Against the others, not against the middle of all: of two sources the middle was half of what they differ by."""
    assert not two_sources(1.8, named=named).findings
    assert not two_sources(1 / 1.8, named=named).findings
    (found,) = two_sources(3.0, named=named).findings
    assert (found.check, found.unsound) == ("bad_source", False)
    whom = "source, 'code'" if len(named) == 2 else "3 sources"
    times = float(found.seen.split(" has ")[1].split()[0])
    assert times == pytest.approx(3.0, rel=0.1)
    assert f"times the differences of log-odds of the other {whom}, in the median of" in found.seen
    assert f"from 2 times on, if chance gives as much to any of {len(named)} sources in less than 0.001" in found.seen
    assert "an environment with another sampler" in found.advice


def test_sources_of_two_kinds_are_told_apart(run):
    """A worker and an environment: whichever it is, it is named with its kind."""
    rng = np.random.default_rng(0)
    sources = {"worker": [f"w{i % 4}" for i in range(300)], "env": rng.choice(["math", "code", "chat"], 300).tolist()}
    for kind, label in (("worker", "w2"), ("env", "math")):
        which = np.flatnonzero(np.array(sources[kind]) == label)
        for fault, check in ((bad_source, "bad_source"), (shift, "shift")):
            faulty = run.copy()
            fault(faulty, which, np.random.default_rng(1))
            report = audit(faulty.rollout, faulty.train, offsets=run.offsets, sources=sources)
            found = report.findings[0]
            assert found.check == check
            expected = f"all of {kind} {label!r}, which" if check == "shift" else f"{kind} {label!r} has"
            assert expected in found.seen and found.seen.count("which has") <= 1
        assert report.sequences["source"][0] == f"worker w0, env {sources['env'][0]}"


def test_entropies_tell_which_environment_was_sampled_hotter_beside_workers(run):
    """Each worker has a third of the environment, and is no cause of it."""
    sources = {"worker": [i % 4 for i in range(300)], "env": [("math", "code", "chat")[i % 3] for i in range(300)]}
    faulty = run.copy()
    own = np.arange(0, 300, 3)
    sampling_temperature(faulty, own, np.random.default_rng(1))
    entropy = {"rollout_entropy": faulty.rollout_entropy}
    report = audit(faulty.rollout, faulty.train, offsets=run.offsets, sources=sources, **entropy)
    (found,) = (f for f in report.findings if f.check == "temperature")
    assert found.sequences == own.size and "(math)" in found.seen


def test_sources_of_parts_need_not_be_the_same():
    """One part knows workers, one nothing, one a single label: they merge, and rows without a label have none."""
    rollout = -RNG.exponential(0.5, (30, 20))
    train = np.minimum(rollout + RNG.normal(0, 0.01, rollout.shape), 0)
    given = ({"worker": ["a"] * 9 + [None]}, None, ["b"] * 10)
    parts = [
        audit(rollout[i : i + 10], train[i : i + 10], sources=x, sequence_ids=np.arange(i, i + 10))
        for i, x in zip((0, 10, 20), given, strict=True)
    ]
    table = parts[2].merge(parts[:2]).sequences["source"]
    assert table.tolist() == ["worker a"] * 9 + [""] * 11 + ["b"] * 10
    with pytest.raises(ValueError, match=r"`sources\['env'\]` has 2 labels, expected 30"):
        audit(rollout, train, sources={"env": ["a", "b"]})


def test_two_sides_have_what_one_has():
    """ "rollout and train is exactly 0" it said."""
    rollout = -RNG.exponential(0.5, (30, 40)) - 0.1
    train = rollout + RNG.normal(0, 0.01, rollout.shape)
    rollout[3, 4:9], train[5, 6:12], rollout[7, 7], train[8, 8] = 0.0, 0.0, np.nan, np.nan
    rollout[[9, 10, 11]], rollout[3, 4:9], train[3, 4:9] = -5.0, 0.0, -3.0
    train[5, 6:12], rollout[5, 6:12], train[[9, 10, 11]] = 0.0, -3.0, -1.0 - RNG.random((3, 40))
    seen = {found.check: found.seen for found in audit(rollout, train).findings}
    assert seen["zero_filled"] == "rollout and train are exactly 0 where the other side is not"
    assert seen["missing"] == "rollout and train have NaN where the mask keeps a token"
    assert seen["constant"].startswith("rollout has one number")


def test_few_sequences_do_not_make_a_source_bad():
    """Twice and more, but by chance as well: a source of one short sequence."""
    run = clean_run(1, 64)
    faulty, _ = with_fault(run, bad_source, 1 / 64, np.random.default_rng(0))
    own = np.concatenate([np.arange(a, a + 3) for a in faulty.offsets[:-1]])
    report = audit(faulty.rollout[own], faulty.train[own], offsets=np.arange(65) * 3, sources=faulty.sources)
    assert not {found.check for found in report.findings} & {"bad_source"}


def test_what_is_one_value_a_token_may_be_a_list_of_arrays(run):
    """Entropies, ids and a mask beside sides of any lengths."""
    split = {name: np.split(getattr(run, name), run.offsets[1:-1]) for name in ("rollout", "train", "tokens")}
    entropy = np.split(run.rollout_entropy, run.offsets[1:-1])
    packed = audit(run.rollout, run.train, offsets=run.offsets, tokens=run.tokens, rollout_entropy=run.rollout_entropy)
    assert audit(**split, rollout_entropy=entropy) == packed
    masks = [np.arange(x.size) >= 3 for x in entropy]
    masked = audit(
        run.rollout, run.train, np.concatenate(masks), offsets=run.offsets, train_entropy=run.rollout_entropy
    )
    assert audit(split["rollout"], split["train"], masks, train_entropy=entropy) == masked
    shorter = [x[:-1] if i == 5 else x for i, x in enumerate(split["train"])]
    cut = audit(split["rollout"], shorter, rollout_entropy=entropy, tokens=split["tokens"])
    assert cut.tokens == packed.tokens - 1
    fitting = [x[: y.size] for x, y in zip(entropy, shorter, strict=True)]
    assert cut == audit(split["rollout"], shorter, rollout_entropy=fitting, tokens=split["tokens"])
    with pytest.raises(ValueError, match=r"`rollout_entropy` has 299 arrays, expected 300: one a sequence"):
        audit(split["rollout"], split["train"], rollout_entropy=entropy[1:])
    wrong = [*entropy[:-1], entropy[-1][:3]]
    with pytest.raises(ValueError, match=r"`rollout_entropy` has an array of shape \(3,\) at 299, expected \(\d+,\)"):
        audit(split["rollout"], split["train"], rollout_entropy=wrong)


def test_nested_lists_with_a_mask_are_a_matrix():
    rollout, train = [[-1.0, -0.5], [-0.25, -2.0]], [[-1.0, -0.5], [-0.5, -2.0]]
    report = audit(rollout, train, [[1, 1], [0, 1]])
    assert report.sound.shape == (2, 2) and report.tokens == 3
