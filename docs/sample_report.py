"""docs/sample_report.html: the report of three simulated candidates, as `kullback compare --html` writes it."""

import numpy as np

from kullback.evaluation.job import compare_candidates
from kullback.evaluation.report import render_report

TEXT = (
    "the a of and to in is was it for on that with as his they at be this from have or by one had not but what all",
    "were when we there can an your which their said if do will each about how up out them then she",
)
WORDS = " ".join(TEXT).split()
ERRORS = {"q8_0": 0.02, "q6_k": 0.0201, "q4_k_m": 0.3}  # of the logits; two are nearly alike
SIZES = {"q8_0": 8.5e9, "q6_k": 6.6e9, "q4_k_m": 4.9e9}
DOCUMENTS, LENGTH = 40, 50
SUBJECTS = {"code": 1.6, "letters": 0.8, "news": 1.0, "tool calls": 2.2}  # how much harder than the others


def sample_report():
    """Documents differ in how hard they are, for all candidates alike; the seed is fixed."""
    rng = np.random.default_rng(16)
    shape = DOCUMENTS * LENGTH, len(WORDS)
    groups = np.arange(shape[0]) // LENGTH
    subjects = np.array(list(SUBJECTS))[groups % len(SUBJECTS)]
    harder = np.array(list(SUBJECTS.values()))[groups % len(SUBJECTS)]
    hard = (np.exp(rng.normal(0, 0.4, DOCUMENTS))[groups] * harder)[:, None]
    base = (2.5 * rng.normal(size=shape)).astype(np.float32)
    shares = np.exp(base - base.max(axis=1, keepdims=True))
    below = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True)
    tokens = np.minimum((below < rng.random((shape[0], 1))).sum(axis=1), shape[1] - 1)
    candidates = {
        name: (base + error * hard * rng.normal(size=shape)).astype(np.float32) for name, error in ERRORS.items()
    }
    found = compare_candidates(base, candidates, tokens=tokens, groups=groups, top_k=[1, 5], by={"subject": subjects})
    for summary in found.summaries:
        summary.parts["worst_tokens"].add_text(lambda ids: "".join(f" {WORDS[i]}" for i in ids))
    return render_report(found, title="Three simulated candidates against their base", sizes=SIZES)
