"""Fits in both directions against published optima and grid search; t-SNE by differences; contributions."""

import doctest

import numpy as np
import pytest
from scipy import optimize, sparse, stats

from kullback.closed_form import Categorical, Laplace, Mixture, MultivariateNormal, Normal, closed_form_kl, mixture_kl
from kullback.parametric import fit_mixture, fit_normal, fits, targets, tsne, tsne_objective
from kullback.rows import contributions, kl_contributions


def bimodal(m, s=1.0):
    return Mixture([0.5, 0.5], Normal([-m, m], s))


@pytest.mark.parametrize(("m", "kl"), [(4.0, 0.7235530265), (3.0, 0.4619946135), (2.0, 0.1719987625)])
def test_forward_fit_matches_moments(m, kl):
    fit = fit_normal(bimodal(m))
    assert float(fit.distribution.loc) == pytest.approx(0, abs=1e-12)
    assert float(fit.distribution.scale) ** 2 == pytest.approx(m * m + 1, rel=1e-12)
    assert fit.divergence == pytest.approx(kl, abs=1e-10)
    assert len(fit.optima) == 1


@pytest.mark.parametrize(
    ("m", "mean", "scale", "kl"),
    [
        (4.0, 3.99960174, 1.00079627, 0.6930529417),
        (3.0, 2.98430598, 1.02336856, 0.6887689959),
        (2.0, 0.0, 2.04700952, 0.2265079608),  # too close together to be two modes for the reverse fit
    ],
)
def test_reverse_fit_takes_one_mode_once_they_are_apart(m, mean, scale, kl):
    fit = fit_normal(bimodal(m), "reverse")
    assert abs(float(fit.distribution.loc)) == pytest.approx(mean, abs=1e-6)
    assert float(fit.distribution.scale) == pytest.approx(scale, abs=1e-6)
    assert fit.divergence == pytest.approx(kl, abs=1e-10)
    means = sorted(float(d.loc) for _, d in fit.optima[:2])
    assert means == pytest.approx([-mean, mean] if mean else [0.0], abs=1e-6)


def test_all_local_optima_of_a_reverse_fit_are_listed():
    target = bimodal(4.0)
    optima = fit_normal(target, "reverse").optima
    assert sorted(round(float(d.loc), 3) for _, d in optima) == [-4.0, 0.0, 4.0]
    value, wide = optima[-1]  # covering both modes is a local optimum too, nearly three times as far
    assert value == pytest.approx(mixture_kl(wide, target).value, rel=1e-10)
    for shift, factor in ((0.02, 1), (-0.02, 1), (0, 1.01), (0, 0.99)):
        near = Normal(float(wide.loc) + shift, float(wide.scale) * factor)
        assert mixture_kl(near, target).value > value
    assert len(fit_normal(target, "reverse", starts=1).optima) == 1


def test_a_component_that_collapses_onto_equal_samples_stops_at_the_floor():
    draws = np.concatenate([np.random.default_rng(2).normal(size=200), np.full(60, 3.0)])
    fit = fit_mixture(draws, 2, starts=2)
    assert fit.distribution.components.loc[1] == pytest.approx(3.0, abs=1e-6)
    assert fit.distribution.components.scale[1] == pytest.approx(1e-3 * draws.std(), rel=1e-3)
    assert fit.distribution.weights[1] == pytest.approx(60 / 260, rel=1e-3)


def test_fits_do_not_depend_on_the_unit():
    wide, narrow = fit_normal(bimodal(4.0), "reverse"), fit_normal(bimodal(2.0, 0.5), "reverse")
    assert narrow.divergence == pytest.approx(wide.divergence, rel=1e-12)
    assert abs(float(narrow.distribution.loc)) == pytest.approx(abs(float(wide.distribution.loc)) / 2, rel=1e-7)
    far = fit_normal(Mixture([0.5, 0.5], Normal([1e6 - 2, 1e6 + 2], 0.5)), "reverse")
    assert far.divergence == pytest.approx(wide.divergence, rel=1e-6)


def test_reverse_fit_against_direct_search():
    target = Mixture([0.2, 0.5, 0.3], Normal([-1.0, 0.5, 3.0], [0.5, 0.6, 1.0]))

    def objective(theta):
        return mixture_kl(Normal(theta[0], np.exp(theta[1])), target).value

    options = {"xatol": 1e-9, "fatol": 1e-14}
    best = min(
        (optimize.minimize(objective, [m, 0.0], method="Nelder-Mead", options=options) for m in (-1, 0.5, 3)),
        key=lambda r: r.fun,
    )
    fit = fit_normal(target, "reverse")
    assert fit.divergence == pytest.approx(best.fun, rel=1e-9)
    assert [float(fit.distribution.loc), float(np.log(fit.distribution.scale))] == pytest.approx(best.x, abs=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_gaussian_target_is_found_exactly(direction):
    for target in (
        Mixture([1.0], Normal([2.0], 0.3)),
        (np.linspace(-1, 5, 4001), 7 * stats.norm(2.0, 0.3).pdf(np.linspace(-1, 5, 4001))),
    ):
        fit = fit_normal(target, direction)
        assert float(fit.distribution.loc) == pytest.approx(2.0, abs=1e-8)
        assert float(fit.distribution.scale) == pytest.approx(0.3, rel=1e-6)
        assert 0 <= fit.divergence < 1e-12


def test_callable_grid_and_samples_agree():
    def log_density(x):
        return -np.abs(x - 1.0) / 0.5 + 3.0  # a Laplace, up to a constant

    by_callable = fit_normal(log_density, bounds=(-19.0, 21.0))
    assert float(by_callable.distribution.scale) == pytest.approx(np.sqrt(0.5), rel=1e-6)
    want = closed_form_kl(Laplace(1.0, 0.5), by_callable.distribution)
    assert by_callable.divergence == pytest.approx(float(want), rel=1e-6)
    x = np.linspace(-19, 21, 20_001)
    by_grid = fit_normal((x, np.exp(log_density(x))))
    assert by_grid.divergence == pytest.approx(by_callable.divergence, rel=1e-4)

    draws = np.random.default_rng(0).laplace(1.0, 0.5, 50_000)
    by_samples = fit_normal(draws)
    assert float(by_samples.distribution.loc) == pytest.approx(draws.mean(), rel=1e-12)
    assert float(by_samples.distribution.scale) == pytest.approx(draws.std(), rel=1e-12)
    assert np.isnan(by_samples.divergence)
    want = -stats.norm(draws.mean(), draws.std()).logpdf(draws).mean()
    assert by_samples.cross_entropy == pytest.approx(want, rel=1e-12)


def test_a_mixture_is_recovered_in_both_directions():
    truth = Mixture([0.3, 0.7], Normal([-2.0, 1.0], [0.5, 1.0]))
    for direction in ("forward", "reverse"):
        fit = fit_mixture(truth, 2, direction, starts=4)
        assert fit.distribution.weights == pytest.approx([0.3, 0.7], abs=1e-5)
        assert fit.distribution.components.loc == pytest.approx([-2, 1], abs=1e-5)
        assert fit.distribution.components.scale == pytest.approx([0.5, 1], abs=1e-5)
        assert 0 <= fit.divergence < 1e-10
    draws = truth.sample(5000, np.random.default_rng(1))
    fit = fit_mixture(draws, 2, starts=3)
    assert fit.distribution.components.loc == pytest.approx([-2, 1], abs=0.1)
    assert fit.cross_entropy <= -truth.log_density(draws).mean()


def test_more_components_fit_no_worse():
    target = Mixture([0.2, 0.5, 0.3], Normal([-3.0, 0.5, 3.0], [0.5, 0.6, 1.0]))
    values = [fit_mixture(target, k, starts=3).divergence for k in (1, 2, 3)]
    assert values[0] == pytest.approx(fit_normal(target).divergence, rel=1e-6)
    assert values[0] > values[1] > values[2] >= 0 and values[2] < 1e-8


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_fit_gradient_by_differences(direction):
    points = targets.as_target(bimodal(2.0), None)
    theta = np.array([0.1, -0.2, 0.3, -1.0, 0.5, 2.0, 0.2, -0.3, 0.1])
    value, gradient = fits._objective(theta, points, direction)
    assert np.isfinite(value)
    numeric = optimize.approx_fprime(theta, lambda t: fits._objective(t, points, direction)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, atol=2e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_normal(lambda x: -(x**2)), "`bounds` is None"),
        (lambda: fit_normal(lambda x: -(x**2), bounds=(1, 0)), "`bounds` is"),
        (lambda: fit_normal(lambda x: x[:3], bounds=(0, 1)), "`target` must return one log density"),
        (lambda: fit_normal(lambda x: x - np.inf, bounds=(0, 1)), "`target` has no mass"),
        (lambda: fit_normal(np.arange(5.0), "reverse"), "`target` is samples"),
        (lambda: fit_normal(np.arange(5.0), bounds=(0, 9)), "`bounds` is .0, 9., expected None"),
        (lambda: fit_normal(([0, 1, 2], [0, 1, 0]), bounds=(0, 9)), "`bounds` is .0, 9., expected None"),
        (lambda: fit_normal(([0, 1, 2, 3], [0, 1, 2, 0]), "reverse"), "`target` is zero in places"),
        (lambda: fit_normal(([0, 2, 1], [1, 1, 1])), "`target` has grid shapes"),
        (lambda: fit_normal(([0, 1, 2], [1, -1, 1])), "`target` density"),
        (lambda: fit_normal(np.ones(5)), "all its mass at one point"),
        (lambda: fit_normal([1.0, np.nan]), "`target` has shape"),
        (lambda: fit_normal(np.arange(5.0), "sideways"), "`direction` is 'sideways'"),
        (lambda: fit_mixture(np.arange(5.0), 0), "`components` is 0"),
        (lambda: fit_mixture(np.arange(5.0), 2, starts=0), "`starts` is 0"),
        (lambda: fit_normal(Mixture([1.0], MultivariateNormal([[0.0]], [[1.0]]))), "mixture over vectors"),
    ],
)
def test_bad_targets_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- t-SNE ---------------------------------------------------------------------------------------


def affinities(n, density, seed):
    generator = np.random.default_rng(seed)
    half = sparse.random(n, n, density, format="coo", random_state=generator)
    p = sparse.coo_matrix(half + half.T)
    p.setdiag(0)
    p.eliminate_zeros()
    return sparse.coo_matrix(p / p.sum()), generator.normal(size=(n, 2))


def dense_tsne(p, y, nu):
    squared = ((y[:, None] - y[None]) ** 2).sum(-1)
    kernel = (1 + squared / nu) ** (-(nu + 1) / 2)
    np.fill_diagonal(kernel, 0)
    live = p > 0
    return (p[live] * np.log(p[live] / (kernel / kernel.sum())[live])).sum()


@pytest.mark.parametrize("nu", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("block", [1 << 18, 50])
def test_tsne_value_and_gradient(nu, block, monkeypatch):
    monkeypatch.setattr(tsne, "_BLOCK", block)
    p, y = affinities(24, 0.2, 3)
    value, gradient = tsne_objective(p, y, degrees_of_freedom=nu)
    assert value == pytest.approx(dense_tsne(p.toarray(), y, nu), rel=1e-12)
    numeric = optimize.approx_fprime(y.ravel(), lambda v: dense_tsne(p.toarray(), v.reshape(y.shape), nu), 1e-7)
    np.testing.assert_allclose(gradient.ravel(), numeric, atol=1e-6)


def test_tsne_takes_any_sparse_form_and_one_sided_pairs():
    p, y = affinities(30, 0.1, 4)
    value, gradient = tsne_objective(p, y)
    for same in (p.tocsr(), sparse.csr_array(p), (p.row, p.col, 5 * p.data)):
        other, slope = tsne_objective(same, y)
        assert other == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(slope, gradient, rtol=1e-10, atol=1e-15)
    doubled = (
        np.concatenate([p.row, p.row]),
        np.concatenate([p.col, p.col]),
        np.concatenate([p.data, p.data]),
    )
    assert tsne_objective(doubled, y)[0] == pytest.approx(value, rel=1e-13)
    upper = sparse.coo_matrix(sparse.triu(p))
    other, slope = tsne_objective(upper, y)
    numeric = optimize.approx_fprime(
        y.ravel(), lambda v: dense_tsne(upper.toarray() / upper.sum(), v.reshape(y.shape), 1.0), 1e-7
    )
    np.testing.assert_allclose(slope.ravel(), numeric, atol=1e-6)


def test_tsne_is_zero_where_the_embedding_has_the_affinities():
    _, y = affinities(12, 0.5, 5)
    kernel = 1 / (1 + ((y[:, None] - y[None]) ** 2).sum(-1))
    np.fill_diagonal(kernel, 0)
    value, gradient = tsne_objective(sparse.coo_matrix(kernel), y)
    assert 0 <= value < 1e-15
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


@pytest.mark.integration
@pytest.mark.parametrize("nu", [1, 2])
def test_tsne_equals_scikit_learn(nu):
    from scipy.spatial.distance import squareform
    from sklearn.manifold._t_sne import _kl_divergence

    p, y = affinities(40, 0.9, 6)
    dense = p.toarray() + 1e-12
    np.fill_diagonal(dense, 0)
    dense /= dense.sum()
    want, slope = _kl_divergence(y.ravel(), squareform(dense, checks=False), nu, 40, 2)
    value, gradient = tsne_objective(sparse.coo_matrix(dense), y, degrees_of_freedom=nu)
    assert value == pytest.approx(want, rel=1e-10)
    if nu == 1:  # for others its gradient (version 1.9) is not that of its value: it repeats the kernel's power
        np.testing.assert_allclose(gradient, slope.reshape(40, 2), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (([0], [1], [-1.0]), ValueError, "`affinities` must be finite"),
        (([0], [0], [1.0]), ValueError, "on the diagonal"),
        (([0], [3], [1.0]), ValueError, "outside"),
        (([0, 1], [1], [1.0]), ValueError, "parts of shape"),
        (([0.5], [1], [1.0]), TypeError, "indices of dtype float64"),
        (([0], [1], [0.0]), ValueError, "not all zero"),
        (sparse.eye(4), ValueError, r"`affinities` has shape \(4, 4\)"),
        (np.eye(3), TypeError, "`affinities` is ndarray"),
    ],
)
def test_bad_affinities_are_named(given, error, message):
    with pytest.raises(error, match=message):
        tsne_objective(given, np.arange(6.0).reshape(3, 2))


def test_bad_embeddings_are_named():
    with pytest.raises(ValueError, match="`embedding` has shape"):
        tsne_objective(([0], [1], [1.0]), [1.0, 2.0])
    with pytest.raises(ValueError, match="`degrees_of_freedom` is 0"):
        tsne_objective(([0], [1], [1.0]), [[1.0], [2.0]], degrees_of_freedom=0)


# ---- contributions -------------------------------------------------------------------------------


def test_contributions_sum_to_the_divergence():
    generator = np.random.default_rng(8)
    p, q = generator.gamma(0.3, size=(2, 5, 40))
    want = closed_form_kl(Categorical(p), Categorical(q))
    share_p, share_q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    plain, generalized = kl_contributions(p, q, kind="plain"), kl_contributions(p, q)
    np.testing.assert_allclose(plain, share_p * np.log(share_p / share_q), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(generalized, plain - share_p + share_q, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(plain.sum(-1), want, rtol=1e-12)
    np.testing.assert_allclose(generalized.sum(-1), want, rtol=1e-12)
    assert (generalized >= 0).all() and (plain < 0).any()
    np.testing.assert_allclose(kl_contributions(p, q, base=2), generalized / np.log(2), rtol=1e-14)


def test_contributions_of_empty_outcomes():
    p, q = [0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]
    assert kl_contributions(p, q).tolist() == [0, np.inf, 0.5, 0]
    assert kl_contributions(p, q, kind="plain").tolist() == [0, np.inf, 0, 0]
    assert (kl_contributions([1, 2, 3], [2, 4, 6]) == 0).all()


@pytest.mark.parametrize(
    ("p", "q", "options", "message"),
    [
        ([-1, 2], [1, 1], {}, "`p` is -1.0 at index"),
        ([1, 1], [0, 0], {}, "`q` has a row that sums to 0"),
        ([1, 1], [1, 1, 1], {}, r"`q` has shape \(3,\), expected a last axis of 2"),
        (np.ones((2, 3)), np.ones((4, 3)), {}, r"`q` has shape \(4, 3\)"),
        ([1, 1], [1, 1], {"kind": "fancy"}, "`kind` is 'fancy'"),
        ([1, 1], [1, 1], {"base": 0}, "`base` is 0"),
    ],
)
def test_bad_measures_are_named(p, q, options, message):
    with pytest.raises(ValueError, match=message):
        kl_contributions(p, q, **options)


@pytest.mark.parametrize("module", [fits, tsne, contributions], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
