"""Nonsense for one argument: one error that names it and says what was expected, wherever it is given."""

import datetime
import decimal
import fractions
import itertools

import misuse_arguments
import numba
import numpy as np
import pytest

import kullback as kb
from kullback import closed_form, drift, rlhf
from kullback.parametric import registry

ROWS = np.random.default_rng(5).uniform(0.1, 1.0, (3, 5))
IDS = np.array([0, 4, 2])
POINTS, OTHERS = np.random.default_rng(6).normal(size=(2, 40, 2))
NORMAL = closed_form.Normal(0.0, 1.0)
LISTS = np.array([[0, 2]] * 3), np.full((3, 2), -1.0)
COUNTS = np.array([3, 4, 5])

FLAGS = {
    "normalize": [
        lambda x: kb.kl_divergence(ROWS, ROWS, normalize=x),
        lambda x: kb.cross_entropy(ROWS, ROWS, normalize=x),
        lambda x: kb.entropy(ROWS, normalize=x),
    ],
    "gradient": [
        lambda x: kb.cross_entropy_loss(ROWS, IDS, gradient=x),
        lambda x: kb.topk_divergence(ROWS, LISTS, gradient=x),
        lambda x: kb.linear_distillation_loss(ROWS, ROWS, ROWS, ROWS, gradient=x),
    ],
    "temperature_squared": [
        lambda x: kb.distillation_loss(ROWS, ROWS, temperature_squared=x),
        lambda x: kb.linear_distillation_loss(ROWS, ROWS, ROWS, ROWS, temperature_squared=x),
    ],
    "overlap": [lambda x: kb.topk_divergence(ROWS, LISTS, overlap=x)],
    "weight_gradient": [lambda x: kb.kl_estimate_gradient([1.0], weight_gradient=x)],
    "return_counts": [lambda x: kb.sequence_sums(ROWS, return_counts=x)],
    "q_known": [lambda x: kb.divergence_from_counts(COUNTS, COUNTS, q_known=x)],
    "salvage": [lambda x: kb.open_logits("rows.npy", salvage=x)],
    "jensen_shannon": [lambda x: kb.compare_files("rows.npy", "rows.npy", jensen_shannon=x)],
    "resume": [lambda x: kb.compare_files("rows.npy", "rows.npy", resume=x, checkpoint="log")],
    "partial": [lambda x: kb.merge_logs(["log"], partial=x)],
}
WHOLE = {
    "axis": [lambda x: kb.kl_divergence(ROWS, ROWS, axis=x), lambda x: kb.log_softmax(ROWS, axis=x)],
    "vocab_size": [lambda x: kb.entropy(ROWS, vocab_size=x)],
    "num_threads": [lambda x: kb.entropy(ROWS, num_threads=x)],
    "top_k": [
        lambda x: kb.token_statistics(ROWS, top_k=x),
        lambda x: kb.compare_files("rows.npy", "rows.npy", top_k=[x]),
    ],
    "ignore_index": [lambda x: kb.token_log_probs(ROWS, IDS, ignore_index=x)],
    "k": [
        lambda x: kb.knn_kl_divergence(POINTS, OTHERS, x),
        lambda x: kb.knn_kl_divergence_from_density(POINTS, np.zeros(40), x),
        lambda x: kb.knn_mutual_information(POINTS, OTHERS, x),
    ],
    "variant": [lambda x: kb.knn_mutual_information(POINTS, OTHERS, variant=x)],
    "resamples": [
        lambda x: kb.knn_kl_divergence(POINTS, OTHERS, resamples=x),
        lambda x: kb.divergence_from_counts(COUNTS, COUNTS, resamples=x),
    ],
    "samples": [lambda x: kb.mixture_kl(NORMAL, NORMAL, samples=x)],
    "components": [lambda x: kb.fit_mixture(np.arange(9.0), x)],
    "starts": [
        lambda x: kb.fit_mixture(np.arange(9.0), starts=x),
        lambda x: kb.fit_normal(np.arange(9.0), starts=x),
    ],
    "rows": [lambda x: kb.linear_distillation_loss(ROWS, ROWS, ROWS, ROWS, rows=x)],
    "resolution": [lambda x: drift.fit({"a": np.arange(9.0)}, resolution=x)],
    "max_categories": [lambda x: drift.fit({"a": np.arange(9.0)}, max_categories=x)],
    "chunks": [lambda x: drift.fit({"a": np.arange(9.0)}, chunks=x)],
    "seed": [lambda x: drift.fit({"a": np.arange(9.0)}).report(seed=x)],
    "chunk_bytes": [lambda x: kb.compare_files("rows.npy", "rows.npy", chunk_bytes=x)],
}
REAL = {
    "base": [lambda x: kb.kl_divergence(ROWS, ROWS, base=x), lambda x: kb.mutual_information(ROWS, base=x)],
    "temperature": [lambda x: kb.kl_divergence(ROWS, ROWS, temperature=x)],
    "scale": [
        lambda x: kb.token_log_probs(ROWS, IDS, scale=x),
        lambda x: kb.aggregate(ROWS, mode="token-sum-norm", scale=x),
    ],
    "denominator": [lambda x: kb.aggregate(ROWS, denominator=x)],
    "alpha": [
        lambda x: drift.fit({"a": np.arange(9.0)}).report(alpha=x),
        lambda x: kb.renyi_divergence(ROWS, ROWS, x),
        lambda x: kb.preference_scores([1.0], alpha=x),
    ],
    "confidence": [
        lambda x: kb.knn_kl_divergence(POINTS, OTHERS, confidence=x),
        lambda x: kb.divergence_from_counts(COUNTS, COUNTS, confidence=x),
    ],
    "slope_at_infinity": [lambda x: kb.f_divergence(ROWS, ROWS, numba.njit(lambda u: u - 1), slope_at_infinity=x)],
    "level": [lambda x: kb.compare(ROWS, ROWS).summary().kl.quantile(x)],
    "logit_scale": [lambda x: kb.linear_distillation_loss(ROWS, ROWS, ROWS, ROWS, logit_scale=x)],
    "threshold": [lambda x: rlhf.rejection_mask(ROWS, ROWS, threshold=x)],
    "exponent_clamp": [lambda x: kb.preference_scores([1.0], "alpha_divergence", exponent_clamp=x)],
    "log_ratio_clamp": [lambda x: kb.kl_estimate([1.0], log_ratio_clamp=x)],
    "degrees_of_freedom": [lambda x: kb.tsne_objective(([0], [1], [1.0]), POINTS, degrees_of_freedom=x)],
    "p_value": [lambda x: drift.psi_threshold(100, 100, 10, x)],
    "bounds": [lambda x: kb.fit_normal(NORMAL.loc + np.arange(3.0), bounds=None) and kb.fit_normal(abs, bounds=(0, x))],
}
CHOICES = {
    "metric": [lambda x: kb.divergence_matrix(ROWS, metric=x)],
    "loss": [lambda x: kb.distillation_loss(ROWS, ROWS, x)],
    "gradient": [lambda x: kb.distillation_loss(ROWS, ROWS, gradient=x)],
    "reduction": [lambda x: kb.distillation_loss(ROWS, ROWS, reduction=x)],
    "divergence": [
        lambda x: kb.topk_divergence(ROWS, LISTS, x),
        lambda x: kb.preference_scores([1.0], x),
        lambda x: kb.divergence_from_counts(COUNTS, COUNTS, x),
    ],
    "tail": [lambda x: kb.topk_divergence(ROWS, LISTS, tail=x)],
    "kind": [
        lambda x: kb.kl_contributions(ROWS, ROWS, kind=x),
        lambda x: kb.kl_estimate([1.0], x),
        lambda x: rlhf.importance_weights(ROWS, ROWS, kind=x),
        lambda x: rlhf.rejection_mask(ROWS, ROWS, kind=x, threshold=1.0),
        lambda x: rlhf.rejection_statistic(ROWS, ROWS, kind=x),
        lambda x: rlhf.what_if(ROWS, ROWS, settings=[(x, 2.0)]),
    ],
    "preset": [
        lambda x: kb.kl_estimate([1.0], preset=x),
        lambda x: drift.reproduce(ROWS, ROWS, x),
        lambda x: rlhf.importance_weights(ROWS, ROWS, preset=x),
        lambda x: rlhf.rejection_mask(ROWS, ROWS, threshold=1.0, preset=x),
    ],
    "mode": [lambda x: kb.aggregate(ROWS, mode=x)],
    "nan_policy": [
        lambda x: kb.sequence_sums(ROWS, nan_policy=x),
        lambda x: kb.mismatch_report(ROWS, ROWS, nan_policy=x),
        lambda x: rlhf.what_if(ROWS, ROWS, nan_policy=x),
    ],
    "level": [
        lambda x: kb.kl_penalized_rewards([1.0] * 3, ROWS, 0.1, level=x),
        lambda x: rlhf.importance_ratios(ROWS, ROWS, level=x),
        lambda x: rlhf.importance_weights(ROWS, ROWS, level=x),
    ],
    "endpoint": [lambda x: kb.generalized_jsd(ROWS, ROWS, endpoint=x)],
    "method": [
        lambda x: kb.knn_kl_divergence(POINTS, OTHERS, method=x),
        lambda x: kb.mixture_kl(NORMAL, NORMAL, method=x),
    ],
    "interval": [lambda x: kb.divergence_from_counts(COUNTS, COUNTS, interval=x)],
    "bias_correction": [
        lambda x: kb.mutual_information(ROWS, bias_correction=x),
        lambda x: kb.divergence_from_counts(COUNTS, COUNTS, bias_correction=x),
    ],
    "within": [lambda x: kb.wasserstein_distance_histograms([1], [1], [0.0], within=x)],
    "direction": [lambda x: kb.fit_normal(np.arange(9.0), x)],
    "spacing": [lambda x: drift.fit({"a": np.arange(9.0)}, spacing=x)],
    "missing": [lambda x: drift.fit({"a": np.arange(9.0)}).report(missing=x)],
    "band_metric": [lambda x: drift.fit({"a": np.arange(9.0)}).report(band_metric=x)],
    "name": [lambda x: kb.function_address(x)],
    "given": [lambda x: kb.entropy(ROWS, given=x)],
}


def refused(calls, values, words):
    """Every value, by every call, with an error that names the argument."""
    for (name, functions), value in itertools.product(calls.items(), values):
        for function in functions:
            with pytest.raises((ValueError, TypeError), match=rf"(?s)`{name}` is .*, expected {words}"):
                function(value)


@pytest.fixture
def rows_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)


def test_a_flag_is_true_or_false(rows_file):
    refused(FLAGS, ["no", None, 2, 0.0, [], np.array([True, False])], "True or False")
    assert kb.kl_divergence(ROWS, ROWS[::-1], normalize=np.bool_(False)).tolist() == (
        kb.kl_divergence(ROWS, ROWS[::-1], normalize=False).tolist()
    )


def test_a_whole_number_is_no_truth_value_nor_a_fraction(rows_file):
    number = fractions.Fraction(2)
    values = [
        True,
        np.bool_(True),
        1.5,
        2.0,
        "2",
        number,
        decimal.Decimal(2),
        np.array([1, 2]),
        np.array("1"),
        iter([1]),
    ]
    for name in WHOLE.keys() - {"num_threads"}:
        refused({name: WHOLE[name]}, values, "a whole number")
    for value in values:  # the engine says of what kind it is: nothing that an argument says of itself
        with pytest.raises(TypeError, match=r"`num_threads` is a .*, expected a whole number or None"):
            kb.entropy(ROWS, num_threads=value)
    assert kb.token_statistics(ROWS, top_k=np.int8(2)).top_ids.shape == (3, 2)


def test_a_number_is_no_truth_value_text_or_span_of_time():
    values = [True, np.bool_(True), np.array(True), "2", b"2", np.array("2"), np.str_("2"), np.timedelta64(2, "s")]
    values += [
        2j,
        np.array(2j),
        np.complex64(2),
        datetime.timedelta(1),
        [2.0],
        np.array([2.0]),
        {2.0},
        object(),
        iter([2]),
    ]
    refused(REAL, values, "a")
    for two in (2, np.float32(2), np.array(2), decimal.Decimal(2), fractions.Fraction(2), np.uint8(2)):
        assert kb.entropy([0.5, 0.5], base=two) == 1.0


def test_a_choice_is_one_of_the_options(rows_file):
    refused(
        CHOICES, [["kl"], {"kl": 1}, np.array(["kl", "kl"]), 0, True, np.array("kl"), object(), "no such thing"], ""
    )


def test_an_error_survives_an_argument_that_lies():
    liar = ROWS.view(Untellable)
    for call in (
        lambda: kb.distillation_loss(ROWS, ROWS, "forward_kl", liar),
        lambda: kb.distillation_loss(ROWS, ROWS, "jsd", liar, temperature=memoryview(b"ab")),
        lambda: kb.preference_scores([1.0], exponent_clamp=liar),
        lambda: kb.aggregate(ROWS, mode="token-sum", denominator=liar),
    ):
        with pytest.raises((ValueError, TypeError), match="` is of type Untellable"):
            call()


class Untellable(misuse_arguments.LyingArray):
    """What fails when it is printed."""

    def __repr__(self):
        raise IndexError("no words")


def test_arrays_of_more_axes_than_numpy_broadcasts():
    many = np.full((1,) * 40, 0.5)
    for call in (
        lambda: kb.entr(many),
        lambda: kb.kl_div(many, 0.5),
        lambda: kb.likelihood_parts(many, ROWS),
        lambda: kb.divergence_from_counts(many, many),
        lambda: kb.kl_divergence(many.reshape((1,) * 39 + (1,)), ROWS[:, :1]),
    ):
        with pytest.raises(ValueError, match=r"axes|broadcast"):
            call()


def test_degrees_of_freedom_whose_square_is_no_number():
    for nu in (1e-320, 1e-200, 1e200, np.inf, np.nan, 0.0, -1.0):
        with pytest.raises(ValueError, match=r"`degrees_of_freedom` is .*, expected from 1e-100 to 1e\+100"):
            kb.tsne_objective(([0], [1], [1.0]), POINTS, degrees_of_freedom=nu)


def test_names_in_files_are_text(rows_file):
    for name, wrong in itertools.product(
        ("tensor", "dtype", "norm"), (np.ma.masked_array([1], [1]), 1, b"rows", ["a"])
    ):
        with pytest.raises(TypeError, match=rf"(?s)`{name}` is .*, expected text or None"):
            kb.open_logits("rows.npy", **{name: wrong})
    with pytest.raises(TypeError, match=r"`layer` is 1\.5, expected a whole number or None"):
        kb.open_logits("rows.npy", layer=1.5)


def test_a_generator_that_numba_cannot_compile():
    def words(u):
        return "text"

    for wrong in (words, lambda u, v: u, lambda u: (u, u), lambda u: NORMAL, lambda u: None):
        with pytest.raises(TypeError, match=r"(?s)`generator` is .*, expected a function of one float") as caught:
            kb.f_divergence(ROWS, ROWS, numba.njit(wrong))
        assert len(str(caught.value)) < 500  # Numba itself has pages
    with pytest.raises(TypeError, match="expected a name or a function compiled with numba"):
        kb.f_divergence(ROWS, ROWS, lambda u: u - 1)


def test_a_generator_that_divides_by_zero():
    p, q = [0.0, 1.0], [0.5, 0.5]
    for called_before in (False, True):  # Numba then takes it as it is, else as our loop says
        neyman = numba.njit(lambda u: (u - 1) ** 2 / u)
        assert not called_before or neyman(1.0) == 0.0
        assert kb.f_divergence(p, q, neyman) == np.inf
        assert kb.f_divergence(q, q, neyman) == 0.0
    strict = numba.njit(error_model="python")(neyman.py_func)
    with pytest.raises(ValueError, match="`generator` raises ZeroDivisionError"):
        kb.f_divergence(p, q, strict)


def test_errors_name_the_arguments_of_the_function_that_was_called():
    for position, name in enumerate(("mean_p", "std_p", "mean_q", "std_q")):
        arguments = [0.0, 1.0, 0.0, 1.0]
        arguments[position] = np.nan
        with pytest.raises(ValueError, match=f"`{name}` is nan, expected"):
            kb.gaussian_kl(*arguments)
    with pytest.raises(ValueError, match=r"do not broadcast: `mean_p` \(3,\), `std_p` \(2,\)"):
        kb.gaussian_kl([0.0] * 3, [1.0] * 2, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"`upstream` has shape \(2,\), expected \(3,\)"):
        kb.entropy_gradient(ROWS, [1.0, 2.0])
    with pytest.raises(ValueError, match="`upstream` holds values that are not finite"):
        kb.entropy_gradient(ROWS, [1.0, 2.0, np.nan])
    with pytest.raises(TypeError, match="`index` has dtype float64, expected integers"):
        kb.selective_log_softmax(ROWS, [0.5, 1.0, 2.0])
    with pytest.raises(ValueError, match="`logits` is a scalar"):
        kb.entropy_from_logits(1.0)
    with pytest.raises(TypeError, match=r"`axis` is 1\.5"):
        kb.integrations.scipy.entropy(ROWS, axis=1.5)


def test_arguments_are_checked_where_they_are_not_used():
    with pytest.raises(ValueError, match="`weights` are factors of the gradient, which `gradient` does not ask for"):
        kb.topk_divergence(ROWS, LISTS, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"`weights` has shape \(2,\), expected \(3,\)"):
        kb.topk_divergence(ROWS, LISTS, weights=[1.0, 2.0], gradient=True)
    with pytest.raises(ValueError, match="`starts` is beyond 64 bits, expected at most"):
        kb.fit_mixture((np.arange(9.0), np.ones(9)), 2, starts=10**400)
    with pytest.raises(ValueError, match="`target` is a tuple of 3, expected two"):
        kb.fit_normal((1.0, 2.0, 3.0))
    for name, wrong in itertools.product(("columns", "categorical"), ("ab", b"ab", 1.5)):
        with pytest.raises(TypeError, match=f"`{name}` is .*, expected a list of names"):
            drift.fit({"a": np.arange(9.0)}, **{name: wrong})
    with pytest.raises(TypeError, match="`rng` is 'text', expected a whole number"):
        kb.knn_kl_divergence(POINTS, OTHERS, rng="text")
    with pytest.raises(TypeError, match="`rng` is 'text', expected a whole number"):
        kb.divergence_from_counts(COUNTS, COUNTS, rng="text")


def test_numbers_without_a_meaning():
    for wrong in (np.nan, np.inf):
        for name, call in {
            "z_loss": lambda x: kb.cross_entropy_loss(ROWS, IDS, z_loss=x),
            "logit_scale": lambda x: kb.linear_distillation_loss(ROWS, ROWS, ROWS, ROWS, logit_scale=x),
            "tail_weight": lambda x: kb.tail_weights([1, 1, 1], x, ROWS > 0),
        }.items():
            with pytest.raises(ValueError, match=f"`{name}` is (nan|inf), expected a finite number"):
                call(wrong)
    for lengths in ([1, -1, 2], [1.0, np.nan, 2.0], np.inf):
        with pytest.raises(ValueError, match="`lengths` holds"):
            kb.preference_scores([1.0, 2.0, 3.0], lengths=lengths)
    for pair in (("Normal", closed_form.Normal), (closed_form.Normal, None), (1.0, 2.0)):
        with pytest.raises(TypeError, match=r"`family_[pq]` is .*, expected a class"):
            kb.register_kl(*pair)
    assert all(isinstance(family, type) for pair in registry.registered_pairs() for family in pair)


def test_what_is_told_of_progress_can_be_called(rows_file, tmp_path):
    for name, wrong in itertools.product(("progress", "warn"), (1, "print", np.ma.masked_array([1], [1]))):
        with pytest.raises(TypeError, match=rf"(?s)`{name}` is .*, expected a function or None"):
            kb.compare_files("rows.npy", "rows.npy", **{name: wrong})
    with pytest.raises(TypeError, match="`progress` is 1, expected a function or None"):
        kb.convert("rows.npy", "new.npy", progress=1)
    with pytest.raises(TypeError, match="`dtype` is 4, expected text or None"):
        kb.convert("rows.npy", "new.npy", dtype=4)
    with pytest.raises(TypeError, match="`candidates` is 3, expected a mapping of names to paths"):
        kb.compare_candidates("rows.npy", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]  # refused before anything was written


def test_pairs_are_two_numbers():
    for wrong in ({0.5, 2.0}, b"ab", "ab", (1.0,), (1.0, 2.0, 3.0), 1.0, None, ("a", "b"), (True, 2.0)):
        with pytest.raises((ValueError, TypeError), match="`ratio_bounds` is"):
            kb.mismatch_report(ROWS, ROWS, ratio_bounds=wrong)
        if wrong is not None:
            with pytest.raises((ValueError, TypeError), match="`bounds` is"):
                kb.fit_normal(closed_form.Mixture([1.0], closed_form.Normal([0.0], 1.0)), bounds=wrong)


def test_divisors_that_nothing_can_be_divided_by():
    """Row weights beyond float64 made gradients of NaN and a warning of NumPy's."""
    logits = np.zeros((3, 5))
    for loss in (
        lambda **options: kb.distillation.cross_entropy_loss(logits, np.arange(3), **options),
        lambda **options: kb.distillation.distillation_loss(logits, logits + 1, weights=[0, 1, 2], **options),
    ):
        with pytest.raises(ValueError, match=r"`divisor` is 1e-320, expected a greater one"):
            loss(divisor=1e-320)


def test_the_matrix_of_no_rows_checks_its_keywords():
    with pytest.raises(ValueError, match="`given` is"):
        kb.divergence_matrix(np.empty((0, 0)), given=np.ma.masked_array([1.0]))


def test_rewards_of_infinite_scores_say_nothing_of_their_own():
    """A warning of NumPy's for inf - inf, which is NaN, and for what is beyond float64, which is inf."""
    rewards = kb.kl_penalized_rewards([[np.inf, 1e308]], [[np.inf, -1e308]], 10.0)
    np.testing.assert_array_equal(rewards, [[np.nan, np.inf]])
    np.testing.assert_array_equal(kb.kl_penalized_rewards([np.inf], [[np.inf, 1.0]], 0.1, level="sequence"), [np.nan])


def test_sums_of_nothing_check_their_threads():
    with pytest.raises(TypeError, match="`num_threads` is a MaskedArray"):
        kb.sequence_sums(np.empty((0, 0)), num_threads=np.ma.masked_array([[1.0]]))


def test_sums_of_terms_beyond_float64_are_inf():
    """A warning of NumPy's where terms within float64 have a sum beyond it."""
    assert kb.vae_kl(np.full(2, 1.3e154), np.zeros(2)) == np.inf


def test_fields_of_a_table_have_one_value_a_row():
    """16-bit codes are an array of three fields, of which one is many values a row: an error of Numba's."""
    codes = np.zeros(3, [("scale", "f4"), ("min", "f4"), ("code", "u2", (5,))])
    for table, field in ((codes, "code"), (codes.reshape(3, 1), "scale")):
        with pytest.raises(ValueError, match=f"`reference` has shape .3, .. in field '{field}', expected"):
            drift.fit(table)
