"""What a comparison comes to in words: the ranking, who is told from whom, what to ship, and where nothing is said."""

import io

import numpy as np
import pytest

from kullback.comparison import holm
from kullback.evaluation.job import compare_candidates
from kullback.evaluation.ranking import rank
from kullback.evaluation.report import render_report
from kullback.evaluation.terminal import print_comparison
from kullback.evaluation.verdict import left_out, verdict_of_many, verdict_of_one

T, V = 600, 40


def base(documents):
    rng = np.random.default_rng(1)
    return rng.normal(0, 3, (T, V)), np.arange(T) * documents // T


def candidates(p, noises):
    return {f"q{i}": p + noise * np.random.default_rng(10 + i).normal(0, 1, p.shape) for i, noise in enumerate(noises)}


def compared(noises, documents=30, grouped=True):
    p, groups = base(documents)
    return compare_candidates(p, candidates(p, noises), groups=groups if grouped else None)


def words(found, **keywords):
    return " ".join(verdict_of_many(found, rank(found), **keywords))


@pytest.fixture(scope="module")
def found():
    return compared((0.3, 0.02, 0.02))


def test_a_ranking_holds_the_differences_of_the_comparison(found):
    ranking = rank(found)
    assert ranking.order == sorted(found, key=lambda name: found[name].kl.mean)
    assert ranking.order[2] == "q0"
    tests = [found.difference(test.high, test.low).kl for test in ranking.pairs]
    assert [test.difference.mean for test in ranking.pairs] == [d.mean for d in tests]
    assert [test.adjusted for test in ranking.pairs] == holm([d.p_value for d in tests])
    assert len(ranking.pairs) == 3
    assert ranking.alike == ranking.order[:2]


def test_what_cannot_be_told_apart_is_not_called_equal(found):
    best, second, _ = rank(found).order
    text = words(found)
    assert f"{best} has the lowest mean KL" in text
    assert f"{second} cannot be told from it (95 %, paired by 30 documents or chunks)" in text
    assert f"not to say equal: {second} may be up to" in text
    assert "Shown to be higher: q0." in text
    assert f"one of {best} and {second}; not all their sizes are known" in text


def test_the_rule_takes_the_smallest_of_those(found):
    best, second, _ = rank(found).order
    text = words(found, sizes={"q0": 1, best: 9e9, second: 4.5e9})
    assert text.endswith(f"{second}, of 4.50 GB.")


def test_one_that_is_told_from_all_others():
    found = compared((0.3, 0.02))
    text = words(found)
    low, _ = found.difference("q0", "q1").kl.interval()
    assert "q1 is nearest to the base" in text
    assert f"by {low:.3g}" in text
    assert text.endswith("q1, which is the only one.")


@pytest.mark.parametrize("documents", [1, 4])
def test_no_verdict_from_few_documents(documents):
    found = compared((0.3, 0.02), documents)
    text = words(found)
    assert "no verdict on whether that is more than chance" in text
    assert "too few" in text
    assert "To ship" not in text
    page = render_report(found)
    assert "There is no verdict" in page
    assert "unknown" in page


def test_tokens_without_documents_are_said_to_be_taken_as_independent():
    assert "tokens as independent" in words(compared((0.3, 0.02), grouped=False))


def test_summaries_alone_have_no_differences(found):
    page = render_report(found.summaries)
    assert "compare_candidates does" in page
    assert "Who differs from whom" not in page


def test_an_infinite_mean_is_told_from_one_that_is_not():
    p, groups = base(30)
    both = candidates(p, (0.3, 0.02))
    both["q1"][5, 3] = -np.inf
    ranking = rank(found := compare_candidates(p, both, groups=groups))
    assert ranking.order == ["q0", "q1"]
    assert ranking.alike == ["q0"]
    assert "q0 is nearest to the base" in words(found)
    assert "1 row where q is 0 and p is not" in " ".join(left_out(found["q1"]))


def test_many_candidates_are_told_from_their_neighbours():
    noises = [0.05 * 1.1**i for i in range(8)]
    found = compared(noises)
    ranking = rank(found)
    assert [(t.low, t.high) for t in ranking.pairs] == list(zip(ranking.order, ranking.order[1:], strict=False))
    assert list(ranking.to_best) == ranking.order[1:]
    page = render_report(found)
    assert page.count('class="dot c0"') > 0
    assert "The nearest 6 are drawn" in page
    assert all(name in page for name in found)


def test_the_terminal_ends_the_tables_of_candidates_with_the_verdict(found):
    out = io.StringIO()
    print_comparison(found, out)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "To ship, by the rule" in " ".join(text.split())


def test_one_candidate_is_said_in_words():
    p, groups = base(30)
    q = p + 0.1 * np.random.default_rng(3).normal(0, 1, p.shape)
    q[7, 0] = np.nan
    one = compare_candidates(p, {"q": q}, groups=groups)["q"]
    said = dict(verdict_of_one(one))
    assert "a token on average" in said["How far"]
    assert "30 documents or chunks as the independent draws" in said["How sure"]
    assert "1 row of 600 without a distribution" in said["Left out"]
    few = dict(verdict_of_one(compared((0.1,), 3)["q0"]))
    assert "no interval: 3 groups: too few" in few["How sure"]
    assert few["Left out"].startswith("Nothing")
    alone = dict(verdict_of_one(compared((0.1,), grouped=False)["q0"]))
    assert "less sure than that" in alone["How sure"]


def test_a_kl_of_the_size_of_rounding_is_said_to_be_that():
    p = base(30)[0].astype(np.float16)
    q = (p.astype(np.float64) * (1 + 1e-5)).astype(np.float32)
    said = dict(verdict_of_one(compare_candidates(p, {"q": q})["q"]))
    assert "no more than that says by itself" in said["Beside rounding"]


def test_sizes_must_name_candidates(found):
    with pytest.raises(ValueError, match="'nobody', which is none of the candidates"):
        render_report(found, sizes={"nobody": 1})
