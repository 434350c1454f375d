"""The same work by others: what a careful user of NumPy, SciPy, torch, JAX, SimSIMD and NumKong would write.

A peer takes `Inputs` and a number of threads and returns a function without arguments, ready to be timed; importing,
compiling and converting have then been done. Rows are float32 or float64; 16-bit rows are widened by the peer.
"""

import inspect

import numpy as np

TOP_K = 20  # a usual number of alternatives a server is asked for

# ---------------------------------------------------------------------------------------------------- NumPy, SciPy


def wide(x):
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def numpy_compare(p, q):
    log_p, log_q = log_softmax(wide(p)), log_softmax(wide(q))
    p_probs, q_probs = np.exp(log_p), np.exp(log_q)
    difference = log_p - log_q
    return (
        (p_probs * difference).sum(-1), -(q_probs * difference).sum(-1), -(p_probs * log_p).sum(-1),
        -(q_probs * log_q).sum(-1), p.argmax(-1), q.argmax(-1),
    )  # fmt: skip


def numpy_kl(p, q):
    log_p, log_q = log_softmax(wide(p)), log_softmax(wide(q))
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def numpy_kl_of_probs(p, q):
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return (p * np.log(p / q)).sum(-1)


def numpy_entropy(p):
    log_p = log_softmax(wide(p))
    return -(np.exp(log_p) * log_p).sum(-1)


def numpy_logsumexp(x):
    top = x.max(-1)
    return top + np.log(np.exp(x - top[:, None]).sum(-1))


def numpy_token_log_probs(x, tokens):
    return np.take_along_axis(x, tokens[:, None], -1)[:, 0] - numpy_logsumexp(x)


def numpy_token_log_ratios(p, q, tokens):
    return numpy_token_log_probs(p, tokens) - numpy_token_log_probs(q, tokens)


def numpy_token_statistics(x, tokens):
    x = wide(x)
    lse, chosen = numpy_logsumexp(x), np.take_along_axis(x, tokens[:, None], -1)
    top = -np.sort(-np.partition(x, -TOP_K, -1)[:, -TOP_K:], -1)
    return chosen[:, 0] - lse, (x >= chosen).sum(-1), numpy_entropy(x), top - lse[:, None]


def numpy_jensen_shannon(p, q):
    log_p, log_q = log_softmax(wide(p)), log_softmax(wide(q))
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.log(0.5 * (p + q))
    return 0.5 * (p * (log_p - log_m)).sum(-1) + 0.5 * (q * (log_q - log_m)).sum(-1)


def scipy_kl(p, q):
    from scipy.special import log_softmax, rel_entr

    return rel_entr(np.exp(log_softmax(p, -1)), np.exp(log_softmax(q, -1))).sum(-1)


def scipy_kl_of_probs(p, q):
    from scipy.stats import entropy

    return entropy(p, q, axis=-1)


def scipy_entropy_of_probs(p):
    from scipy.stats import entropy

    return entropy(p, axis=-1)


def scipy_logsumexp(x):
    from scipy.special import logsumexp

    return logsumexp(x, axis=-1)


def scipy_log_softmax(x):
    from scipy.special import log_softmax

    return log_softmax(x, axis=-1)


def scipy_jensen_shannon_of_probs(p, q):
    from scipy.spatial.distance import jensenshannon

    return jensenshannon(p, q, axis=-1) ** 2


# ------------------------------------------------------------------------------------------------------------ torch


def torch_wide(x):
    return x if x.element_size() > 2 else x.float()


def torch_pair(p, q):
    return torch_wide(p).log_softmax(-1), torch_wide(q).log_softmax(-1)


def torch_compare(p, q):
    log_p, log_q = torch_pair(p, q)
    p_probs, q_probs = log_p.exp(), log_q.exp()
    difference = log_p - log_q
    return (
        (p_probs * difference).sum(-1), -(q_probs * difference).sum(-1), -(p_probs * log_p).sum(-1),
        -(q_probs * log_q).sum(-1), p.argmax(-1), q.argmax(-1),
    )  # fmt: skip


def torch_kl(p, q):
    log_p, log_q = torch_pair(p, q)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def torch_reverse_kl(p, q):
    return torch_kl(q, p)


def torch_kl_of_probs(p, q):
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    return (p * (p.log() - q.log())).sum(-1)


def torch_entropy(p):
    log_p = p.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def torch_entropy_of_probs(p):
    p = p / p.sum(-1, keepdim=True)
    return -(p * p.log()).sum(-1)


def torch_logsumexp(x):
    return x.logsumexp(-1)


def torch_log_softmax(x):
    return x.log_softmax(-1)


def torch_token_log_probs(x, tokens):
    return x.gather(-1, tokens[:, None])[:, 0] - x.logsumexp(-1)


def torch_token_statistics(x, tokens):
    log_probs = torch_wide(x).log_softmax(-1)
    chosen = log_probs.gather(-1, tokens[:, None])
    rank = (log_probs >= chosen).sum(-1)
    return chosen[:, 0], rank, -(log_probs.exp() * log_probs).sum(-1), log_probs.topk(TOP_K, -1).values


def torch_token_log_ratios(p, q, tokens):
    return torch_token_log_probs(p, tokens) - torch_token_log_probs(q, tokens)


def torch_jensen_shannon(p, q):
    log_p, log_q = torch_pair(p, q)
    p, q = log_p.exp(), log_q.exp()
    log_m = (0.5 * (p + q)).log()
    return 0.5 * (p * (log_p - log_m)).sum(-1) + 0.5 * (q * (log_q - log_m)).sum(-1)


def torch_jensen_shannon_of_probs(p, q):
    log_m = (0.5 * (p + q)).log()
    return 0.5 * (p * (p.log() - log_m)).sum(-1) + 0.5 * (q * (q.log() - log_m)).sum(-1)


def torch_renyi(p, q):
    log_p, log_q = torch_pair(p, q)
    return (2 * log_p - log_q).logsumexp(-1)


def torch_cressie_read(p, q):
    log_p, log_q = torch_pair(p, q)
    return 2 * ((log_p + (log_p - log_q) * 2 / 3).exp().sum(-1) - 1) / (2 / 3 * 5 / 3)


def torch_itakura_saito(p, q):
    ratio = (p / p.sum(-1, keepdim=True)) / (q / q.sum(-1, keepdim=True))
    return (ratio - ratio.log() - 1).sum(-1)


def torch_total_variation(p, q):
    return 0.5 * (p.softmax(-1) - q.softmax(-1)).abs().sum(-1)


def torch_hellinger(p, q):
    log_p, log_q = torch_pair(p, q)
    return (1 - (0.5 * (log_p + log_q)).exp().sum(-1)).clamp(min=0).sqrt()


def torch_chi2(p, q):
    log_p, log_q = torch_pair(p, q)
    return (2 * log_p - log_q).exp().sum(-1) - 1


# ------------------------------------------------------------------------------------- how each is made ready to run


def plain(function):
    """A peer that takes NumPy arrays: one argument for each parameter among p, q, tokens."""

    def prepare(inputs, threads):
        arguments = (inputs.p, inputs.q, inputs.tokens)
        return lambda: function(*chosen(function, arguments))

    return prepare


def chosen(function, arguments):
    """Those of (p, q, tokens) that the function has parameters for."""
    function = inspect.unwrap(function)
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    if names[-1] in ("tokens", "offsets"):
        return (*arguments[: len(names) - 1], arguments[2])
    return arguments[: len(names)]


def blockwise(function, rows=8):
    """NumPy again, some rows at a time: temporaries stay in the cache, which is what an expert would do."""

    def prepare(inputs, threads):
        def run():
            parts = [
                function(*(x[i : i + rows] for x in chosen(function, (inputs.p, inputs.q, inputs.tokens))))
                for i in range(0, len(inputs.p), rows)
            ]
            if isinstance(parts[0], tuple):
                return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
            return np.concatenate(parts)

        return run

    return prepare


def on_tensors(function, inputs, threads):
    """The function over the inputs as tensors, without gradients, on that many threads."""
    import torch

    torch.set_num_threads(threads)
    arguments = chosen(function, inputs.tensors())

    def run():
        with torch.no_grad():
            return function(*arguments)

    return run


def eager(function):
    return lambda inputs, threads: on_tensors(function, inputs, threads)


def compiled(function):
    def prepare(inputs, threads):
        import torch

        torch.compiler.reset()
        return on_tensors(torch.compile(function, dynamic=False), inputs, threads)

    return prepare


def gradient_of(function, inputs, threads):
    """The function of every row, and the gradient of their sum for q by autograd."""
    import torch

    torch.set_num_threads(threads)
    p, q, _ = inputs.tensors()
    q.requires_grad_()

    def run():
        q.grad = None
        values = function(p, q)
        values.sum().backward()
        return values.detach()

    return run


def eager_gradient(function):
    return lambda inputs, threads: gradient_of(function, inputs, threads)


def compiled_gradient(function):
    def prepare(inputs, threads):
        import torch

        torch.compiler.reset()
        return gradient_of(torch.compile(function, dynamic=False), inputs, threads)

    return prepare


def jitted(function):
    def prepare(inputs, threads):
        import jax

        arguments = [jax.numpy.asarray(x) for x in (inputs.p, inputs.q)]
        run = jax.jit(function)
        return lambda: jax.block_until_ready(run(*arguments))

    return prepare


def jax_compare(p, q):
    import jax

    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    p_probs, q_probs = jax.numpy.exp(log_p), jax.numpy.exp(log_q)
    difference = log_p - log_q
    return (
        (p_probs * difference).sum(-1), -(q_probs * difference).sum(-1), -(p_probs * log_p).sum(-1),
        -(q_probs * log_q).sum(-1), p.argmax(-1), q.argmax(-1),
    )  # fmt: skip


def simsimd(name):
    """SimSIMD on rows that are normalised already; it runs on one thread. Its Jensen-Shannon is the distance."""

    def prepare(inputs, threads):
        import simsimd

        function = getattr(simsimd, name)
        power = 2 if name == "jensenshannon" else 1
        return lambda: np.asarray(function(inputs.p, inputs.q)) ** power

    return prepare


def numkong(name):
    """NumKong, SimSIMD's successor; it runs on one thread here."""

    def prepare(inputs, threads):
        import numkong

        function = getattr(numkong, name)
        power = 2 if name == "jensenshannon" else 1
        return lambda: np.asarray(function(inputs.p, inputs.q), dtype=np.float64) ** power

    return prepare


def eager_blockwise(function, rows=8):
    """torch eager, some rows at a time: temporaries stay in the cache."""

    def prepare(inputs, threads):
        import torch

        torch.set_num_threads(threads)
        p, q, _ = inputs.tensors()

        def run():
            with torch.no_grad():
                parts = [function(p[i : i + rows], q[i : i + rows]) for i in range(0, len(p), rows)]
                return tuple(torch.cat(part) for part in zip(*parts, strict=True))

        return run

    return prepare


def in_torch(function):
    return {"torch eager": eager(function), "torch.compile": compiled(function)}


def in_numpy(function):
    return {"NumPy": plain(function), "NumPy, 8 rows at a time": blockwise(function)}


SINGLE_THREADED = ("NumPy", "NumPy, 8 rows at a time", "SciPy", "SimSIMD", "NumKong")
