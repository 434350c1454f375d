"""The space of inputs for losses and their gradients along logits; see space_functions."""

import math

import ml_dtypes
import numpy as np
from space_functions import FIRST_ORDER, LOG_SLACK, SLACK, Bound, Claim, Function, chosen, token_options
from space_inputs import pick

import kullback as kb

REAL = np.longdouble
GRADIENT = Bound(1e-10, 2e-6)  # of the greatest derivative of the row


def along(share, slopes, temperature):
    """dL/dlogits from slopes = dL/dln P: (slopes - P Σ slopes) / T."""
    return (slopes - share * slopes.sum(-1, keepdims=True)) / REAL(temperature)


def gradient_claim(gradient, dtype, temperature, where, apart=1.0):
    """Relative to the row's greatest derivative, and once rounded to the dtype it is written in."""
    info = ml_dtypes.finfo(dtype if dtype.kind not in "iub" and dtype != np.longdouble else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        gradient = np.where(where, gradient, 0)
        size = np.abs(np.where(np.isfinite(gradient), gradient, 0))
        scale = np.broadcast_to(size.max(-1, keepdims=True), gradient.shape)
        rounding = size * float(info.eps) + float(info.smallest_subnormal) + 10 * LOG_SLACK * apart / temperature
    return Claim(gradient, scale, rounding, where=where)


# ---- distillation ----

PARAMETERS = {
    "forward_kl": None,
    "reverse_kl": None,
    "jsd": (0.5, 0.1, 0.9, 0.0, 1.0),
    "symmetric_kl": (0.5, 0.3, 0.0, 1.0),
    "skew_kl": (0.1, 0.5, 0.0),
    "skew_reverse_kl": (0.1, 0.5, 0.0),
    "tv": None,
    "renyi": (0.5, 0.3, 2.0, 0.9, 5.0),
    "cressie_read": (2 / 3, 1.0, 0.0, -0.5, -1.0, -2.0),
    "soft_cross_entropy": None,
}


def _loss(pair, loss, parameter):
    """(values, slopes along ln P of the teacher, along ln Q of the student); constants times P or Q are left out."""
    p, q = pair.p.share, pair.q.share
    with np.errstate(over="ignore", invalid="ignore"):
        delta = np.where(pair.both, pair.delta, 0)
        near = np.abs(delta) < 1
        gap = np.where(near, p * np.expm1(np.where(near, delta, 0)), q - p)
        # slopes to a constant that all outcomes share, which `along` takes off: ln Q/P may be 1e20, their rounding 1
        to_p, to_q = (np.where(pair.both, pair.ratios(row.top), 0) for row in (pair.p, pair.q))
        forward, reverse = (pair.kl, -p * to_p, gap), (pair.reverse_kl, -gap, q * to_q)
        w = REAL(parameter or 0)
        if loss == "jsd" and 0 < w < 1:  # M = βT + (1-β)S
            to_p, to_q = (np.where(pair.both, to, 0) for to in pair.to_mixture(w))
            return pair.jensen_shannon(w), -w * p * to_p, -(1 - w) * q * to_q
        if loss in ("skew_kl", "skew_reverse_kl") and 0 < w < 1:
            first = loss == "skew_kl"
            to = np.where(pair.both, pair.to_mixture(w if first else 1 - w)[0 if first else 1], 0)
            x, y = (p, q) if first else (q, p)
            own, other = -x * to - w * x * np.expm1(-to), -(1 - w) * y * np.expm1(-to)
            values = pair.skew_kl(w) if first else pair.swapped().skew_kl(w)
            return (values, own, other) if first else (values, other, own)
        if loss == "tv":
            return pair.total_variation, -p * np.sign(delta) / 2, q * np.sign(delta) / 2
        if loss == "renyi":
            value = pair.renyi(float(w))[..., None]
            shift = (1 - w) * value
            from_p, from_q = (1 - w) * delta + shift, -w * delta + shift
            tilted = np.exp(pair.p.log + from_p)
            less_p = np.where(np.abs(from_p) < 1, p * np.expm1(np.clip(from_p, -1, 1)), tilted - p)
            less_q = np.where(np.abs(from_q) < 1, q * np.expm1(np.clip(from_q, -1, 1)), tilted - q)
            return value[..., 0], w / (w - 1) * less_p, -less_q
        if loss == "cressie_read" and w in (0, -1):
            value, from_p, from_q = forward if w == 0 else reverse
            return 2 * value, 2 * from_p, 2 * from_q
        if loss == "cressie_read":
            grown = (w * pair.renyi(1 + w) if w >= -0.5 else (-1 - w) * pair.swapped().renyi(-w))[..., None]
            from_p, from_q = -w * delta - grown, -(1 + w) * delta - grown
            tilted = np.exp(pair.p.log + from_p)
            less_p = np.where(np.abs(from_p) < 1, p * np.expm1(np.clip(from_p, -1, 1)), tilted - p)
            less_q = np.where(np.abs(from_q) < 1, q * np.expm1(np.clip(from_q, -1, 1)), tilted - q)
            size = np.exp(grown)
            return pair.cressie_read(w), 2 / w * size * less_p, -2 / (1 + w) * size * less_q
        if loss == "soft_cross_entropy":  # its slope to a constant that all outcomes share, which `along` takes off
            at = pair.p.top
            surprise = np.where(pair.both, np.take_along_axis(pair.q.rise, at, -1) - pair.q.rise, 0)
            return pair.cross_entropy, p * surprise, gap
        mix = {"forward_kl": 1, "reverse_kl": 0, "jsd": 1 - w, "symmetric_kl": w, "skew_kl": 1, "skew_reverse_kl": 0}
        u = REAL(mix[loss])
        terms = [(share, part) for share, part in ((u, forward), (1 - u, reverse)) if share > 0]
        return tuple(sum(share * part[i] for share, part in terms) for i in range(3))


def _distillation_options(rng, inputs):
    loss = pick(rng, list(PARAMETERS))
    parameter = None if PARAMETERS[loss] is None else float(pick(rng, PARAMETERS[loss]))
    rows = inputs.plain[0].shape[0]
    options = {"loss": loss, "gradient": pick(rng, ("student", "teacher", "both"))}
    if parameter is not None:
        options[kb.DISTILLATION_LOSSES[loss].coefficient] = parameter
    if rng.random() < 0.3:
        options["weights"] = rng.uniform(0, 3, rows)
    return options


def _call_distillation(arrays, options, keywords):
    teacher, student = arrays
    r = kb.distillation_loss(student, teacher, reduction="none", **options, **keywords)
    found = {"value": r.per_token, "weighted": r.loss}
    for side in ("student", "teacher"):
        gradient = getattr(r, f"{side}_gradient")
        if gradient is not None:
            found[side] = np.asarray(gradient)
    return found


def _distillation(pair, options):
    loss = options["loss"]
    values, *slopes = _loss(pair, loss, options.get(kb.DISTILLATION_LOSSES[loss].coefficient))
    weights = options.get("weights", np.ones(len(values)))
    least = -math.inf if loss == "soft_cross_entropy" else 0.0
    # as of the divergences themselves, see space_functions.divergence and .distance
    slack = {"soft_cross_entropy": LOG_SLACK, "tv": FIRST_ORDER * pair.apart}
    slack = slack.get(loss, SLACK * pair.apart**2)
    claims = {"value": Claim(values, None, slack, least)}
    with np.errstate(invalid="ignore"):
        most = REAL(np.finfo(np.float64).max)  # beyond which a loss is inf, whatever its weight
        weighted = np.where(weights == 0, 0, np.where(np.abs(values) > most, np.inf, values) * weights)
    claims["weighted"] = claims["value"]._replace(value=weighted, slack=slack * np.maximum(weights, 1))
    # about the end of the range a value may be inf or the number (space.errors_of): its weight goes to either, and of
    # an infinite loss there is no gradient
    with np.errstate(invalid="ignore"):
        finite = np.abs(values) < most * (1 - 1e-5)
        at_end = (np.abs(values) <= most * (1 + 1e-5)) & ~finite
    claims["weighted"] = claims["weighted"]._replace(where=~at_end | (weights == 0))
    simple = ~(pair.only_p | pair.only_q).any(-1) & ~pair.undefined & finite & (weights > 0)
    if loss == "tv":  # where its sign is lost in rounding, so is the derivative
        share = np.maximum(pair.p.share, pair.q.share)
        simple &= ~((share > 0) & (np.abs(np.where(pair.both, pair.delta, 1)) < 1e-5)).any(-1)
    if loss == "renyi":
        simple &= values < 500
    if loss == "cressie_read":
        simple &= values < 1e30
    # float32 lanes, which serve log-ratios up to 8, round them: what is left of P·(d - Σ P·d) is relative to its terms
    single = any(row.dtype.name in ("float32", "float16", "bfloat16") for row in (pair.p, pair.q))
    gap = np.minimum(np.abs(np.where(pair.both, pair.delta, 0)), 8 if single else 0)
    for side, row, slope in zip(("teacher", "student"), (pair.p, pair.q), slopes, strict=True):
        if options["gradient"] in (side, "both"):
            gradient = along(row.share, slope, row.temperature) * weights[:, None]
            where = np.broadcast_to(simple[:, None], gradient.shape)
            apart = pair.apart[:, None] * weights[:, None]
            claim = gradient_claim(gradient, row.dtype, row.temperature, where, apart)
            with np.errstate(over="ignore"):
                terms = (row.share * gap).max(-1, keepdims=True) * weights[:, None] / row.temperature
            claims[side] = claim._replace(scale=np.where(where, np.maximum(claim.scale, terms), 0))
    return claims


# ---- losses of one row ----


def _call_cross_entropy_loss(arrays, options, keywords):
    r = kb.cross_entropy_loss(*arrays, gradient=True, reduction="none", **options, **keywords)
    return {"value": r.per_token, "gradient": np.asarray(r.gradient)}


def _cross_entropy_loss(row, options):
    labels, z_loss = options["labels"], REAL(options.get("z_loss", 0))
    lse = np.where(row.empty, np.nan, row.lse)
    with np.errstate(invalid="ignore", over="ignore"):
        values = z_loss * lse**2 - chosen(row.log_probs, labels)
        counted = labels >= 0
        values = np.where(counted, values, 0)
        scale = np.abs(chosen(row.log_probs, labels)) + z_loss * np.maximum(lse**2, 1)
        hit = np.arange(row.share.shape[-1]) == labels[:, None]
        mass = row.share * (1 + 2 * z_loss * lse[:, None])
        at_top = row.top == np.arange(row.share.shape[-1])
        at_label = np.where(at_top, -row.others / (1 + row.others), row.share - 1)
        gradient = np.where(hit, at_label + 2 * z_loss * lse[:, None] * row.share, mass) / row.temperature
    finite = values < np.finfo(np.float64).max
    where = np.broadcast_to((counted & ~row.undefined & finite)[:, None], gradient.shape)
    return {
        "value": Claim(values, scale, LOG_SLACK, 0.0),
        "gradient": gradient_claim(gradient, row.dtype, row.temperature, where),
    }


def _loss_options(rng, inputs):
    options = {"labels": token_options(rng, inputs)["tokens"]}
    if rng.random() < 0.3:
        options["z_loss"] = float(10 ** rng.uniform(-6, 0))
    return options


def _entropy_gradient(row, options):
    upstream = options.get("upstream", np.ones(len(row.share)))
    with np.errstate(invalid="ignore", over="ignore"):
        # ln P + H, of which a term that all outcomes share would leave its rounding where the others are nothing
        rise = np.where(row.share > 0, np.where(row.zero, 0, row.rise), 0)
        surprise = rise - (row.share * rise).sum(-1, keepdims=True)
        gradient = -row.share * surprise / row.temperature * upstream[:, None]
        # ln P + H cancels where nearly all is on one outcome; its terms are what it is relative to
        size = row.share * (np.abs(np.where(row.zero, 0, row.log)) + row.entropy[:, None]) / row.temperature
    where = np.broadcast_to(~row.undefined[:, None], gradient.shape)
    claim = gradient_claim(gradient, row.dtype, row.temperature, where)
    scale = np.maximum(claim.scale, (size * np.abs(upstream[:, None])).max(-1, keepdims=True))
    return {"gradient": claim._replace(scale=np.where(where, scale, 0))}


def _token_gradient(row, options):
    tokens, upstream = options["tokens"], options["upstream"]
    if tokens.ndim == 1:
        tokens, upstream = tokens[:, None], upstream[:, None]
    upstream = np.where(tokens < 0, 0, upstream)
    v = row.share.shape[-1]
    gradient, size = np.zeros(row.share.shape, REAL), np.zeros(row.share.shape, REAL)
    for k in range(tokens.shape[1]):
        hit = np.arange(v) == tokens[:, k, None]
        u = upstream[:, k, None]
        own = np.where(row.top == np.arange(v), row.others / (1 + row.others), 1 - row.share)
        gradient += u * np.where(hit, own, -row.share)
        size += np.abs(u) * np.where(hit, own, row.share)
    with np.errstate(over="ignore"):
        gradient, size = gradient / row.temperature, size / row.temperature
    where = np.broadcast_to(~row.undefined[:, None], gradient.shape)
    claim = gradient_claim(gradient, row.dtype, row.temperature, where)
    return {"gradient": claim._replace(scale=np.broadcast_to(size.max(-1, keepdims=True), size.shape))}


def _token_gradient_options(rng, inputs):
    rows, v = inputs.plain[0].shape
    shape = (rows,) if rng.random() < 0.6 else (rows, int(rng.integers(1, 4)))
    return {"tokens": rng.integers(0, v, shape), "upstream": rng.standard_normal(shape)}


def _upstream(rng, inputs):
    return {"upstream": rng.standard_normal(len(inputs.plain[0]))} if rng.random() < 0.5 else {}


def _gradient(name):
    return lambda arrays, options, keywords: {"gradient": np.asarray(getattr(kb, name)(*arrays, **options, **keywords))}


def _of_logits(call, truth, options, count=1):
    return Function(call, truth, GRADIENT, count, ("logits",), options, takes_given=False, styles=("vocab_size",))


FUNCTIONS = {
    "distillation_loss": _of_logits(_call_distillation, _distillation, _distillation_options, 2),
    "cross_entropy_loss": _of_logits(_call_cross_entropy_loss, _cross_entropy_loss, _loss_options),
    "entropy_gradient": _of_logits(_gradient("entropy_gradient"), _entropy_gradient, _upstream),
    "token_log_prob_gradient": _of_logits(
        _gradient("token_log_prob_gradient"), _token_gradient, _token_gradient_options
    ),
}
