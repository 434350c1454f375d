"""JAX: values and gradients against JAX's own operators, under jit, grad and vmap."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.integration

import jax.numpy as jnp  # noqa: E402

import kullback as kb  # noqa: E402
from kullback.integrations import jax as kj  # noqa: E402

S, T = np.random.default_rng(0).standard_normal((2, 3, 4, 29)).astype(np.float32)


def own(name, s, t):
    ls, lt = jax.nn.log_softmax(s), jax.nn.log_softmax(t)

    def kl(lp, lq):
        return (jnp.exp(lp) * (lp - lq)).sum(-1)

    m = jnp.logaddexp(ls, lt) - np.log(2)
    return {
        "forward_kl": lambda: kl(lt, ls),
        "reverse_kl": lambda: kl(ls, lt),
        "jsd": lambda: (kl(lt, m) + kl(ls, m)) / 2,
        "tv": lambda: jnp.abs(jnp.exp(ls) - jnp.exp(lt)).sum(-1) / 2,
    }[name]()


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "tv"])
def test_values_and_gradients_under_jit(name):
    weights = np.random.default_rng(1).random((3, 4)).astype(np.float32)

    def total(f):
        return jax.jit(jax.value_and_grad(lambda s, t: (f(s, t) * weights).sum(), argnums=(0, 1)))

    value, slopes = total(lambda s, t: kj.token_losses(s / 0.8, t / 0.8, name))(S, T)
    expected, own_slopes = total(lambda s, t: own(name, s / 0.8, t / 0.8))(S, T)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for got, want in zip(slopes, own_slopes, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-7)


def test_temperature_and_mask():
    mask = np.arange(12).reshape(3, 4) % 2 == 0
    got = kj.distillation_loss(S, T, "jsd", temperature=2.0, mask=mask)
    np.testing.assert_allclose(got, own("jsd", S / 2, T / 2)[mask].mean(), rtol=1e-5)
    assert kj.distillation_loss(S, T, mask=np.zeros((3, 4))) == 0


def test_bfloat16():
    s, t = jnp.asarray(S, jnp.bfloat16), jnp.asarray(T, jnp.bfloat16)
    slope = jax.grad(lambda s: kj.distillation_loss(s, t, "reverse_kl"))(s)
    want = jax.grad(lambda s: own("reverse_kl", s, t.astype(jnp.float32)).mean())(s.astype(jnp.float32))
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(slope.astype(jnp.float32), want, atol=2**-8 * np.abs(want).max())


def test_vmap():
    got = jax.vmap(lambda s, t: kj.token_losses(s, t, "jsd"))(S, T)
    np.testing.assert_allclose(got, kj.token_losses(S, T, "jsd"), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"`teacher_logits` has shape \(3, 4, 28\)"):
        kj.token_losses(S, T[..., :28])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), 1e-310])
def test_temperatures_that_make_no_sense(temperature):
    with pytest.raises(ValueError, match="`temperature` is"):
        kj.token_losses(S, T, temperature=temperature)


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 4), (), (3, 4, 29), (12,)])
def test_masks_have_one_value_a_row(shape):
    with pytest.raises(ValueError, match=r"`mask` has shape .*, expected \(3, 4\)"):
        kj.distillation_loss(S, T, mask=np.ones(shape))


def test_masks_hold_0_and_1():
    mask = np.arange(12).reshape(3, 4) % 2
    with pytest.raises(ValueError, match="`mask` holds values other than 0 and 1"):
        kj.distillation_loss(S, T, mask=mask * 0.5)
    traced = jax.jit(lambda s, m: kj.distillation_loss(s, T, mask=m))(S, mask)
    np.testing.assert_allclose(traced, kj.distillation_loss(S, T, mask=mask), rtol=1e-6)


def test_integers_are_no_logits():
    with pytest.raises(TypeError, match="`teacher_logits` has dtype int32"):
        kj.token_losses(S, jnp.zeros(S.shape, jnp.int32))


def test_arrays_of_jax_are_read_and_never_written():
    s, t = jnp.asarray(S), jnp.asarray(T, jnp.bfloat16)
    np.testing.assert_array_equal(
        kb.kl_divergence(s, t, given="logits"), kb.kl_divergence(S, np.asarray(t), given="logits")
    )
    for call in (
        lambda: kb.distillation_loss(S, T, gradient="student", student_out=s),
        lambda: kb.entropy_gradient(S, out=s),
        lambda: kb.log_softmax(T, out=s),
        lambda: kb.entr(S, out=s),
    ):
        with pytest.raises(TypeError, match="expected an ndarray"):
            call()
    np.testing.assert_array_equal(s, S)
