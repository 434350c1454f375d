"""Right arguments of every public function, and wrong ones for any."""

import datetime
import decimal
import fractions
import io
import pathlib
import threading

import ml_dtypes
import numpy as np
from scipy import sparse

import kullback as kb
from kullback import closed_form, drift, rlhf
from kullback.comparison import Spread
from kullback.integrations import scipy as scipy_face

T, V = 3, 5


class Mine(Exception):
    """What an argument itself raises: it passes through."""


class Raises:
    """An array that changes its mind."""

    shape, dtype, ndim = (T, V), np.dtype("f8"), 2

    def __array__(self, dtype=None, copy=None):
        raise Mine("no array today")

    def __len__(self):
        return T

    def __float__(self):
        raise Mine("no number today")


class Liar:
    """Says it is small, is large."""

    shape, dtype, ndim, size = (T, V), np.dtype("f8"), 2, T * V

    def __init__(self, shape):
        self.inside = np.full(shape, 0.25)

    def __array__(self, dtype=None, copy=None):
        return self.inside if dtype is None else self.inside.astype(dtype)

    def __len__(self):
        return 1 << 40


class LyingArray(np.ndarray):
    """An ndarray whose attributes are not its own."""

    def __repr__(self):
        return "<an array that lies about its shape>"

    @property
    def shape(self):
        return (1 << 20, V)

    @property
    def strides(self):
        return (1 << 30, 1 << 30)


class Overflowing:
    """A number with no end."""

    def __index__(self):
        return 10**400

    def __float__(self):
        raise OverflowError("int too large to convert to float")


def rows(rng, dtype=None):
    x = rng.uniform(0.05, 1, (T, V))
    return x.astype(dtype or rng.choice(["f8", "f4"]))


def ids(rng):
    return rng.integers(0, V, T)


def line(rng):
    return rng.normal(0, 0.3, T)


def positive(rng):
    return rng.uniform(0.2, 2, T)


def batch(rng):
    return rng.normal(0, 0.3, (T, V))


# ---- right values by the name of the parameter, and by function where the name means something else there ----

RIGHT = {
    **dict.fromkeys(("p", "q", "x", "y", "logits", "student", "teacher", "p_logits", "q_logits", "pk"), rows),
    **dict.fromkeys(("student_logits", "teacher_logits", "qk", "student_hidden", "teacher_hidden"), rows),
    **dict.fromkeys(("student_weight", "teacher_weight"), lambda rng: rng.normal(0, 1, (7, V))),
    **dict.fromkeys(("tokens", "index", "ids", "labels"), ids),
    **dict.fromkeys(
        ("values", "log_ratio", "log_ratios", "kl", "train_log_probs", "rollout_log_probs", "rollout", "train"), batch
    ),
    **dict.fromkeys(("mean_p", "mean_q", "mean", "log_variance", "loc", "low"), line),
    **dict.fromkeys(("std_p", "std_q", "scale", "rate", "shape", "alpha", "concentration", "beta"), positive),
    "high": lambda rng: rng.uniform(3, 4, T),
    "prob": lambda rng: rng.uniform(0.1, 0.9, T),
    "probs": rows,
    "count": lambda rng: rng.integers(1, 9, T),
    "upstream": line,
    "generator": lambda rng: "kl",
    "counts": lambda rng: rng.integers(1, 20, (T, V)),
    "p_counts": lambda rng: rng.integers(1, 20, (T, V)),
    "scores": line,
    "kl_coef": lambda rng: 0.1,
    "init_kl_coef": lambda rng: 0.1,
    "target": lambda rng: 6.0,
    "horizon": lambda rng: 1000,
    "ratio_bounds": lambda rng: (0.5, 2.0),
    "threshold": lambda rng: 0.5,
    "positions": lambda rng: np.arange(V),
    "prefix_lengths": lambda rng: rng.integers(0, V, T),
    "tail_weight": lambda rng: 0.5,
    "mask": lambda rng: rng.random((T, V)) < 0.7,
    "weights": positive,
    "components": lambda rng: closed_form.Normal([0.0, 1.0], [1.0, 2.0]),
    "cov": lambda rng: np.eye(T),
    "name": lambda rng: "kullback_describe",
    "family_p": lambda rng: int,
    "family_q": lambda rng: int,
    "n_reference": lambda rng: 1000,
    "n_current": lambda rng: 500,
    "reference": lambda rng: {"a": rng.normal(size=50), "b": rng.integers(0, 3, 50)},
    "current": lambda rng: {"a": rng.normal(size=50), "b": rng.integers(0, 3, 50)},
    "preset": lambda rng: "evidently.psi",
    "log_q": lambda rng: rng.normal(size=40),
    "embedding": lambda rng: rng.normal(size=(8, 2)),
    "affinities": lambda rng: (np.arange(8), (np.arange(8) + 3) % 8, np.full(8, 0.125)),
    "level": lambda rng: 0.5,
    "groups": lambda rng: rng.integers(0, 2, T),
    "edges": lambda rng: np.array([0.0, 0.5, 1.0]),
    "current_kl": lambda rng: 3.0,
    "n_steps": lambda rng: 10,
    "path": lambda rng: "rows.npy",
    "p_path": lambda rng: "rows.npy",
    "q_path": lambda rng: "other.npy",
    "q_paths": lambda rng: ["other.npy"],
    "source": lambda rng: "rows.npy",
    "paths": lambda rng: ["none.log"],
    "rng": lambda rng: 0,
}
POINTS = {name: lambda rng: rng.normal(size=(40, 2)) for name in ("x", "y")}
LISTED = {"teacher": lambda rng: (np.array([[0, 2]] * T), np.log(np.array([[0.5, 0.2]] * T)))}
OVERRIDES = {
    "knn_kl_divergence": POINTS,
    "knn_kl_divergence_from_density": POINTS,
    "knn_mutual_information": POINTS,
    "wasserstein_distance": {name: lambda rng: rng.normal(size=9) for name in ("x", "y")},
    "energy_distance": {name: lambda rng: rng.normal(size=9) for name in ("x", "y")},
    "conditional_mutual_information": {"counts": lambda rng: rng.integers(1, 20, (2, T, V))},
    "sparse_divergence": {name: lambda rng: sparse.csr_array(rows(rng)) for name in ("p", "q")},
    "Independent": {"base": lambda rng: closed_form.Normal(line(rng), 1.5), "axes": lambda rng: 1},
    "Transformed": {"base": lambda rng: closed_form.Normal(line(rng), 1.5), "transform": lambda rng: "exp"},
    "LowRankNormal": {"factor": lambda rng: rng.normal(size=(T, 2)), "diagonal": positive},
    "renyi_divergence": {"alpha": lambda rng: 0.5},
    "topk_divergence": LISTED,
    "topk_kl_interval": LISTED,
    "likelihood_parts": {"q": rows, "counts": lambda rng: rng.integers(0, 9, (T, V))},
    "closed_form_kl": {name: lambda rng: closed_form.Normal(0.0, 1.5) for name in ("p", "q")},
    "mixture_kl": {name: lambda rng: closed_form.Normal(0.0, 1.5) for name in ("p", "q")},
    "rejection_mask": {"kind": lambda rng: "seq_mean_k3"},
    "what_if": {"settings": lambda rng: [("tis", 2.0), ("seq_mean_k3", 0.1)]},
    "fit_normal": {"target": lambda rng: closed_form.Mixture([0.5, 0.5], closed_form.Normal([0.0, 1.0], [1.0, 1.0]))},
    "fit_mixture": {"target": lambda rng: closed_form.Mixture([0.5, 0.5], closed_form.Normal([0.0, 4.0], [1.0, 1.0]))},
    "kl_penalized_rewards": {"kl": batch, "mask": lambda rng: np.ones((T, V), bool)},
    "Mixture": {"weights": lambda rng: np.array([0.5, 0.5])},
    "divergence_from_counts": {"q_counts": lambda rng: rng.integers(1, 20, (T, V))},
    "MultivariateNormal": {"cov": lambda rng: np.eye(T)},
    "sequence_log_ratios": {
        **dict.fromkeys(("p_logits", "q_logits"), lambda rng: rng.normal(size=(2, T, V))),
        "tokens": lambda rng: rng.integers(0, V, (2, T)),
    },
    "psi_threshold": {"bins": lambda rng: 10},
    "smooth": {"counts": lambda rng: rng.integers(0, 20, (T, V))},
    "change_test": {name: lambda rng: -rng.exponential(1, (T, V)) for name in ("reference", "current")},
    "audit": {"tokens": lambda rng: rng.integers(0, V, (T, V))},
    "convert": {"path": lambda rng: "converted.npy"},
    "write_reference": {"path": lambda rng: "made.kbref", "rows": rows},
    "load": {"path": lambda rng: "state.json"},
    "save": {"path": lambda rng: "saved.json"},
    "by_time": {
        "batch": lambda rng: RIGHT["reference"](rng) | {"when": rng.integers(0, 99, 50).astype("M8[D]")},
        "time": lambda rng: "when",
        "every": lambda rng: "30d",
    },
}
# right values of keywords that have a default, so that they meet wrong ones of others
OPTIONAL = {
    "base": lambda rng: 2,
    "temperature": lambda rng: 0.7,
    "axis": lambda rng: -1,
    "vocab_size": lambda rng: V - 1,
    "num_threads": lambda rng: 2,
    "given": lambda rng: "logits",
    "out": lambda rng: np.empty(T),
    "normalize": lambda rng: False,
    "softcap": lambda rng: 3.0,
    "top_k": lambda rng: 2,
    "kept": lambda rng: (np.array([0, 1, 3, 4]), np.array([0, 1, 2, 4])),
    "offsets": lambda rng: np.array([0, 2, T]),
    "weight": lambda rng: 0.3,
    "beta": lambda rng: 0.3,
    "gradient": lambda rng: True,
    "reduction": lambda rng: "mean",
    "nan_policy": lambda rng: "omit",
    "k": lambda rng: 2,
    "tokens": ids,
    "ids": ids,
}
# what asks for that much work or memory gets it
WORK = (
    *(
        "permutations",
        "resamples",
        "chunks",
        "samples",
        "starts",
        "draws",
        "components",
        "bins",
        "resolution",
        "max_categories",
    ),
    "top_k",
)


def _comparison(rng):
    return kb.compare(rows(rng), rows(rng), ids(rng))


def _candidates(rng):
    return kb.compare_candidates(rows(rng), {"x": rows(rng), "y": rows(rng)})


def _state(rng):
    return drift.fit(RIGHT["reference"](rng))


METHODS = {
    "TokenComparison.summary": lambda rng: _comparison(rng).summary,
    "ComparisonSummary.merge": lambda rng: _comparison(rng).summary().merge,
    "CandidateComparison.difference": lambda rng: _candidates(rng).difference,
    "CandidateComparison.differences": lambda rng: _candidates(rng).differences,
    "CandidateComparison.merge": lambda rng: _candidates(rng).merge,
    "Spread.quantile": lambda rng: _comparison(rng).summary().kl.quantile,
    "Spread.group_interval": lambda rng: Spread.of(rng.random(12), np.arange(12) % 6).group_interval,
    "Spread.histogram": lambda rng: _comparison(rng).summary().kl.histogram,
    "AdaptiveKLController.update": lambda rng: kb.AdaptiveKLController(0.1, 6.0, 1000).update,
    "AuditReport.quantile": lambda rng: rlhf.audit(-rows(rng), -rows(rng)).quantile,
    "MismatchReport.merge": lambda rng: kb.mismatch_report(batch(rng), batch(rng)).merge,
    "WhatIf.merge": lambda rng: rlhf.what_if(batch(rng), batch(rng)).merge,
    "DriftState.update": lambda rng: _state(rng).update,
    "DriftState.merge": lambda rng: _state(rng).merge,
    "DriftState.report": lambda rng: _state(rng).report,
    "DriftState.by_time": lambda rng: _state(rng).by_time,
    "DriftState.save": lambda rng: _state(rng).save,
}
RIGHT |= {"candidates": lambda rng: {"x": rows(rng), "y": rows(rng)}}
RIGHT |= {"other": lambda rng: None, "batch": lambda rng: RIGHT["reference"](rng)}
FILES = ("open_logits", "open_sparse", "compare_files", "compare_candidates", "convert", "merge_logs")
FILES += ("drift.load", "DriftState.save", "write_reference")


def public():
    """Name -> callable of all that a user may call; methods come bound to an object made for them."""
    found = {name: getattr(kb, name) for name in kb.__all__ if callable(getattr(kb, name))}
    records = ("Result", "TokenLoss", "TokenStatistics", "TopkDivergence", "TokenComparison", "ComparisonSummary")
    records += ("CandidateComparison", "ReferenceWriter")  # the writer is to be closed; `write_reference` does that
    found = {name: value for name, value in found.items() if not name.endswith(records)}
    types = ("Result", "Report", "State", "Distribution", "Estimate", "Finding", "AuditCheck", "ChangeTest")
    types += ("WhatIf", "WhatIfRow")
    for module in (closed_form, drift, rlhf):
        for name in module.__all__:
            other = name in kb.__all__ or not callable(getattr(module, name))
            if not other and not name.endswith(types):
                found[f"{module.__name__.split('.')[-1]}.{name}"] = getattr(module, name)
    for name in ("entropy", "jensenshannon", "rel_entr", "kl_div"):
        found[f"scipy.{name}"] = getattr(scipy_face, name)
    return found


# ---- wrong values ----


def _read_only(x):
    x.flags.writeable = False
    return x


def _strange(shape, dtype):
    """Unaligned memory."""
    raw = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 1, np.uint8)
    return raw[1:].view(dtype).reshape(shape)


ANYTHING = [
    lambda rng: None,
    lambda rng: "",
    lambda rng: str(rng.choice(["text", "kl", "[red]", "\x1b[0m", "logits", "2", "nan", "none/../none"])),
    lambda rng: b"bytes",
    lambda rng: object(),
    lambda rng: int,
    lambda rng: len,
    lambda rng: {},
    lambda rng: {"a": 1},
    lambda rng: {1, 2},
    lambda rng: [],
    lambda rng: (),
    lambda rng: [[]],
    lambda rng: [[1.0, 2.0], [3.0]],
    lambda rng: ["a", "b"],
    lambda rng: [None, 1.0],
    lambda rng: range(T),
    lambda rng: iter([1, 2]),
    lambda rng: slice(None),
    lambda rng: ...,
    lambda rng: datetime.date(2026, 1, 1),
    lambda rng: decimal.Decimal("0.5"),
    lambda rng: fractions.Fraction(1, 3),
    lambda rng: pathlib.Path("nowhere"),
    lambda rng: io.BytesIO(b"x"),
    lambda rng: threading.Lock(),
    lambda rng: memoryview(b"abcdefgh"),
    lambda rng: Raises(),
    lambda rng: Overflowing(),
    lambda rng: Liar((T, V)),
    lambda rng: Liar((1,)),
    lambda rng: Liar((T, 3 * V)),
]
NUMBERS = [
    *(0, 1, -1, 2, -2, 3, 7, 2**31, -(2**31), 2**62, 2**63, -(2**63) - 1, 2**64 - 100, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, -0.5, 1e-320, 1e300, 1e-300, float("inf"), -float("inf"), float("nan"), 1 + 2j),
    *(True, False, np.float32(0.5), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True), np.float64("nan")),
    *(np.array(2.0), np.array(1), np.array("a"), np.timedelta64(3, "s"), np.void(b"ab")),
]
ARRAYS = [
    lambda rng: np.empty((0,)),
    lambda rng: np.empty((0, V)),
    lambda rng: np.empty((T, 0)),
    lambda rng: np.empty((0, 0)),
    lambda rng: rng.random((T, V + 1)),
    lambda rng: rng.random((T + 1, V)),
    lambda rng: rng.random((T, V, 1)),
    lambda rng: rng.random((2, T, V)),
    lambda rng: rng.random((1, V)),
    lambda rng: rng.random(V),
    lambda rng: rng.random(T),
    lambda rng: rng.random(()),
    lambda rng: rng.random((1,) * 40),
    lambda rng: np.zeros((T, V)),
    lambda rng: -rng.random((T, V)),
    lambda rng: np.full((T, V), np.nan),
    lambda rng: np.full((T, V), -np.inf),
    lambda rng: np.full((T, V), np.inf),
    lambda rng: np.full((T, V), 5e-324),
    lambda rng: np.full((T, V), 1.7e308),
    lambda rng: np.full((T, V), -1.7e308),
    lambda rng: rng.random((T, V)) * 1j,
    lambda rng: rng.random((T, V)).astype("O"),
    lambda rng: np.full((T, V), None),
    lambda rng: np.full((T, V), "a"),
    lambda rng: np.zeros((T, V), "M8[s]"),
    lambda rng: np.zeros(T, [("a", "f8"), ("b", "i4")]),
    lambda rng: np.zeros(T, [("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (V,))]),
    lambda rng: rng.integers(0, 2**63, (T, V), np.uint64, endpoint=True),
    lambda rng: np.full(T, 2**64 - 100, np.uint64),
    lambda rng: np.full(T, -(2**63)),
    lambda rng: np.array([0, 2**62, -(2**62) - 1, T]),
    lambda rng: rng.integers(-200, 200, T),
    lambda rng: rng.integers(-3, 9, (T, V)),
    lambda rng: rng.random((T, V)) < 0.5,
    lambda rng: rng.random(T) < 0.5,
    lambda rng: rng.random((T, V)).astype(np.longdouble),
    lambda rng: rng.random((T, V)).astype(">f4"),
    lambda rng: rng.random((T, V)).astype("f2"),
    lambda rng: rng.random((T, V)).astype(ml_dtypes.bfloat16),
    lambda rng: rng.random((T, V)).astype(ml_dtypes.float8_e4m3fn),
    lambda rng: rng.random((T, V)).astype(ml_dtypes.float8_e3m4),
    lambda rng: rng.random((V, T)).T,
    lambda rng: rng.random((T, 2 * V))[:, ::-2],
    lambda rng: np.broadcast_to(rng.random(V), (T, V)),
    lambda rng: np.broadcast_to(np.float64(0.5), (T, V)),
    lambda rng: _read_only(rng.random((T, V))),
    lambda rng: _read_only(rng.random(T)),
    lambda rng: _strange((T, V), "f8"),
    lambda rng: _strange((T,), "i8"),
    lambda rng: np.ma.masked_array(rng.random((T, V)), rng.random((T, V)) < 0.5),
    lambda rng: np.ma.masked_array(rng.integers(0, V, T), [True] + [False] * (T - 1)),
    lambda rng: np.matrix(rng.random((T, V))),
    lambda rng: rng.random((T, V)).view(LyingArray),
    lambda rng: rng.random((T, V)).tolist(),
    lambda rng: np.lib.stride_tricks.as_strided(np.zeros(T), (T, V), (8, 0)),
    lambda rng: np.float64(0.5),
]
