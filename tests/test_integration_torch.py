"""torch: values and gradients against torch's own operators in float64, gradcheck, torch.compile, training."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.integration

from torch.nn import functional  # noqa: E402

from kullback.distillation import DISTILLATION_LOSSES  # noqa: E402
from kullback.integrations import torch as kt  # noqa: E402

LOSSES = [name for name in DISTILLATION_LOSSES if name != "soft_cross_entropy"]
COEFFICIENT = {
    "jsd": 0.3,
    "symmetric_kl": 0.3,
    "skew_kl": 0.2,
    "skew_reverse_kl": 0.2,
    "renyi": 0.7,
    "cressie_read": 0.6,
}


def coefficient(name):
    """Under its own name, where the loss has one."""
    return {DISTILLATION_LOSSES[name].coefficient: COEFFICIENT[name]} if name in COEFFICIENT else {}


def own(name, s, t, temperature=1.0):
    """Each loss, one value a row, in torch's operators."""
    ls, lt = (functional.log_softmax(x / temperature, -1) for x in (s, t))
    b = COEFFICIENT.get(name, 0.5)

    def kl(lp, lq):
        return (lp.exp() * (lp - lq)).sum(-1)

    def mixture(lp, lq, w):
        return torch.logaddexp(lp + np.log(w), lq + np.log1p(-w))

    return {
        "forward_kl": lambda: kl(lt, ls),
        "reverse_kl": lambda: kl(ls, lt),
        "jsd": lambda: b * kl(lt, mixture(lt, ls, b)) + (1 - b) * kl(ls, mixture(lt, ls, b)),
        "symmetric_kl": lambda: b * kl(lt, ls) + (1 - b) * kl(ls, lt),
        "skew_kl": lambda: kl(lt, mixture(lt, ls, b)),
        "skew_reverse_kl": lambda: kl(ls, mixture(ls, lt, b)),
        "tv": lambda: (ls.exp() - lt.exp()).abs().sum(-1) / 2,
        "cressie_read": lambda: 2 / (b * (b + 1)) * ((lt + b * (lt - ls)).exp().sum(-1) - 1),
        "renyi": lambda: torch.logsumexp(b * lt + (1 - b) * ls, -1) / (b - 1),
    }[name]()


def logits(seed=0, shape=(2, 5, 33), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_match_torch_in_float64(name, dtype):
    s, t = logits(dtype=dtype)
    wide = [x.detach().double().requires_grad_() for x in (s, t)]
    upstream = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = kt.distillation_loss(s, t, name, **coefficient(name), temperature=0.8, reduction="none")
    expected = own(name, *wide, 0.8)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6 if dtype != torch.float64 else 1e-11, atol=1e-9)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (got * upstream).sum().backward()
    (expected * upstream).sum().backward()
    limit = {torch.float64: 1e-11, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    for x, y in zip((s, t), wide, strict=True):
        assert x.grad.dtype == dtype
        assert (x.grad.double() - y.grad).abs().max() <= limit * y.grad.abs().max()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "tv"])
def test_gradcheck(name):
    s, t = logits(1, (3, 7))

    def run(s, t):
        return kt.distillation_loss(s, t, name, **coefficient(name), reduction="none")

    assert torch.autograd.gradcheck(run, (s, t), atol=1e-6)


def test_operators_pass_torchs_own_checks():
    s, t = logits(2, (3, 7))
    torch.library.opcheck(
        torch.ops.kullback.divergence_loss.default, (s, t, None, 1.0, "mixture", 0.5, 0.5, 0.5), raise_exception=True
    )


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum", "none"])
@pytest.mark.parametrize("log_target", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_kl_div_is_torchs(reduction, log_target, normalised):
    """Also for inputs that are no log-probabilities, and down to the gradients of both arguments."""
    s, t = logits(3)
    if normalised:
        s, t = (functional.log_softmax(x.detach(), -1).requires_grad_() for x in (s, t))
    target = t if log_target else t.exp()
    value = kt.kl_div(s, target, reduction, log_target)
    expected = functional.kl_div(s, target, reduction=reduction, log_target=log_target)
    torch.testing.assert_close(value, expected)
    got = torch.autograd.grad(value.sum(), (s, t), retain_graph=True)
    want = torch.autograd.grad(expected.sum(), (s, t))
    torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="'average'"):
        kt.kl_div(s, target, "average")


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("labelled", [True, False])
def test_generalized_jsd_loss_reduces_as_trl(beta, labelled):
    s, t = logits(4)
    labels = torch.tensor([[1, -100, 3, 4, -100], [2, 2, -100, 2, 2]]) if labelled else None
    ls, lt = functional.log_softmax(s / 0.9, -1), functional.log_softmax(t / 0.9, -1)
    if beta in (0.0, 1.0):
        first, second = (lt, ls) if beta == 0 else (ls, lt)
        elements = first.exp() * (first - second)
    else:
        m = torch.logaddexp(lt + np.log(beta), ls + np.log1p(-beta))
        elements = beta * lt.exp() * (lt - m) + (1 - beta) * ls.exp() * (ls - m)
    kept = torch.ones(2, 5, dtype=torch.bool) if labels is None else labels != -100
    elements = elements[kept]
    expected = {
        "batchmean": elements.sum() / (kept.sum() if labelled else 2),
        "mean": elements.mean(),
        "sum": elements.sum(),
    }
    for reduction, value in expected.items():
        torch.testing.assert_close(
            kt.generalized_jsd_loss(s, t, labels, beta, temperature=0.9, reduction=reduction), value
        )
    value = kt.generalized_jsd_loss(s, t, labels, beta, 0.9, num_items_in_batch=7)
    torch.testing.assert_close(value, elements.sum() / 7)


def test_torchtunes_modules():
    s, t = logits(5, (6, 20))
    labels = torch.tensor([1, 2, -100, 4, 5, -100])
    kept = labels != -100
    for module, name in (
        (kt.ForwardKLLoss(), "forward_kl"),
        (kt.ReverseKLLoss(), "reverse_kl"),
        (kt.SymmetricKLLoss(0.3), "symmetric_kl"),
        (kt.JSDLoss(0.3), "jsd"),
    ):
        expected = own(name, s, t)[kept]
        torch.testing.assert_close(module(s, t, labels), expected.mean())
        torch.testing.assert_close(module(s, t, labels, normalize=False), expected.sum())
        assert module(s, t, torch.full((6,), -100)) == 0


def test_masked_rows_are_not_read():
    s, t = logits(6, (4, 9))
    with torch.no_grad():
        s[1] = float("nan")
    loss = kt.distillation_loss(s, t, "jsd", mask=torch.tensor([1, 0, 1, 1]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(s.grad).all() and not s.grad[1].any()


def test_strided_logits():
    s, t = logits(7, (2, 6, 30))
    got = kt.distillation_loss(s[:, :-1, 2:], t[:, 1:, 2:], "reverse_kl")
    got.backward()
    x, y = (z.detach().clone().requires_grad_() for z in (s, t))
    own("reverse_kl", x[:, :-1, 2:], y[:, 1:, 2:]).mean().backward()
    torch.testing.assert_close(s.grad, x.grad)
    torch.testing.assert_close(t.grad, y.grad)


def test_bad_tensors_are_refused():
    s, t = logits(8, (2, 5))
    with pytest.raises(ValueError, match="`teacher` has shape"):
        kt.distillation_loss(s, t[:, :4])
    with pytest.raises(TypeError, match=r"dtype torch\.int64"):
        kt.distillation_loss(s, torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(TypeError, match="on meta"):
        kt.distillation_loss(s, t.to("meta"))


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_torch_compile_keeps_one_graph():
    s, t = logits(9, (4, 50), torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(s, t):
        return kt.distillation_loss(s * 1.5, t, "jsd", temperature=2.0) * 3

    value = run(s, t)
    value.backward()
    x = s.detach().clone().requires_grad_()
    expected = 3 * kt.distillation_loss(x * 1.5, t, "jsd", temperature=2.0)
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(s.grad, x.grad)


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_learns_along_the_same_curve(name):
    """Forty steps of Adam from the same start: torch's operators and ours."""
    curves = []
    for ours in (True, False):
        torch.manual_seed(0)
        data, teacher = torch.randn(64, 12), torch.randn(12, 40)
        student = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 40))
        optimizer = torch.optim.Adam(student.parameters(), 3e-2)
        curve = []
        for _ in range(40):
            s, t = student(data), data @ teacher
            if ours:
                loss = kt.distillation_loss(s, t, name, **coefficient(name))
            else:
                loss = own(name, s.double(), t.double()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0][-1] < 0.7 * curves[0][0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-3)
