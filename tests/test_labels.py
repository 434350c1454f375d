"""Labels of pandas and Polars: where they differ, positions are not what was meant."""

import numpy as np
import pytest

import kullback as kb
from kullback import closed_form, samples
from kullback.closed_form import gaussian_kl, vae_kl
from kullback.distillation import cross_entropy_loss

S = np.random.default_rng(7).normal(0, 2, (5, 13))


@pytest.mark.integration
def test_labels_that_differ_are_refused_wherever_two_things_meet():
    pandas = pytest.importorskip("pandas")

    def turned(x):
        return x.iloc[::-1]

    counts = pandas.Series([3.0, 2.0, 1.0], ["a", "b", "c"])
    frame = pandas.DataFrame(np.exp(S[:3, :3]), columns=["a", "b", "c"])
    other = frame[["c", "b", "a"]]
    identity = pandas.DataFrame(np.eye(3), ["a", "b", "c"], ["a", "b", "c"])
    rows = pandas.Series([0, 1, 2], [2, 1, 0])
    for call in (
        lambda: samples.divergence_from_counts(counts, turned(counts)),
        lambda: samples.divergence_from_counts(frame, turned(counts)),
        lambda: samples.likelihood_parts(counts, turned(counts)),
        lambda: kb.divergence_matrix(frame, other),
        lambda: samples.wasserstein_distance(counts, counts, turned(counts)),
        lambda: samples.wasserstein_distance_histograms(counts, turned(counts), [0, 1, 2]),
        lambda: samples.smooth(counts, ("jelinek", 0.5, turned(counts))),
        lambda: samples.knn_kl_divergence(frame, other, 1),
        lambda: gaussian_kl(counts, turned(counts), 0.0, 1.0),
        lambda: vae_kl(counts, turned(counts)),
        lambda: kb.preference_scores(counts, lengths=turned(counts)),
        lambda: kb.token_log_probs(frame, rows),
        lambda: kb.token_statistics(frame, rows),
        lambda: kb.compare(frame, frame, rows),
        lambda: cross_entropy_loss(frame, rows),
        lambda: samples.knn_mutual_information(frame, turned(frame), 1),
        lambda: kb.distillation_loss(frame, frame, labels=rows),
        lambda: kb.distillation_loss(frame, frame, mask=rows > 0),
        lambda: kb.distillation_loss(frame, frame, weights=rows),
        lambda: kb.linear_distillation_loss(frame, np.eye(3), frame, np.eye(3), mask=rows > 0),
        lambda: kb.linear_distillation_loss(frame, np.eye(3), turned(frame), np.eye(3)),
        lambda: cross_entropy_loss(frame, [0, 1, 2], mask=rows > 0),
        lambda: cross_entropy_loss(frame, [0, 1, 2], weights=rows),
        lambda: kb.entropy_gradient(frame, rows),
        lambda: kb.token_log_prob_gradient(frame, [0, 1, 2], rows),
        lambda: kb.tail_weights(rows, 0.5, frame > 0),
        lambda: closed_form.Normal(counts, turned(counts)),
        lambda: closed_form.DiagonalNormal(counts, turned(counts)),
        lambda: closed_form.Uniform(counts - 5.0, turned(counts)),
        lambda: closed_form.MultivariateNormal(counts, turned(identity)[identity.columns[::-1]]),
        lambda: closed_form.Mixture(counts, closed_form.Normal(turned(counts), 1.0)),
        lambda: kb.closed_form_kl(closed_form.Normal(counts, 1.0), closed_form.Normal(0.0, turned(counts))),
        lambda: kb.closed_form_kl(closed_form.Categorical(counts), closed_form.Categorical(turned(counts))),
    ):
        with pytest.raises(ValueError, match=r"has another (index|columns) than"):
            call()
    same = closed_form.Normal(counts, counts)
    assert kb.closed_form_kl(same, same).tolist() == [0.0] * 3
    assert closed_form.MultivariateNormal(counts, identity).batch_shape == ()
    assert closed_form.Mixture(counts, same).dimensions == 1
    kb.distillation_loss(frame, frame, labels=rows.set_axis(frame.index), mask=frame["a"] > 0, weights=frame["b"])
    assert samples.divergence_from_counts(counts, counts).value == 0
    kb.token_log_probs(frame, rows.set_axis(frame.index))


@pytest.mark.integration
def test_columns_of_polars_are_labels():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [0.2, 0.3], "b": [0.8, 0.7]})
    assert (kb.kl_divergence(frame, frame) == 0).all()
    with pytest.raises(ValueError, match="`q` has another columns than `p`"):
        kb.kl_divergence(frame, frame.select("b", "a"))


class Labelled:
    """What of xarray's DataArray is looked at: names of dimensions, labels along them, the values."""

    def __init__(self, values, dims, **labels):
        self.values, self.dims, self.ndim = np.asarray(values), dims, np.ndim(values)
        self.indexes = {name: Index(x) for name, x in labels.items()}

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.values.dtype)


class Index(list):
    def equals(self, other):
        return list(self) == list(other)


Labelled.__module__ = "xarray.core.dataarray"


def test_labels_of_xarray_are_compared():
    p = Labelled(np.exp(S[:, :3]), ("t", "v"), v=["a", "b", "c"], t=[0, 1, 2, 3, 4])
    assert (kb.kl_divergence(p, p) == 0).all()
    assert (kb.kl_divergence(p, Labelled(p.values, ("t", "v"))) == 0).all()  # nothing is said of its columns
    with pytest.raises(ValueError, match="`q` has another index along 'v' than `p`"):
        kb.kl_divergence(p, Labelled(p.values, ("t", "v"), v=["c", "b", "a"]))
    square = p.values[:3]
    with pytest.raises(ValueError, match="`q` has another order of dimensions"):
        kb.kl_divergence(Labelled(square, ("t", "v")), Labelled(square, ("v", "t")))
    with pytest.raises(ValueError, match="`tokens` has another index along 't' than `logits`"):
        kb.token_log_probs(p, Labelled([0, 1, 2, 0, 1], ("t",), t=[4, 3, 2, 1, 0]))
    kb.token_log_probs(p, Labelled([0, 1, 2, 0, 1], ("t",), t=[0, 1, 2, 3, 4]))


@pytest.mark.integration
def test_labels_of_xarray_itself():
    xarray = pytest.importorskip("xarray")
    p = xarray.DataArray(np.exp(S[:, :3]), dims=("t", "v"), coords={"v": ["a", "b", "c"]})
    assert (kb.kl_divergence(p, p) == 0).all()
    for q in (p.assign_coords(v=["c", "b", "a"]), p[:3].rename(t="v", v="t")):
        with pytest.raises(ValueError, match="`q` has another"):
            kb.kl_divergence(p[: len(q)], q)
