"""Hostile tensors: masks, labels, outs and gradients that NumPy's side must not be given."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.integration

import kullback as kb  # noqa: E402
from kullback.distillation import (  # noqa: E402
    cross_entropy_loss,
    distillation_loss,
    entropy_gradient,
    linear_distillation_loss,
)
from kullback.integrations import torch as kt  # noqa: E402

S, T = torch.randn((2, 4, 6, 11), generator=torch.Generator().manual_seed(3))
# broadcasts, is too long or too short, transposed, flat, one an element, or a segfault's worth of pages
SHAPES = [(4, 1), (1, 6), (6,), (), (1,), (4, 7), (4, 5), (6, 4), (24,), (4, 6, 1), (4, 6, 11), (3_000_000, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_labels_and_weights_have_one_value_a_row(shape):
    ones = torch.ones(shape)
    for name, call in {
        "mask": lambda: kt.distillation_loss(S, T, mask=ones),
        "mask`|`labels": lambda: kt.distillation_loss(S, T, mask=ones.bool(), labels=torch.ones(4, 6).long()),
        "labels": lambda: kt.distillation_loss(S, T, labels=ones.long()),
        "weights": lambda: kt.distillation_loss(S, T, weights=ones),
        "`labels": lambda: kt.generalized_jsd_loss(S, T, ones.long()),
        "labels`": lambda: kt.ForwardKLLoss()(S, T, ones.long()),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}.* has shape .*, expected \(4, 6\)"):
            call()
    operator = torch.ops.kullback.divergence_loss  # which torch.compile calls, and anybody can
    with pytest.raises(ValueError, match=r"`mask` has shape .*, expected \(4, 6\)"):
        operator(S, T, ones.bool(), 1.0, "linear", 0.5, 1.0, 0.0)


def test_the_gradient_operator_checks_what_it_is_given():
    right = {"weights": torch.ones(4, 6), "values": torch.zeros(4, 6), "state": torch.zeros(24, 9)}
    for name in right:
        given = [x[:1] if name == other else x for other, x in right.items()]
        with pytest.raises(ValueError, match=f"`{name}` has shape"):
            torch.ops.kullback.divergence_gradient(S, T, *given, 1.0, "linear", 0.5, 1.0, 0.0, 1)
    with pytest.raises(ValueError, match="`teacher` has shape"):
        torch.ops.kullback.divergence_gradient(S, T[:1], *right.values(), 1.0, "linear", 0.5, 1.0, 0.0, 1)


def test_masks_of_the_right_shape_in_any_layout():
    kept = torch.rand(4, 6, generator=torch.Generator().manual_seed(4)) < 0.6
    expected = kt.distillation_loss(S[kept], T[kept])
    wide = torch.zeros(4, 12, dtype=torch.bool)
    wide[:, ::2] = kept
    for mask in (kept, kept.long(), kept.float(), wide[:, ::2], kept.T.contiguous().T):
        torch.testing.assert_close(kt.distillation_loss(S, T, mask=mask), expected)
    with pytest.raises(ValueError, match="`mask` holds values other than 0 and 1"):
        kt.distillation_loss(S, T, mask=kept * 0.5)
    with pytest.raises(TypeError, match=r"`labels` has dtype torch\.float32"):
        kt.distillation_loss(S, T, labels=torch.ones(4, 6))
    for temperature in (0.0, -1.0, float("nan"), 1e-310):
        with pytest.raises(ValueError, match="`temperature` is"):
            kt.distillation_loss(S, T, temperature=temperature)


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_masks_stay_in_one_graph():
    kept = torch.arange(24).reshape(4, 6) % 3 > 0

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(s, mask):
        return kt.distillation_loss(s, T, mask=mask, labels=torch.ones(4, 6, dtype=torch.long))

    torch.testing.assert_close(run(S, kept.long()), kt.distillation_loss(S, T, mask=kept))


# ------------------------------------------------------------------------------------------------- NumPy's functions


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kb.kl_divergence(x, T, given="logits"),
        lambda x: kb.entropy(x, given="logits"),
        lambda x: kb.log_softmax(x),
        lambda x: kb.token_log_probs(x, torch.zeros(4, 6).long()),
        lambda x: distillation_loss(x, T),
        lambda x: distillation_loss(x, T, gradient="student"),
        lambda x: distillation_loss(S, T, weights=x[..., 0]),
        lambda x: cross_entropy_loss(x, torch.zeros(4, 6).long()),
        lambda x: kb.aggregate(x[..., 0]),
        lambda x: kb.kl_estimate(x),
        lambda x: kb.entr(x),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_not_dropped_in_silence(call, dtype):
    x = S.clone().to(dtype).requires_grad_()
    with pytest.raises(TypeError, match=r"requires grad.*kullback\.integrations\.torch \(distillation_loss, kl_div"):
        call(x)
    call(x.detach())


def test_integer_and_unaligned_tensors():
    counts = torch.randint(0, 9, (3, 7), generator=torch.Generator().manual_seed(5)) + 1
    np.testing.assert_array_equal(kb.entropy(counts), kb.entropy(counts.double()))
    for dtype in (torch.float32, torch.bfloat16):
        x = S[0].to(dtype)
        raw = torch.cat([torch.zeros(1, dtype=torch.uint8), x.contiguous().view(torch.uint8).flatten()])
        unaligned = torch.frombuffer(raw.numpy(), dtype=dtype, offset=1).reshape(x.shape)
        assert unaligned.data_ptr() % 2 == 1
        np.testing.assert_array_equal(kb.entropy(unaligned, given="logits"), kb.entropy(x, given="logits"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_go_into_tensors(dtype):
    s, t = S.to(dtype), T.to(dtype)
    expected = distillation_loss(s, t, gradient="student").student_gradient
    assert expected.dtype == dtype
    out = torch.empty_like(s)
    assert distillation_loss(s, t, gradient="student", student_out=out).student_gradient is out
    assert torch.equal(out, expected)
    assert entropy_gradient(s, out=torch.empty_like(s)).dtype == dtype
    for wrong, kind, message in (
        (s, ValueError, "overlaps `student_logits`"),
        (t, ValueError, "overlaps `teacher_logits`"),
        (torch.empty(4, 1, 11, dtype=dtype).expand(4, 6, 11), ValueError, "has strides"),
        (torch.empty(4, 6, 11, dtype=torch.int32), TypeError, "has dtype int32"),
        (torch.empty(4, 6, 11, dtype=dtype, requires_grad=True), TypeError, "requires grad"),
        (torch.empty(4, 6, 11, dtype=dtype, device="meta"), TypeError, "on meta"),
    ):
        with pytest.raises(kind, match=message):
            distillation_loss(s, t, gradient="student", student_out=wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_linear_gradients_are_tensors_of_the_hidden_states_dtype(dtype):
    generator = torch.Generator().manual_seed(6)
    hidden, layer = torch.randn(2, 5, 8, generator=generator), torch.randn(13, 8, generator=generator)
    h, w = hidden.to(dtype), layer.to(dtype)
    mask = torch.tensor([[1, 1, 0, 1, 0]] * 2)
    got = linear_distillation_loss(h, w, 2 * h, w, gradient=True, mask=mask).hidden_gradient
    x = h.double().clone().requires_grad_()
    kt.distillation_loss(x @ w.double().T, 2 * h.double() @ w.double().T, mask=mask).backward()
    assert got.dtype == dtype
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    assert (got.double() - x.grad).abs().max() <= limit * x.grad.abs().max()
    assert not got[~mask.bool()].any()


def test_an_empty_batch_has_the_loss_0():
    for shape in ((0, 5), (0, 3, 5), (2, 0, 5)):
        s = torch.zeros(shape, requires_grad=True)
        for reduction in ("token-mean", "batchmean", "mean", "sum"):
            loss = kt.distillation_loss(s, torch.zeros(shape), reduction=reduction)
            loss.backward()
            assert loss == distillation_loss(s.detach(), torch.zeros(shape), reduction=reduction).loss == 0
            if reduction != "token-mean":
                assert kt.generalized_jsd_loss(s, torch.zeros(shape), reduction=reduction) == 0
        assert s.grad.shape == shape


def test_rows_of_targets_without_mass_add_nothing():
    """As in torch, whose terms are 0 where the target is."""
    logs = torch.log_softmax(S[0], -1)
    target = torch.softmax(T[0], -1)
    target[2] = 0.0
    expected = torch.nn.functional.kl_div(logs, target, reduction="sum")
    torch.testing.assert_close(kt.kl_div(logs, target, "sum"), expected)
    logs[2, 0] = float("nan")
    assert kt.kl_div(logs, target, "sum").isnan()


OPTIONS = (None, 1.0, "linear", 0.5, 1.0, 0.0)
KNOWN = (torch.ones(4, 6), torch.zeros(4, 6), torch.zeros(24, 9), *OPTIONS[1:])


def dual(function):
    with torch.autograd.forward_ad.dual_level():
        return function(torch.autograd.forward_ad.make_dual(S, torch.ones_like(S)))


def test_an_ignore_index_is_a_whole_number():
    labels = torch.arange(24).reshape(4, 6)
    losses = (
        lambda index: kt.distillation_loss(S, T, labels=labels, ignore_index=index),
        lambda index: kt.ForwardKLLoss(index)(S, T, labels),
    )
    for loss in losses:
        for wrong in (1.0, "3", None, np.bool_(True), torch.tensor([1, 2])):
            with pytest.raises(TypeError, match="`ignore_index` is"):
                loss(wrong)
        for beyond in (2**63, 2**70, -(2**63) - 1):  # no label is that
            torch.testing.assert_close(loss(beyond), kt.distillation_loss(S, T))
        mask = labels != 3
        torch.testing.assert_close(loss(np.int64(3)), kt.distillation_loss(S, T, mask=mask))
    bytes_of = (labels + 140).to(torch.uint8)
    torch.testing.assert_close(kt.distillation_loss(S, T, labels=bytes_of), kt.distillation_loss(S, T))


@pytest.mark.filterwarnings("ignore")  # of torch's own transforms
def test_derivatives_that_are_not_there_say_so():
    def loss(x):
        return kt.distillation_loss(x, T)

    for derivative in (
        lambda: torch.func.jvp(loss, (S,), (S,)),
        lambda: torch.func.jacfwd(loss)(S),
        lambda: torch.func.jvp(lambda x: kt.kl_div(x, T, "sum", log_target=True), (S,), (S,)),
        lambda: torch.func.jvp(lambda x: kt.generalized_jsd_loss(S, x), (S,), (S,)),
        # the operators, which anybody can call
        lambda: torch.func.jvp(lambda x: torch.ops.kullback.divergence_loss(x, T, *OPTIONS)[0], (S,), (S,)),
        lambda: torch.func.jvp(lambda x: torch.ops.kullback.divergence_loss(S, x, *OPTIONS)[0], (T,), (S,)),
        lambda: torch.func.jvp(lambda x: torch.ops.kullback.divergence_gradient(x, T, *KNOWN, 1), (S,), (S,)),
        lambda: dual(lambda x: torch.ops.kullback.divergence_loss(x, T, *OPTIONS)[0]),
    ):
        with pytest.raises(NotImplementedError, match="carries a tangent"):
            derivative()
    s = S.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(s), s, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        gradient.sum().backward()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_and_divisors_are_finite(value):
    weights = torch.ones(4, 6)
    weights[1, 2] = value
    for function in (kt.distillation_loss, distillation_loss):
        with pytest.raises(ValueError, match="`weights` holds values that are not finite"):
            function(S, T, weights=weights)
    for items in (0, -1.0, value, torch.tensor(0)):
        with pytest.raises(ValueError, match="`num_items_in_batch` is"):
            kt.generalized_jsd_loss(S, T, num_items_in_batch=items)


def test_soft_cross_entropy_is_forward_kl_and_an_entropy():
    with pytest.raises(ValueError, match="'forward_kl' plus the entropy of the teacher"):
        kt.distillation_loss(S, T, "soft_cross_entropy")
    kl, cross = (distillation_loss(S, T, name, gradient="student") for name in ("forward_kl", "soft_cross_entropy"))
    np.testing.assert_allclose(cross.per_token, kl.per_token + kb.entropy(T, given="logits"), rtol=1e-6)
    torch.testing.assert_close(kl.student_gradient, cross.student_gradient)


@pytest.mark.filterwarnings("ignore")  # of torch, about nested and quantized tensors
def test_tensors_that_numpy_cannot_view_are_named():
    q = torch.full((2, 2), 0.5)
    for x in (
        torch.complex(q, q).conj().imag,
        q.to_sparse(),
        q.bfloat16().to_sparse(),
        q.to(torch.float8_e4m3fnuz),
        torch.quantize_per_tensor(q, 0.1, 0, torch.quint8),
        torch.nested.nested_tensor([q[0], q[0]]),
    ):
        with pytest.raises(TypeError, match="`p` is a tensor that NumPy cannot view"):
            kb.kl_divergence(x, q)
