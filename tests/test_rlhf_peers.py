"""Presets, aggregations, controllers, reports and scores against the libraries they are named after.

How their functions are had is said in `peers.py`.
"""

import ast
from types import SimpleNamespace

import numpy as np
import pytest
from peers import named, run, source, statement, tensors, torch_names

from kullback.rlhf import (
    AdaptiveKLController,
    FixedKLController,
    aggregate,
    kl_estimate,
    kl_estimate_gradient,
    kl_penalized_rewards,
    mismatch_report,
    preference_scores,
)

pytestmark = pytest.mark.integration
__all__ = ["source"]  # a fixture


@pytest.fixture(scope="module")
def verl(source):
    """What verl computes, from three of its files."""
    names = torch_names()
    masked = run(named(source("verl", "verl/utils/torch_functional.py"), "masked_sum", "masked_mean"), dict(names))
    names["verl_F"] = masked
    names["SAFETY_BOUND"] = 20.0
    core = named(
        source("verl", "verl/trainer/ppo/core_algos.py"),
        *("kl_penalty", "kl_penalty_forward", "agg_loss", "AdaptiveKLController", "FixedKLController"),
    )
    metrics = named(source("verl", "verl/trainer/ppo/rollout_corr_helper.py"), "compute_offpolicy_metrics")
    return run([*core, *metrics], names)


def log_probs(seed, *shape, noise=1.5):
    rng = np.random.default_rng(seed)
    ref = -rng.exponential(size=shape)
    return ref + noise * rng.normal(size=shape), ref


# ------------------------------------------------------------------------------------------------- estimators


@pytest.mark.parametrize("kind", ["kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3", "k1+", "k3+", "abs+", "k2+"])
def test_verl_kl_penalty(verl, kind):
    policy, ref = log_probs(1, 4000, noise=3.0)
    policy[:4] = ref[:4] + np.array([-25.0, 25.0, -2.5, -2.7])
    lp, lr = tensors(policy, ref)
    lp.requires_grad_()
    theirs = verl.kl_penalty(lp, lr, kind)
    theirs.sum().backward()
    assert np.allclose(kl_estimate(policy - ref, kind, preset="verl"), theirs.detach(), rtol=1e-12, atol=1e-14)
    ours = kl_estimate_gradient(policy - ref, kind, preset="verl")
    assert np.allclose(ours, lp.grad, rtol=1e-12, atol=1e-14)


def test_torch_tensors_are_taken_as_they_are():
    import torch

    d = torch.linspace(-3, 3, 101, dtype=torch.bfloat16)
    expected = kl_estimate(d.float().numpy(), "k3")
    assert np.array_equal(kl_estimate(d, "k3"), expected)
    assert aggregate(d.reshape(1, -1), torch.ones(1, 101, dtype=torch.bool)) == pytest.approx(0.0, abs=1e-12)


def test_trl_grpo(source):
    trainer = source("trl", "trl/trainer/grpo_trainer.py")
    estimate = statement(trainer, ast.Assign, "per_token_kl = torch.exp(ref_per_token_logps")
    corrected = statement(trainer, ast.Assign, "per_token_kl = per_token_kl * coef_1")
    weight = statement(trainer, ast.Assign, "coef_1 = torch.exp(log_importance_weights)")
    policy, ref = log_probs(2, 500)
    old = policy + 0.3 * np.random.default_rng(3).normal(size=500)
    for weighted in (False, True):
        lp, lr, lo = tensors(policy, ref, old)
        lp.requires_grad_()
        values = {"per_token_logps": lp, "ref_per_token_logps": lr, "log_importance_weights": lp - lo}
        theirs = run([estimate, weight, *([corrected] if weighted else [])], torch_names() | values).per_token_kl
        theirs.sum().backward()
        arguments = {"importance_log_ratio": policy - old} if weighted else {}
        arguments["preset"] = "trl"
        d = policy - ref
        assert np.allclose(kl_estimate(d, "k3", **arguments), theirs.detach(), rtol=1e-11, atol=1e-14)
        assert np.allclose(kl_estimate_gradient(d, "k3", **arguments), lp.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", ["kl", "abs", "mse"])
def test_old_trl_kl_penalty(source, kind):
    tree = source("old_trl", "trl/trainer/ppo_trainer.py")
    penalty = run(named(tree, "_kl_penalty"), torch_names())._kl_penalty
    policy, ref = log_probs(4, 300)
    config = SimpleNamespace(config=SimpleNamespace(kl_penalty=kind))
    theirs = penalty(config, *tensors(policy, ref))
    assert np.allclose(kl_estimate(policy - ref, kind, preset="trl"), theirs, rtol=1e-13)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_openrlhf_approx_kl(source, kind):
    tree = source("openrlhf", "openrlhf/models/utils.py")
    theirs = run(named(tree, "compute_approx_kl"), torch_names()).compute_approx_kl
    policy, ref = log_probs(5, 3000, noise=4.0)
    got = kl_estimate(policy - ref, kind, preset="openrlhf")
    assert np.abs(got).max() == 10.0
    assert np.allclose(got, theirs(*tensors(policy, ref), kl_estimator=kind), atol=1e-5)  # float32


@pytest.mark.parametrize("kind", ["kl", "mse_kl", "low_var_kl"])
def test_tunix_kl_divergence(source, kind):
    # written for jax.numpy; the functions it uses are NumPy's too
    tree = source("tunix", "tunix/rl/common.py")
    theirs = run(named(tree, "compute_kl_divergence"), {"jnp": np}).compute_kl_divergence
    policy, ref = log_probs(6, 300)
    got = kl_estimate(policy - ref, kind, preset="tunix")
    assert np.allclose(got, theirs(policy, ref, kind), rtol=1e-5, atol=1e-6)  # theirs is float32


# ----------------------------------------------------------------------------------------------- aggregations


def loss_and_mask(seed):
    rng = np.random.default_rng(seed)
    mask = (np.arange(11) < rng.integers(0, 12, (9, 1))).astype(np.float64)
    mask[4] = 0.0
    return rng.normal(size=mask.shape), mask


VERL_MODES = [
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "seq-mean-token-mean",
]


@pytest.mark.parametrize("mode", VERL_MODES)
def test_verl_agg_loss(verl, mode):
    loss, mask = loss_and_mask(7)
    theirs = verl.agg_loss(*tensors(loss, mask), mode)
    assert aggregate(loss, mask, mode=mode) == pytest.approx(float(theirs), rel=1e-7)  # they add 1e-8 to counts
    if mode == "token-sum":
        return
    arguments = {"batch_num_tokens": 500, "global_batch_size": 500}
    theirs = verl.agg_loss(*tensors(loss, mask), mode, **arguments)
    assert aggregate(loss, mask, mode=mode, denominator=500) == pytest.approx(float(theirs), rel=1e-7)


@pytest.mark.parametrize("mode", ["grpo", "sapo", "bnpo", "dr_grpo", "cispo", "dapo", "vespo", "luspo"])
def test_trl_loss_types(source, mode):
    choice = statement(source("trl", "trl/trainer/grpo_trainer.py"), ast.If, "if self.loss_type in ['grpo', 'sapo']:")
    loss, mask = loss_and_mask(8)
    trainer = SimpleNamespace(loss_type=mode, max_completion_length=32, accelerator=SimpleNamespace(num_processes=1))
    per_token_loss, kept, total = tensors(loss, mask, mask.sum())
    values = {"self": trainer, "mode": "eval", "per_token_loss": per_token_loss, "mask": kept}
    theirs = run([choice], torch_names() | values | {"inputs": {"num_items_in_batch": total}}).loss
    scale = 32 if mode == "dr_grpo" else None
    assert aggregate(loss, mask, mode=mode, scale=scale) == pytest.approx(float(theirs), rel=1e-13)


TUNIX_MODES = [
    "token-mean",
    "sequence-mean-token-mean",
    "sequence-mean-token-scale",
    "seq-mean-token-sum",
    "sequence-mean-token-sum-norm",
]


@pytest.mark.parametrize("mode", TUNIX_MODES)
def test_tunix_aggregate_loss(source, mode):
    tree = source("tunix", "tunix/rl/common.py")
    names = {"jnp": np, "np": np, "jax": SimpleNamespace(Array=np.ndarray)}
    theirs = run(named(tree, "aggregate_loss", "_check_get_norm"), names).aggregate_loss
    loss, mask = loss_and_mask(9)
    norm = {"norm": 17.0} if "scale" in mode or "norm" in mode else {}
    got = aggregate(loss, mask, mode=mode, scale=norm.get("norm"))
    assert got == pytest.approx(float(theirs(loss, mask, mode, **norm)), rel=1e-5)  # theirs is float32


# ------------------------------------------------------------------------------ controllers, rewards, reports


@pytest.mark.parametrize("library", ["verl", "old_trl"])
def test_controllers(source, library):
    path = {"verl": "verl/trainer/ppo/core_algos.py", "old_trl": "trl/trainer/utils.py"}[library]
    theirs = run(named(source(library, path), "AdaptiveKLController", "FixedKLController"), {"np": np})
    ours, peer = AdaptiveKLController(0.1, 6.0, 10_000), theirs.AdaptiveKLController(0.1, 6.0, 10_000)
    for kl in [3.0, 6.5, 100.0, -1.0, 6.0, 0.0]:
        ours.update(kl, 256)
        peer.update(kl, 256)
        assert ours.value == pytest.approx(peer.value, rel=1e-14)
    assert FixedKLController(0.1).value == theirs.FixedKLController(0.1).value


def test_openrlhf_rewards(source):
    tree = source("openrlhf", "openrlhf/models/utils.py")
    theirs = run(named(tree, "compute_reward"), torch_names()).compute_reward
    kl, mask = loss_and_mask(10)
    mask[:, 0] = 1.0
    scores = np.arange(9.0)
    r, estimates, kept = tensors(scores, kl, mask)
    rewards = theirs(r, 0.2, estimates, kept).numpy()
    assert np.allclose(kl_penalized_rewards(scores, kl, 0.2, mask), rewards * mask, rtol=1e-13)


def test_verl_offpolicy_metrics(verl):
    train, rollout = log_probs(11, 16, 40, noise=0.3)
    mask = np.arange(40) < np.random.default_rng(12).integers(1, 41, (16, 1))
    theirs = verl.compute_offpolicy_metrics(*tensors(train, rollout, mask))
    report = mismatch_report(rollout, train, mask)
    expected = {
        "kl": report.kl_k1.mean,
        "k3_kl": report.kl_k3.mean,
        "training_ppl": report.sequence_perplexity_train,
        "rollout_ppl": report.sequence_perplexity_rollout,
        "ppl_ratio": report.sequence_perplexity_ratio,
        "chi2_token": report.chi2.mean,
        "chi2_seq": report.sequence_chi2,
    }
    for name, ours in expected.items():
        assert ours == pytest.approx(theirs[name], rel=1e-6), name  # they add 1e-8 to counts


# ------------------------------------------------------------------------------------------ preference scores


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_trl_dpo_scores(source, divergence, alpha):
    import torch

    tree = source("trl", "trl/trainer/dpo_trainer.py")
    choice = statement(tree, ast.If, "if self.f_divergence_type == 'reverse_kl':")
    chosen, rejected = (np.random.default_rng(i).normal(size=50).astype(np.float32) for i in (13, 14))
    trainer = SimpleNamespace(f_divergence_type=divergence, f_alpha_divergence_coef=alpha)
    values = {"self": trainer}
    values["chosen_logratios"], values["rejected_logratios"] = torch.tensor(chosen), torch.tensor(rejected)
    theirs = run([choice], torch_names() | values)
    clamp = 80.0 if divergence == "alpha_divergence" else None
    for ratios, scores in ((chosen, theirs.chosen_scores), (rejected, theirs.rejected_scores)):
        got = preference_scores(ratios, divergence, alpha=alpha, exponent_clamp=clamp)
        assert np.allclose(got, scores, rtol=1e-5, atol=1e-6)  # theirs is float32


def test_trl_ipo_divides_the_score_by_the_length(source):
    import torch

    tree = source("trl", "trl/trainer/dpo_trainer.py")
    mask, score, quotient = (
        statement(tree, ast.Assign, start)
        for start in (
            "chosen_mask, rejected_mask = completion_mask",
            "chosen_scores = chosen_logratios",
            "chosen_avg_score =",
        )
    )
    lengths = np.array([3, 5, 2, 4])
    values = {"completion_mask": torch.tensor(np.arange(6) < lengths[:, None])}
    values["chosen_logratios"] = torch.tensor([6.0, 10.0])
    theirs = run([mask, score, quotient], torch_names() | values).chosen_avg_score
    assert np.allclose(preference_scores([6.0, 10.0], lengths=lengths[:2]), theirs)
