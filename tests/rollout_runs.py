"""Simulated RL runs: log-probs of sampled tokens by an inference engine and by a trainer, and faults put into them.

Every position has logits of its own over a small vocabulary, peaked at most positions and flat at some, as language
models' are (of the sampled tokens three fifths have a probability above 0.99, the mean log-prob is -0.3). Each engine
adds rounding of its own to them, the trainer also some updates of the policy; tokens are drawn from what the inference
engine says, so that temperatures, truncated supports and entropies are those of distributions.
"""

from dataclasses import dataclass, field

import numpy as np

VOCABULARY = 40
SCALES = (60.0, 14.0, 3.5)  # of logits at easy, middling and hard positions
LOWEST = np.float32(22.0)  # nats below the likeliest token, in which the tail ends
WORKERS = 8
PROMPT = 1.85  # how much flatter its author is than the model: a mean log-prob of about -2.8, as of human text


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def draw(rng, log_p):
    """One token a row."""
    return np.argmax(log_p + rng.gumbel(size=log_p.shape).astype(np.float32), axis=-1)


def at(log_p, tokens):
    return np.take_along_axis(log_p, tokens[:, None], axis=-1)[:, 0]


def entropy(log_p):
    return -(np.exp(log_p) * np.maximum(log_p, -1e30)).sum(axis=-1)


def top_p(log_p, share):
    """Log-probs renormalised over the fewest tokens that hold `share` of the mass."""
    order = np.argsort(-log_p, axis=-1)
    ranked = np.take_along_axis(np.exp(log_p), order, axis=-1)
    kept = np.cumsum(ranked, axis=-1) - ranked < share
    inside = np.zeros_like(kept)
    np.put_along_axis(inside, order, kept, axis=-1)
    return log_softmax(np.where(inside, log_p, -np.inf))


def bfloat16(x):
    """Rounded to eight bits, in float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


@dataclass
class Run:
    """One run, packed: what `audit` takes, and what faults are made of."""

    rollout: np.ndarray
    train: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray
    sources: list
    rollout_entropy: np.ndarray | None
    mask: np.ndarray | None = None
    differences: np.ndarray | None = None  # of the lengths of the two sides
    logits: tuple = field(default=(), repr=False)  # of the rollout engine and of the trainer

    def pieces(self, which):
        """Indices of the tokens of these sequences."""
        return np.concatenate([np.arange(self.offsets[b], self.offsets[b + 1]) for b in which])

    def copy(self):
        twin = Run(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        for name in ("rollout", "train", "tokens", "rollout_entropy"):
            setattr(twin, name, getattr(self, name).copy())
        twin.sources = list(self.sources)
        return twin


def clean_run(seed, sequences=1000, length=100):
    """Drift, rounding and storage differ between runs: from none at all to a policy several updates old."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(length), 0.5, sequences), 20, 4 * length).astype(int)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    # neighbours are alike: hard and easy stretches of some tens of tokens
    stretch = np.repeat(rng.random(n // 8 + 1), 8)[:n]
    scale = np.asarray(SCALES, np.float32)[np.searchsorted((0.5, 0.75), 0.5 * stretch + 0.5 * rng.random(n))]
    z = rng.standard_normal((n, VOCABULARY), np.float32) * scale[:, None]
    top = z.max(axis=-1, keepdims=True)
    z = top - LOWEST * np.tanh((top - z) / LOWEST)
    rounding, drift = rng.choice([0.005, 0.02, 0.05]), rng.choice([0.0, 0.02, 0.1, 0.3])
    z_rollout = z + np.float32(rounding) * rng.standard_normal(z.shape, np.float32)
    z_train = z + np.float32(np.hypot(rounding, drift)) * rng.standard_normal(z.shape, np.float32)
    log_r, log_t = log_softmax(z_rollout), log_softmax(z_train)
    tokens = draw(rng, log_r)
    rollout, train = at(log_r, tokens), at(log_t, tokens)
    if rng.random() < 0.2:
        train = bfloat16(train)
        rollout = bfloat16(rollout) if rng.random() < 0.5 else rollout
    sources = [f"worker-{i}" for i in rng.integers(0, WORKERS, sequences)]
    return Run(rollout, train, offsets, tokens, sources, entropy(log_r), logits=(z_rollout, z_train))


# ---- faults: a run, the sequences that get it and a generator -> the same run with it ----


def _moved(values, lag):
    """Values `lag` places later, those at the end at the start: what a slice too many or too few gives."""
    return np.roll(values, lag)


def shift(run, which, rng):
    """Train one token late or early, one lag in all sequences."""
    lag = rng.choice([-2, -1, 1, 2])
    for b in which:
        own = slice(*run.offsets[b : b + 2])
        run.train[own] = _moved(run.train[own], lag)


def zero_filled(run, which, rng):
    """A third of the tokens of a sequence without a log-prob, 0.0 in its place."""
    own = run.pieces(which)
    run.rollout[own[rng.random(own.size) < 0.33]] = 0.0


def sentinel(run, which, rng):
    """A twentieth of the tokens, and at least one of each sequence."""
    value = rng.choice([-9999.0, -100.0, 1.0, -1e9])
    own = run.pieces(which)
    run.train[own[rng.random(own.size) < 0.05]] = value
    run.train[run.offsets[which]] = value


def infinite(run, which, rng):
    """One token a sequence that the trainer gives no mass."""
    run.train[run.offsets[which] + rng.integers(0, 20, len(which))] = -np.inf


def missing(run, which, rng):
    """One token a sequence that the engine did not score."""
    run.rollout[run.offsets[which] + rng.integers(0, 20, len(which))] = np.nan


def positive(run, which, rng):
    """Negative log-likelihoods."""
    own = run.pieces(which)
    run.train[own] = -run.train[own]


def probabilities(run, which, rng):
    own = run.pieces(which)
    run.rollout[own] = np.exp(run.rollout[own])


def constant(run, which, rng):
    """The mean of the sequence at each of its tokens."""
    for b in which:
        own = slice(*run.offsets[b : b + 2])
        run.train[own] = run.train[own].mean()


def identical(run, which, rng):
    own = run.pieces(which)
    run.train[own] = run.rollout[own]


def length(run, which, rng):
    """The last third of a sequence cut off, padded with 0.0."""
    for b in which:
        start, stop = run.offsets[b : b + 2]
        run.train[stop - (stop - start) // 3 : stop] = 0.0


def unrelated(run, which, rng):
    """Train's sequences of other rows: those of the next in the list."""
    for b in which:
        start, stop = run.offsets[b : b + 2]
        other = (b + 1 + rng.integers(len(run.offsets) - 2)) % (len(run.offsets) - 1)
        run.train[start:stop] = np.resize(run.first_train[slice(*run.offsets[other : other + 2])], stop - start)


def temperature(run, which, rng):
    """Drawn at temperature 1, reported by the engine at another one."""
    own = run.pieces(which)
    z = run.logits[0][own] / np.float32(rng.choice([0.6, 0.8, 1.25]))
    run.rollout[own] = at(log_softmax(z), run.tokens[own])


def drawn_temperature(run, which, rng):
    """Drawn and reported by the engine at another temperature, from 0.5 to 1.5; the trainer scores at 1."""
    own = run.pieces(which)
    log_p = log_softmax(run.logits[0][own] / np.float32(rng.choice([0.5, 0.7, 0.85, 1.2, 1.5])))
    redrawn(run, own, log_p, rng)


def temperature_and_support(run, which, rng):
    """Drawn and reported at temperature 0.7 and top-p 0.95."""
    own = run.pieces(which)
    redrawn(run, own, top_p(log_softmax(run.logits[0][own] / np.float32(0.7)), 0.95), rng)


def redrawn(run, own, log_p, rng):
    """Tokens drawn from what the engine then reports."""
    run.tokens[own] = draw(rng, log_p)
    run.rollout[own], run.rollout_entropy[own] = at(log_p, run.tokens[own]), entropy(log_p)
    run.train[own] = at(log_softmax(run.logits[1][own]), run.tokens[own])


def sampling_temperature(run, which, rng):
    """Drawn at another temperature, both sides reported at 1: only entropies can tell."""
    own = run.pieces(which)
    drawn = draw(rng, log_softmax(run.logits[0][own] / np.float32(rng.choice([0.6, 0.8, 1.25]))))
    run.tokens[own] = drawn
    run.rollout[own] = at(log_softmax(run.logits[0][own]), drawn)
    run.train[own] = at(log_softmax(run.logits[1][own]), drawn)


def truncated_support(run, which, rng):
    """Drawn from the tokens that hold 80 to 95 % of the mass, log-probs renormalised over them."""
    own = run.pieces(which)
    redrawn(run, own, top_p(log_softmax(run.logits[0][own]), rng.choice([0.8, 0.9, 0.95])), rng)


def masked_prompt(run, which, rng):
    """The first third of a sequence by somebody else: the model is uncertain of it and was not asked."""
    own = first_thirds(run, which)
    noise = run.logits[1][own] - run.logits[0][own]
    z = np.float32(SCALES[-1]) * rng.standard_normal(noise.shape, np.float32)
    run.tokens[own] = draw(rng, log_softmax(z / np.float32(PROMPT)))
    run.rollout[own] = at(log_softmax(z), run.tokens[own])
    run.train[own] = at(log_softmax(z + noise), run.tokens[own])
    run.rollout_entropy[own] = entropy(log_softmax(z))


def first_thirds(run, which):
    """Indices of their tokens."""
    starts, lengths = run.offsets[which], np.diff(run.offsets)[which]
    return np.concatenate([np.arange(a, a + n // 3) for a, n in zip(starts, lengths, strict=True)])


def empty_prompt(run, which, rng):
    """The first third of a sequence without log-probs from the engine."""
    for b in which:
        start, stop = run.offsets[b : b + 2]
        run.rollout[start : start + (stop - start) // 3] = 0.0


def duplicates(run, which, rng):
    """Each a copy of its neighbour; where both are chosen, of the first of the two."""
    originals = [np.arange(*run.offsets[b : b + 2]) for b in range(len(run.offsets) - 1)]
    pieces, chosen = list(originals), set(which.tolist())
    for b in which.tolist():
        pieces[b] = originals[min(b, b ^ 1) if b ^ 1 in chosen else (b ^ 1) % len(pieces)]
    order = np.concatenate(pieces)
    run.offsets = np.concatenate([[0], np.cumsum([p.size for p in pieces])])
    for name in ("rollout", "train", "tokens", "rollout_entropy"):
        setattr(run, name, getattr(run, name)[order])


def bad_source(run, which, rng):
    """One worker has these sequences, with weights that are several updates older."""
    own = run.pieces(which)
    z = run.logits[1][own] + np.float32(0.5) * rng.standard_normal((own.size, VOCABULARY), np.float32)
    z += np.float32(4) * (run.logits[1][own] - run.logits[0][own])
    run.train[own] = at(log_softmax(z), run.tokens[own])
    for b in which:
        run.sources[b] = "worker-x"


def rounding(run, which, rng):
    """Both sides written as bfloat16."""
    run.rollout, run.train = bfloat16(run.rollout), bfloat16(run.train)


# fault -> the check that must name it
FAULTS = {
    shift: "shift", zero_filled: "zero_filled", sentinel: "sentinel", infinite: "infinite", missing: "missing",
    positive: "positive", probabilities: "probabilities", constant: "constant", identical: "identical",
    length: "length", unrelated: "unrelated", temperature: "temperature", drawn_temperature: "temperature",
    temperature_and_support: "temperature", sampling_temperature: "temperature",
    truncated_support: "truncated_support", masked_prompt: "masked_prompt", empty_prompt: "masked_prompt",
    duplicates: "duplicates", bad_source: "bad_source", rounding: "rounding",
}  # fmt: skip
WITH_ENTROPIES = (sampling_temperature,)


def audited(run, entropies=False):
    from kullback.rlhf import audit

    return audit(
        run.rollout, run.train, offsets=run.offsets, tokens=run.tokens, sources=run.sources,
        rollout_entropy=run.rollout_entropy if entropies else None,
    )  # fmt: skip


def with_fault(run, fault, share, rng):
    """(the run with the fault in that share of its sequences, at least one; which)."""
    count = len(run.offsets) - 1
    which = np.sort(rng.choice(count, max(1, round(share * count)), replace=False))
    twin = run.copy()
    twin.first_train = run.train
    fault(twin, which, rng)
    return twin, which
