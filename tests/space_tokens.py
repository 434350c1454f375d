"""The space of inputs for chosen tokens, short lists, matrices and terms; see space_functions."""

import numpy as np
from reference import decode, phi
from space_functions import (
    DIVERGENCE,
    ENTROPY,
    LOG_SLACK,
    MIXED,
    ROUNDING,
    Bound,
    Claim,
    Function,
    distance,
    divergence,
    log_prob,
    log_ratio,
    token_options,
)
from space_inputs import pick
from space_truth import Pair, Row

import kullback as kb
from kullback.rows.matrix import METRICS

TERMS = Bound(1e-14, 1e-6)
REAL = np.longdouble
KNOWN = 1e-14  # ln P/Q of one outcome in kl_contributions: the difference of two numbers of the size of 1 or more


# ---- statistics of tokens ----


def _statistics_options(rng, inputs):
    rows, v = inputs.plain[0].shape
    ids = rng.integers(0, v, (rows, int(rng.integers(1, 4))))
    options = {"tokens": ids if rng.random() < 0.5 else ids[:, 0]}
    if rng.random() < 0.3:
        options["top_k"] = int(rng.integers(1, 7))
    if rng.random() < 0.3:
        options["scale"] = float(10 ** rng.uniform(-1.5, 1.5))
    if rng.random() < 0.2:
        options["softcap"] = float(10 ** rng.uniform(0, 2.5))
    return options


def _call_statistics(arrays, options, keywords):
    s = kb.token_statistics(*arrays, **options, **keywords)
    found = {"entropy": s.entropy, "logsumexp": s.logsumexp, "log_probs": s.log_probs, "rank": s.rank}
    if "top_k" in options:
        found |= {"top_ids": s.top_ids, "top_log_probs": s.top_log_probs}
    return found


def _statistics(row, options):
    """Of softmax(z/T): z is scaled and capped in long double, ranks and the top k go by the logits as given."""
    scale, cap = REAL(options.get("scale", 1)), options.get("softcap")
    stored = np.where(row.bad[:, None], np.nan, row.x)
    with np.errstate(over="ignore", invalid="ignore"):
        z = scale * stored if cap is None else REAL(cap) * np.tanh(scale * stored / REAL(cap))
    r = Row(z, "logits", row.temperature)
    # one rounding of z is a factor of that much on every probability
    loose = 1.0 if cap is None else float(max(1, REAL(cap) / row.temperature))
    shape = options["tokens"].shape
    ids = options["tokens"].reshape(len(z), -1)
    log_probs = np.take_along_axis(r.log_probs, ids, -1)
    ranks = (stored[:, None, :] >= np.take_along_axis(stored, ids, -1)[:, :, None]).sum(-1)
    ranks = np.where(r.undefined[:, None], -1, ranks)
    # infinite logits are outcomes like others under a cap; what comes of them is told elsewhere
    infinite = np.isinf(decode(row.given_rows)).any(-1) & (cap is not None)
    judged = ~infinite[:, None] & np.ones(ids.shape, bool)
    floor = float(cap is not None)  # one rounding of a capped logit is an absolute error
    with np.errstate(invalid="ignore"):
        sizes = np.maximum(np.abs(log_probs), floor)
        claims = {
            "entropy": Claim(r.entropy, loose * np.maximum(np.abs(r.entropy), floor), LOG_SLACK, 0.0, where=~infinite),
            "logsumexp": Claim(r.lse, loose * np.maximum(np.abs(r.lse), 1), where=~infinite),
            "log_probs": Claim(
                log_probs.reshape(shape), loose * sizes.reshape(shape), LOG_SLACK, where=judged.reshape(shape)
            ),
            "rank": Claim(ranks.reshape(shape), exact=True, where=judged.reshape(shape)),
        }
    if "top_k" in options:
        top_ids, top = _top(r, stored, options["top_k"])
        judged = judged[:, :1] & ~r.undefined[:, None]
        claims["top_ids"] = Claim(top_ids, exact=True, where=judged)
        with np.errstate(invalid="ignore"):
            sizes = loose * np.maximum(np.abs(top), floor)
        claims["top_log_probs"] = Claim(top, sizes, LOG_SLACK, where=judged)
    return claims


def _top(row, stored, k):
    """(ids, log-probs) of the k greatest of each row, equal ones by rising id."""
    ids = np.full((len(stored), k), -1)
    logs = np.full(ids.shape, -np.inf, REAL)
    for t in np.flatnonzero(~row.undefined):
        order = np.lexsort((np.arange(stored.shape[1]), -stored[t]))[:k]
        ids[t, : len(order)], logs[t, : len(order)] = order, row.log[t, order]
    return ids, logs


def _call_sequences(arrays, options, keywords):
    p, q = (x[None] for x in arrays)
    return {"value": kb.sequence_log_ratios(p, q, options["tokens"][None], options["mask"][None], **keywords)}


def _sequence_options(rng, inputs):
    rows, v = inputs.plain[0].shape
    return {"tokens": rng.integers(0, v, rows), "mask": rng.random(rows) < 0.7}


def _sequences(pair, options):
    claim, mask = log_ratio(pair, options["tokens"]), options["mask"]
    with np.errstate(invalid="ignore"):
        value = np.where(mask, claim.value, 0).sum(-1)
        slack = np.where(mask, claim.slack, 0).sum(-1)[None] + LOG_SLACK
        # log-ratios beyond float64 are infinities, and those of both signs make no sum
        beyond = np.where(mask & (np.abs(claim.value) > np.finfo(np.float64).max), np.sign(claim.value), 0)
        judged = not ((beyond > 0).any() and (beyond < 0).any())
        return {"value": Claim(value[None], np.where(mask, claim.scale, 0).sum(-1)[None], slack, where=judged)}


# ---- all pairs ----


def _matrix_truth(metric, pair):
    return {
        "kl": lambda: divergence(pair.kl, pair=pair),
        "symmetric_kl": lambda: divergence(pair.symmetric_kl(), pair=pair),
        "js_distance": lambda: distance(np.sqrt(pair.jensen_shannon()), pair, 1.0),
        "js": lambda: divergence(pair.jensen_shannon(), pair=pair),
        "hellinger": lambda: distance(np.sqrt(pair.squared_hellinger), pair, 1 + ROUNDING),
        "tv": lambda: distance(pair.total_variation, pair, 1 + ROUNDING),
    }[metric]()


def _matrix(pair, options):
    x, y, given, temperature = *pair.given, pair.p.given, pair.p.temperature
    n, m = len(x), len(y)
    every = Pair(np.repeat(x, m, 0), np.tile(y, (n, 1)), given, float(temperature))
    claim = _matrix_truth(options["metric"], every)
    return {"value": claim._replace(value=claim.value.reshape(n, m), slack=np.reshape(claim.slack, (n, m)))}


# ---- what each outcome contributes ----


def _contributions(pair, options):
    near = np.abs(np.where(pair.both, pair.delta, 9)) < 1
    p, q = pair.p.share, pair.q.share
    with np.errstate(over="ignore", invalid="ignore"):
        delta = np.where(pair.both, pair.delta, 0)
        if options.get("kind") == "plain":
            terms = np.where(pair.only_p, np.inf, -p * delta)
            return {"value": Claim(terms, p * np.abs(delta), 1e-30 + KNOWN * p)}
        small = np.where(near, delta, 0)
        terms = np.where(near, p * phi(small), q - p - p * delta)
        slack = 1e-30 + KNOWN * np.where(near, p * np.abs(small), 0)
    terms = np.where(pair.only_q, q, np.where(pair.only_p, np.inf, np.where(pair.both, terms, 0)))
    return {"value": Claim(terms, None, slack, 0.0)}


# ---- short lists of a teacher ----


def _topk_options(rng, inputs):
    return {
        "k": int(rng.integers(1, min(inputs.plain[0].shape[1], 9) + 1)),
        "divergence": pick(rng, ("forward_kl", "reverse_kl", "jsd")),
        "tail": pick(rng, ("bucket", "renormalize")),
    }


def _listed(teacher, k, temperature):
    """The k likeliest of each row and their log-probs, as float64."""
    row = Row(teacher, "logits", temperature)
    logs = np.where(row.undefined[:, None], -np.inf, row.log)
    ids = np.argsort(-logs, -1, kind="stable")[:, :k]
    with np.errstate(over="ignore"):  # beyond float64 the log-probability of nothing
        return ids, np.minimum(np.take_along_axis(logs, ids, -1), 0).astype(float)


def _call_topk(arrays, options, keywords):
    teacher, student = arrays
    ids, log_probs = _listed(np.asarray(teacher), options["k"], keywords.get("temperature", 1.0))
    r = kb.topk_divergence(student, (ids, log_probs), options["divergence"], options["tail"], **keywords)
    return {"value": r.values}


def _topk(pair, options):
    ids, log_probs = _listed(pair.given[0], options["k"], float(pair.p.temperature))
    p = np.exp(log_probs.astype(REAL))
    q = np.take_along_axis(pair.q.share, ids, -1)
    if options["tail"] == "bucket":
        others = pair.q.share.copy()
        np.put_along_axis(others, ids, 0, -1)
        rest = -np.expm1(log_probs[:, :1].astype(REAL)) - p[:, 1:].sum(-1, keepdims=True)  # 1 - p would be rounded
        p = np.concatenate([p, np.maximum(rest, 0)], -1)
        q = np.concatenate([q, others.sum(-1, keepdims=True)], -1)
    both = Pair(p, q, "probs")
    values = {"forward_kl": both.kl, "reverse_kl": both.reverse_kl, "jsd": both.jensen_shannon()}
    value = values[options["divergence"]]
    # a rest of 1e-16 is what float64 log-probs leave of one
    sure = ~(pair.undefined | pair.p.zero.any(-1) | pair.q.zero.any(-1)) & (p.min(-1) > 1e-12) & (q.min(-1) > 1e-300)
    return {"value": Claim(np.where(sure, value, 0), None, 1e-11, where=sure)}


def _call_interval(arrays, options, keywords):
    teacher, student = arrays
    keywords = {name: value for name, value in keywords.items() if name != "num_threads"}
    listed = _listed(np.asarray(teacher), options["k"], keywords.get("temperature", 1.0))
    lower, upper = kb.topk_kl_interval(student, listed, **keywords)
    return {"lower": lower, "upper": upper}


def _interval(pair, options):
    """The divergence of the teacher whose list it is lies between the two."""
    _, log_probs = _listed(pair.given[0], options["k"], float(pair.p.temperature))
    sure = ~pair.undefined & np.isfinite(pair.kl) & (np.exp(log_probs).min(-1) > 1e-12)
    # a log-probability beyond float64 is that of nothing
    sure &= ~(np.abs(np.where(pair.q.zero, 0, pair.q.log)) > np.finfo(np.float64).max).any(-1)
    truth = np.where(sure, pair.kl, 0)
    margin = 1e-9 * (1 + truth)  # of the rounding of the list itself
    return {
        "lower": Claim(truth, truth, margin, 0.0, np.where(sure, truth + margin, np.inf), where=sure, whole=False),
        "upper": Claim(truth, truth, margin, np.where(sure, truth - margin, 0.0), where=sure, whole=False),
    }


# ---- terms element by element ----


def _signed(rng, inputs):
    """Some elements negative: entr is -inf there, the others inf."""
    return {"negative": rng.random(inputs.plain[0].shape) < 0.1} if rng.random() < 0.2 else {}


def _elementwise(name):
    def call(arrays, options, keywords):
        return {"value": getattr(kb, name)(*_with_signs(arrays, options), **keywords)}

    return call


def _with_signs(arrays, options):
    first, *others = arrays
    if "negative" in options and first.dtype.kind == "f":
        first = np.where(options["negative"], -first, first)
    return [first, *others]


def _terms(name):
    """Claims of one elementwise function; x and y are the values themselves, not shares."""

    def truth(operands, options):
        x, *others = (np.asarray(decode(a), REAL) for a in _with_signs(operands, options))
        with np.errstate(all="ignore"):
            if name == "entr":
                value = np.where(x > 0, -x * np.log(np.where(x > 0, x, 1)), np.where(x == 0, 0, -np.inf))
                scale = np.maximum(np.abs(value), x)
            else:
                value, scale = _relative_terms(name, x, others[0])
            value = np.where(np.isnan(x + (others[0] if others else 0)) & ~np.isinf(x), np.nan, value)
        return {"value": Claim(value, scale, 1e-40)}

    return truth


def _relative_terms(name, x, y):
    ratio = y / np.where(x == 0, 1, x)
    t = np.where(np.abs(ratio - 1) < 0.5, np.log1p((y - x) / np.where(x == 0, 1, x)), np.log(y) - np.log(x))
    if name == "rel_entr":
        value = -x * t
        scale = np.maximum(np.abs(value), x * 1e-3)
    else:
        value = np.where(np.abs(t) < 1, x * phi(np.clip(t, -1, 1)), y - x - x * t)
        scale = np.abs(value)
    value = np.where(x == 0, np.where(name == "rel_entr", 0, y), value)
    value = np.where((x < 0) | (y < 0) | ((x > 0) & (y == 0)), np.inf, value)
    lone = (np.isinf(x) != np.isinf(y)) & ((x != 0) | (name == "kl_div"))  # 0·ln(0/inf) is 0
    value = np.where(lone, np.where(np.isinf(x) | (name == "kl_div"), np.inf, -np.inf), value)
    return np.where((np.isnan(x) | np.isnan(y) | (np.isinf(x) & np.isinf(y))), np.nan, value), scale


def _of_terms(name, count):
    return Function(
        _elementwise(name), _terms(name), TERMS, count, ("probs",), _signed, takes_given=False, raw=True, styles=()
    )


def _matrix_options(rng, inputs):
    return {"metric": pick(rng, list(METRICS))}


def _contribution_options(rng, inputs):
    return {"kind": pick(rng, ("plain", "generalized"))}


LOGITS = ("logits",)
FUNCTIONS = {
    "token_statistics": Function(
        _call_statistics,
        _statistics,
        ENTROPY,
        1,
        LOGITS,
        _statistics_options,
        takes_given=False,
        styles=("vocab_size",),
    ),
    "selective_log_softmax": Function(
        lambda arrays, options, keywords: {"value": kb.selective_log_softmax(*arrays, options["tokens"], **keywords)},
        lambda row, options: {"value": log_prob(row, options["tokens"])},
        ENTROPY,
        1,
        LOGITS,
        token_options,
        styles=("vocab_size", "base", "out"),
    ),
    "sequence_log_ratios": Function(
        _call_sequences, _sequences, DIVERGENCE, 2, LOGITS, _sequence_options, styles=("vocab_size", "base")
    ),
    "divergence_matrix": Function(
        lambda arrays, options, keywords: {"value": kb.divergence_matrix(*arrays, **options, **keywords)},
        _matrix,
        MIXED,
        options=_matrix_options,
        most=5000,
        styles=("vocab_size",),
        bits=False,  # another algorithm serves other layouts
    ),
    "kl_contributions": Function(
        lambda arrays, options, keywords: {"value": kb.kl_contributions(*arrays, **options)},
        _contributions,
        given=("probs",),
        options=_contribution_options,
        takes_given=False,
        refuses=True,
        styles=(),
        bits=False,  # NumPy's loops, whose sums go by the strides
    ),
    "topk_divergence": Function(_call_topk, _topk, DIVERGENCE, 2, LOGITS, _topk_options, takes_given=False, styles=()),
    "topk_kl_interval": Function(
        _call_interval, _interval, DIVERGENCE, 2, LOGITS, _topk_options, most=5000, takes_given=False, styles=()
    ),
    "entr": _of_terms("entr", 1),
    "rel_entr": _of_terms("rel_entr", 2),
    "kl_div": _of_terms("kl_div", 2),
}
