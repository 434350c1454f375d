"""Every public function of rows and tokens: how it is called, what is true, and the bound it keeps.

An entry draws its own keywords, calls the package and names the truth of every number that comes back as a `Claim`. A
public function that takes rows and has no entry fails tests/test_space.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from space_inputs import GREATEST, pick
from space_truth import Pair, Row

import kullback as kb

REAL = np.longdouble
LEAST_SHARED = 1e-300  # of what two rows have in common: below are the last normal numbers of float64
SLACK = 1e-30  # of divergences: weights stop at 2^-126 of the greatest
ROUNDING = 1e-12  # by which a result may pass the end of its range
FIRST_ORDER = 1e-14  # of distances, which are square roots of divergences, and of total variation
LOG_SLACK = 1e-15  # of log-probs and entropies of rows of which one outcome takes nearly all


class Claim(NamedTuple):
    """What is true of one result: |got - value| ≤ bound · scale + slack, and least ≤ got ≤ greatest."""

    value: Any
    scale: Any = None  # |value| where not given
    slack: float = 0.0
    least: float = -math.inf
    greatest: float = math.inf
    exact: bool = False
    where: Any = True  # which elements are judged
    whole: bool = True  # value is the truth itself, not only on the right side of `least` and `greatest`


class Bound(NamedTuple):
    """Relative errors by the arithmetic of the inputs."""

    float64: float
    float32: float


DIVERGENCE = Bound(1e-11, 1e-6)
MIXED = Bound(1e-11, 2e-6)
ENTROPY = Bound(1e-11, 1e-6)


# ways to say the same: other axis, padded vocabulary, an array for the result, other unit
STYLES = ("axis", "vocab_size", "out", "base")
UNITLESS = ("axis", "vocab_size", "out")


@dataclass
class Function:
    """One public function in the space of inputs."""

    call: Callable[..., Any]  # (arrays, options, keywords) -> {quantity: array}
    truth: Callable[..., dict[str, Claim]]  # (Pair or Row, options) -> {quantity: Claim}
    bound: Bound = DIVERGENCE
    count: int = 2
    given: tuple[str, ...] = ("probs", "log_probs", "logits", "logits")
    options: Callable[..., dict[str, Any]] = lambda rng, inputs: {}
    most: int = GREATEST
    takes_given: bool = True
    refuses: bool = False  # rows that are no distribution, by a ValueError
    raw: bool = False  # the truth is of the arrays themselves
    styles: tuple[str, ...] = STYLES
    bits: bool = True  # whether they are the same in every layout
    unitless: tuple[str, ...] = ()  # quantities that another base leaves alone


def claim_of(value, greatest, pair):
    return value if isinstance(value, Claim) else divergence(value, greatest, pair)


def divergence(value, greatest=math.inf, pair=None):
    """A float64 difference of logs is off by 1e-16 of itself, a divergence by the square of that."""
    return Claim(value, None, SLACK * (1 if pair is None else pair.apart**2), 0.0, greatest)


def distance(value, pair, greatest):
    """Of first order in that difference."""
    return Claim(value, None, FIRST_ORDER * pair.apart, 0.0, greatest)


def _simple(name, quantity, bound=DIVERGENCE, greatest=math.inf, options=None, **more):
    """A function of two rows with one result; `quantity(pair, **options)`."""

    def call(arrays, options, keywords):
        return {"value": getattr(kb, name)(*arrays, **options, **keywords)}

    def truth(pair, options):
        return {"value": claim_of(quantity(pair, **options), greatest, pair)}

    return Function(call, truth, bound, options=options or (lambda rng, inputs: {}), **more)


def _one(name, quantity, bound=ENTROPY, **more):
    def call(arrays, options, keywords):
        return {"value": getattr(kb, name)(*arrays, **options, **keywords)}

    def truth(row, options):
        return {"value": quantity(row)}

    return Function(call, truth, bound, count=1, **more)


# ---- keywords that entries draw ----


def _weight(rng, inputs):
    return {"weight": float(pick(rng, (0.5, 0.5, rng.uniform(0.01, 0.99), 1e-2, 0.99, 0.0, 1.0)))}


def _alpha(rng, inputs):
    drawn = (
        0.0,
        0.5,
        1.0,
        2.0,
        math.inf,
        rng.uniform(0, 3),
        10 ** rng.uniform(-300, -1),
        1 - 1e-10,
        1 + 1e-10,
        10 ** rng.uniform(0, 2),
        -1.0,
        -math.inf,
        -rng.uniform(0, 3),
        -(10 ** rng.uniform(-300, -1)),
        -(10 ** rng.uniform(0, 2)),
    )
    return {"alpha": float(pick(rng, drawn, (1, 2, 1, 2, 1, 4, 1, 1, 1, 2, 1, 1, 2, 1, 1)))}


def _power(rng, inputs):
    """Of which long double knows 1 + λ: the truth is found of that."""
    drawn = (2 / 3, 1.0, 0.0, -0.5, -1.0, -2.0, rng.uniform(-3, 3), 0.5 ** int(rng.integers(10, 60)))
    drawn += (-1 - 0.5 ** int(rng.integers(10, 50)),)
    return {"lambda_": float(pick(rng, drawn))}


def _tokens(rng, inputs, ignored=True):
    rows, v = inputs.plain[0].shape
    ids = rng.integers(0, v, rows)
    if ignored and rng.random() < 0.2:
        ids[rng.integers(0, rows)] = -100
    return ids


def token_options(rng, inputs):
    return {"tokens": _tokens(rng, inputs)}


def chosen(log, tokens):
    """log of each row's token, NaN where ignored; log (..., V)."""
    kept = np.take_along_axis(log, np.where(tokens < 0, 0, tokens)[..., None], -1)[..., 0]
    return np.where(tokens < 0, np.nan, kept)


# ---- truths ----


def _difference_scale(pair):
    """The size of ln P/Q where P or Q has mass: what a log-ratio is known relative to.

    float32 lanes round the ratio of each outcome, and each weight, to 1e-7 of itself, and the log-ratio of any token
    has the rounding of all in it: of rows of thousands of small outcomes more than 1e-6 of any one. No float32 sum
    over a row in one pass knows it better.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        share = np.where(pair.both, np.maximum(pair.p.share, pair.q.share), 0)
        sizes = np.where(share > 0, share * np.abs(np.where(pair.both, pair.delta, 0)), 0)
    exact = all(side.dtype.kind in "iub" or side.dtype in (np.float64, REAL) for side in (pair.p, pair.q))
    return sizes.max(-1) if exact else sizes.sum(-1)


def log_ratio(pair, tokens):
    value = chosen(pair.log_ratio, tokens)
    with np.errstate(invalid="ignore"):
        return Claim(value, np.maximum(np.abs(value), np.minimum(_difference_scale(pair), 1)), 1e-15 * pair.apart)


def _lse(row):
    value = np.where(row.empty, np.nan, row.lse)
    return Claim(value, np.maximum(np.abs(value), 1))


def log_prob(row, tokens):
    return Claim(chosen(row.log_probs, tokens), None, LOG_SLACK, -math.inf, 0.0)


def _entropy(row):
    return Claim(row.entropy, None, LOG_SLACK, 0.0)


def _cross_entropy(pair):
    return Claim(pair.cross_entropy, None, LOG_SLACK, 0.0)


def _compare(pair, options):
    tokens = options.get("tokens")
    claims = {
        "kl": divergence(pair.kl),
        "reverse_kl": divergence(pair.reverse_kl),
        "cross_entropy": _cross_entropy(pair),
        "entropy_p": _entropy(pair.p),
        "entropy_q": _entropy(pair.q),
        "top1_p": Claim(pair.p.top1, exact=True),
        "top1_q": Claim(pair.q.top1, exact=True),
        "acceptance": Claim(pair.acceptance, None, LEAST_SHARED, 0.0, 1.0),
        "rejection": distance(pair.total_variation, pair, 1.0),
    }
    if tokens is not None:
        claims |= {"log_prob_p": log_prob(pair.p, tokens), "log_prob_q": log_prob(pair.q, tokens)}
        claims["log_ratio"] = log_ratio(pair, tokens)
        for name, claim in claims.items():  # rows of ignored tokens are not read
            nothing = -1 if claim.exact else np.nan
            claims[name] = claim._replace(value=np.where(tokens < 0, nothing, claim.value))
    # a row without a distribution spoils its pair
    return {name: claim._replace(where=~pair.undefined) for name, claim in claims.items()}


def _call_compare(arrays, options, keywords):
    c = kb.compare(*arrays, **options, **keywords)
    names = ["kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q", "top1_p", "top1_q", "acceptance"]
    if "tokens" in options:
        names += ["log_prob_p", "log_prob_q", "log_ratio"]
    return {name: getattr(c, name) for name in names} | {"rejection": 1.0 - c.acceptance}


def _call_log_softmax(arrays, options, keywords):
    return {"value": kb.log_softmax(*arrays, **keywords)}


def _log_softmax(row, options):
    with np.errstate(invalid="ignore"):
        return {"value": Claim(row.log_probs, None, LOG_SLACK, -math.inf, 0.0)}


def _renyi(pair, alpha):
    """Towards order 1 the logarithm of a number near 1 is divided by α - 1."""
    if alpha < 0:  # α/(1 - α) times D of order 1 - α, the rows exchanged
        claim, factor = (
            _renyi(pair.swapped(), 1 - REAL(alpha)),
            REAL(1 if alpha == -math.inf else alpha / (REAL(alpha) - 1)),
        )
        value = -factor * claim.value + REAL(0)
        return claim._replace(value=value, slack=factor * claim.slack, least=-math.inf, greatest=0.0)
    value = pair.renyi(alpha)
    if alpha == math.inf:  # the logarithm of one ratio
        return distance(value, pair, math.inf)
    near, loose = (0, 0) if alpha == 1 else (1e-15 / abs(1 - alpha), pair.loose(alpha) / abs(1 - alpha))
    return divergence(value, pair=pair)._replace(slack=SLACK * pair.apart**2 + near * np.minimum(value, 1e9) + loose)


def _chi2(pair):
    claim = divergence(pair.chi2, pair=pair)
    with np.errstate(over="ignore", invalid="ignore"):
        loose = pair.loose(2.0)
        return claim._replace(slack=claim.slack + np.where(loose > 0, loose * (1 + np.minimum(claim.value, 1e300)), 0))


def _cressie_read(pair, lambda_):
    """As Rényi's towards order 1 and χ² beyond; what is raised to a power is off by as many times more."""
    value = pair.cressie_read(lambda_)
    claim = divergence(value, pair=pair)
    power = max(lambda_, -1 - lambda_)
    with np.errstate(over="ignore", invalid="ignore"):
        grown = np.log1p(power * (1 + power) / 2 * np.minimum(np.maximum(value, 0), 1e4000)) if power > 0 else 0
        loose = (pair if lambda_ >= -0.5 else pair.swapped()).loose(1 + power)
        claim = claim._replace(scale=value * np.maximum(1, grown))
        return claim._replace(slack=claim.slack + np.where(loose > 0, loose * (1 + np.minimum(value, 1e300)), 0))


GENERATORS: dict[str, Callable[[Pair], Any]] = {
    "kl": lambda pair: pair.kl,
    "reverse_kl": lambda pair: pair.reverse_kl,
    "jeffreys": lambda pair: pair.kl + pair.reverse_kl,
    "js": lambda pair: pair.jensen_shannon(),
    "tv": lambda pair: distance(pair.total_variation, pair, 1 + ROUNDING),  # as the function of that name
    "squared_hellinger": lambda pair: pair.squared_hellinger,
    "chi2": _chi2,
    "neyman_chi2": lambda pair: _chi2(pair.swapped()),
}


def _jsd(pair, beta):
    """Arguments are (student, teacher): P is the student."""
    if beta == 0:
        return pair.reverse_kl
    return pair.kl if beta == 1 else pair.swapped().jensen_shannon(beta)


FUNCTIONS: dict[str, Function] = {
    "kl_divergence": _simple("kl_divergence", lambda pair: pair.kl),
    "cross_entropy": _simple("cross_entropy", _cross_entropy, ENTROPY),
    "entropy": _one("entropy", _entropy),
    "entropy_from_logits": _one("entropy_from_logits", _entropy, given=("logits",), takes_given=False),
    "logsumexp": _one("logsumexp", _lse, given=("logits",), takes_given=False),
    "log_softmax": Function(_call_log_softmax, _log_softmax, ENTROPY, count=1, given=("logits",), takes_given=False),
    "jensen_shannon_divergence": _simple(
        "jensen_shannon_divergence", lambda pair, weight: pair.jensen_shannon(weight), MIXED, options=_weight
    ),
    "jensen_shannon_distance": _simple(
        "jensen_shannon_distance",
        lambda pair: distance(np.sqrt(pair.jensen_shannon()), pair, math.sqrt(math.log(2)) * (1 + 1e-6)),
        MIXED,
    ),
    "generalized_jsd": _simple(
        "generalized_jsd", _jsd, MIXED, options=lambda rng, inputs: {"beta": _weight(rng, inputs)["weight"]}
    ),
    "skew_kl_divergence": _simple(
        "skew_kl_divergence", lambda pair, weight: pair.skew_kl(weight), MIXED, options=_weight
    ),
    "symmetric_kl_divergence": _simple(
        "symmetric_kl_divergence", lambda pair, weight: pair.symmetric_kl(weight), options=_weight
    ),
    "renyi_divergence": _simple("renyi_divergence", _renyi, MIXED, options=_alpha),
    "total_variation": _simple(
        "total_variation", lambda pair: distance(pair.total_variation, pair, 1 + ROUNDING), MIXED, styles=UNITLESS
    ),
    "hellinger_distance": _simple(
        "hellinger_distance",
        lambda pair: distance(np.sqrt(pair.squared_hellinger), pair, 1 + ROUNDING),
        MIXED,
        styles=UNITLESS,
    ),
    "chi2_divergence": _simple("chi2_divergence", _chi2, MIXED, styles=UNITLESS),
    "cressie_read_divergence": _simple(
        "cressie_read_divergence", _cressie_read, MIXED, options=_power, styles=UNITLESS
    ),
    "itakura_saito_divergence": _simple(
        "itakura_saito_divergence", lambda pair: pair.itakura_saito, given=("probs",), styles=UNITLESS
    ),
    "f_divergence": _simple(
        "f_divergence",
        lambda pair, generator: GENERATORS[generator](pair),
        MIXED,
        options=lambda rng, inputs: {"generator": pick(rng, list(GENERATORS))},
        styles=UNITLESS,
    ),
    "compare": Function(
        _call_compare,
        _compare,
        options=lambda rng, inputs: token_options(rng, inputs) if rng.random() < 0.7 else {},
        styles=("axis", "vocab_size", "base"),
        unitless=("acceptance", "rejection"),
    ),
    "token_log_probs": Function(
        lambda arrays, options, keywords: {"value": kb.token_log_probs(*arrays, **options, **keywords)},
        lambda row, options: {"value": log_prob(row, options["tokens"])},
        ENTROPY,
        count=1,
        options=token_options,
        styles=("vocab_size", "base", "out"),
    ),
    "token_log_ratios": Function(
        lambda arrays, options, keywords: {"value": kb.token_log_ratios(*arrays, **options, **keywords)},
        lambda pair, options: {"value": log_ratio(pair, options["tokens"])},
        options=token_options,
        styles=("vocab_size", "base", "out"),
    ),
}


def truth_of(function, inputs):
    """The Pair or the Row of the plain arrays, or these themselves."""
    if function.raw:
        return inputs.plain
    return (Pair if function.count == 2 else Row)(*inputs.plain, inputs.given, inputs.temperature)
