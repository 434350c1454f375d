"""Every example on every page of docs/ gives the output printed under it."""

import doctest
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from kullback import tsne_objective

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page):
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    report = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    assert results.failed == 0, "".join(report)


@pytest.mark.integration
def test_the_lesson_on_maps_holds_for_a_map_of_scikit_learn():
    """Its affinities of a real data set are scikit-learn's, and so is the objective of scikit-learn's own map."""
    from sklearn.datasets import load_iris
    from sklearn.manifold import TSNE
    from sklearn.manifold._t_sne import _joint_probabilities

    points = np.unique(load_iris().data, axis=0)
    squared = ((points[:, None] - points) ** 2).sum(axis=-1)
    sys.path.insert(0, str(PAGES[0].parent))
    try:
        from lesson_pictures import computed
    finally:
        sys.path.pop(0)
    row, column, value = computed("from_data")["affinities"](squared, 30.0)
    theirs = np.zeros_like(squared)
    theirs[np.triu_indices(len(points), 1)] = _joint_probabilities(squared.astype(np.float32), 30.0, 0)
    np.testing.assert_allclose(value / value.sum(), (theirs + theirs.T)[row, column], atol=1e-7)
    made = TSNE(method="exact", init="pca", perplexity=30.0, random_state=0)
    place = made.fit_transform(points)
    # it reports the KL of the step before the last, in float32
    assert tsne_objective((row, column, value), place)[0] == pytest.approx(made.kl_divergence_, rel=1e-3)
