"""Importance weights and rejection masks against verl's and TRL's own functions: numbers to 1e-12, booleans exactly."""

import ast
import typing
from types import SimpleNamespace

import numpy as np
import pytest
from peers import named, run, source, statement, tensors, torch_names

from kullback.rlhf import (
    REJECTION_KINDS,
    importance_ratios,
    importance_weights,
    rejection_mask,
    rejection_statistic,
    what_if,
)

pytestmark = pytest.mark.integration
__all__ = ["source"]  # a fixture

CORRECTION = "verl/trainer/ppo/rollout_corr_helper.py"
ROUNDS = range(4)


@pytest.fixture(scope="module")
def verl(source):
    """verl's weights, masks and metrics as its trainer calls them, with the constants of their module."""
    names = torch_names() | {
        "Optional": typing.Optional,
        "DataProto": SimpleNamespace(from_dict=lambda tensors: tensors),
    }
    names["verl_F"] = run(
        named(source("verl", "verl/utils/torch_functional.py"), "masked_sum", "masked_mean"), dict(names)
    )
    tree = source("verl", CORRECTION)
    functions = [
        "_parse_rollout_is_threshold",
        "_parse_rollout_rs_thresholds",
        "compute_rollout_rejection_mask",
        "compute_rs_metrics",
        "compute_rollout_correction_weights",
        "compute_is_metrics",
        "compute_rollout_correction_and_rejection_mask",
        "compute_offpolicy_metrics",
    ]
    constants = [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return run([*constants, *named(tree, *functions)], names)


def batch(seed, width=40, sequences=24, noise=0.5):
    """Padded log-probs with differences of every size, a sequence without tokens and one far away."""
    rng = np.random.default_rng(seed)
    rollout = -rng.exponential(size=(sequences, width)) * 10.0 ** rng.uniform(-6, 1, (sequences, width))
    scale = noise * 10.0 ** rng.uniform(-3, 0.5, (sequences, 1))
    train = np.minimum(rollout + scale * rng.normal(size=rollout.shape), 0.0)
    mask = np.arange(width) < rng.integers(1, width + 1, (sequences, 1))
    mask[3] = False
    train[5] = rollout[5] - 30.0
    rollout[6], train[6] = -45.0 + 0.1 * rng.normal(size=(2, width))
    train[7, 0] = -0.5
    rollout[7, 0] = -40.0
    return rollout, train, mask


def on_both(rollout, train, mask):
    ahead, behind = tensors(train, rollout)
    return {"log_ratio": ahead - behind, "response_mask": tensors(mask)[0]}


# ------------------------------------------------------------------------------------------------------- verl


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("bounds", [2.0, 1.1, 1e9, (0.5, 5.0), (0.9, 1.1)])
def test_verl_weights(verl, level, bounds, normalize):
    for seed in ROUNDS:
        rollout, train, mask = batch(seed)
        spec = "_".join(map(str, bounds)) if isinstance(bounds, tuple) else bounds
        theirs, metrics = verl.compute_rollout_correction_weights(
            **on_both(rollout, train, mask),
            rollout_is=level,
            rollout_is_threshold=spec,
            rollout_is_batch_normalize=normalize,
        )
        kind = "icepop" if isinstance(bounds, tuple) else "tis"
        options = {"kind": kind, "level": level, "bounds": bounds}
        ours = importance_weights(rollout, train, mask, normalize=normalize, preset="verl", **options)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0.0)
        if normalize:
            continue
        # the clamps aside, the same without verl's conventions
        near = np.abs(np.where(mask, train - rollout, 0.0).sum(-1)) < 20 if level == "sequence" else slice(None)
        if level == "sequence" or bounds != 1e9:
            np.testing.assert_allclose(
                importance_weights(rollout, train, mask, **options)[near], theirs[near], rtol=1e-12, atol=1e-8
            )
        table = what_if(rollout, train, mask, settings=[(kind, level, bounds)])
        if np.abs(train - rollout)[mask].max() < 20 and level == "token":
            assert table.rows[0].ess == pytest.approx(metrics["rollout_is_eff_sample_size"], rel=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in REJECTION_KINDS if kind.startswith(("token_", "seq_"))])
def test_verl_rejection(verl, kind):
    thresholds = [(0.5, 2.0), (0.9, 1.2), 1.01, 3.0] if kind.endswith("k1") else [1e-4, 0.01, 0.1, 2.0, 150.0]
    seen = set()
    for seed in ROUNDS:
        rollout, train, mask = batch(seed)
        inputs = on_both(rollout, train, mask)
        for threshold in thresholds:
            spec = "_".join(map(str, threshold)) if isinstance(threshold, tuple) else threshold
            theirs, metrics = verl.compute_rollout_rejection_mask(**inputs, rollout_rs=kind, rollout_rs_threshold=spec)
            kept = theirs.numpy().astype(bool)
            assert np.array_equal(
                rejection_mask(rollout, train, mask, kind=kind, threshold=threshold, preset="verl"), kept
            )
            # without its clamp the same decisions, where it does not come in
            near = (np.abs(train - rollout) < 20).all(-1)
            ours = rejection_mask(rollout, train, mask, kind=kind, threshold=threshold)
            assert np.array_equal(ours[near], kept[near])
            statistic = rejection_statistic(rollout, train, mask, kind=kind, preset="verl")
            values = statistic[mask] if kind.startswith("token") else statistic[mask.any(-1)]
            assert values.max() == pytest.approx(metrics[f"rollout_rs_{kind}_max"], rel=1e-12)
            assert values.min() == pytest.approx(metrics[f"rollout_rs_{kind}_min"], rel=1e-12)
            seen |= {bool(kept.any()), bool((kept == mask).all())}
    assert seen == {True, False}


def test_verl_knows_no_other_kinds(verl):
    ours = {kind for kind in REJECTION_KINDS if kind.startswith(("token_", "seq_"))}
    assert ours == verl.SUPPORTED_ROLLOUT_RS_OPTIONS and len(ours) == 11
    tokens = {kind for kind in ours if not REJECTION_KINDS[kind].per_sequence}
    assert tokens == verl.TOKEN_LEVEL_ROLLOUT_RS_OPTIONS


def test_verl_combined(verl):
    """As its trainer does: weights by sequences, two masks, all at once."""
    rollout, train, mask = batch(11)
    ahead, behind, response = tensors(train, rollout, mask)
    weights, kept, _ = verl.compute_rollout_correction_and_rejection_mask(
        ahead,
        behind,
        response,
        rollout_is="sequence",
        rollout_is_threshold=2.0,
        rollout_rs="token_k1,seq_mean_k3",
        rollout_rs_threshold="0.5_2.0,0.1",
    )
    ours = importance_weights(rollout, train, mask, level="sequence", bounds=2.0, preset="verl")
    np.testing.assert_allclose(ours, weights["rollout_is_weights"], rtol=1e-12, atol=0.0)
    both = rejection_mask(rollout, train, mask, kind="token_k1", threshold=(0.5, 2.0))
    both &= rejection_mask(rollout, train, mask, kind="seq_mean_k3", threshold=0.1)
    assert np.array_equal(both, kept.numpy().astype(bool))


def test_verl_with_missing_and_infinite_log_probs(verl):
    """NaN, and -inf on one side or both: weights and decisions are those of verl with its preset."""
    rollout, train, mask = batch(12, noise=0.1)
    mask[8:14] = True
    train[8, 1], rollout[9, 1], train[10, 1], rollout[11, 1] = np.nan, np.nan, -np.inf, -np.inf
    train[12, 2] = rollout[12, 2] = -np.inf
    inputs = on_both(rollout, train, mask)
    for bounds in (2.0, (0.5, 2.0)):
        spec = "0.5_2.0" if isinstance(bounds, tuple) else bounds
        kind = "icepop" if isinstance(bounds, tuple) else "tis"
        for level in ("token", "sequence"):
            theirs, _ = verl.compute_rollout_correction_weights(**inputs, rollout_is=level, rollout_is_threshold=spec)
            ours = importance_weights(rollout, train, mask, kind=kind, level=level, bounds=bounds, preset="verl")
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0.0)
    for kind in verl.SUPPORTED_ROLLOUT_RS_OPTIONS:
        for preset in ("verl", None) if kind.startswith("token") else ("verl",):
            kept, _ = verl.compute_rollout_rejection_mask(**inputs, rollout_rs=kind, rollout_rs_threshold=2.0)
            ours = rejection_mask(rollout, train, mask, kind=kind, threshold=2.0, preset=preset)
            assert np.array_equal(ours, kept.numpy().astype(bool)), kind


@pytest.mark.parametrize("name", ["dppo_tv", "dppo_kl"])
@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.01, 0.3), (1e-4, 1e-3)])
def test_verl_dppo(source, name, clips):
    """Its mask is the statement of the loss that ends in `valid_mask`."""
    tree = source("verl", "verl/trainer/ppo/core_algos.py")
    (function,) = named(tree, f"compute_policy_loss_{name}")
    wanted = ("prob", "old_prob", "binary_kl", "valid_positive_mask", "valid_negative_mask", "valid_mask")
    statements = [n for n in function.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) in wanted]
    assert len(statements) >= 6
    for seed in ROUNDS:
        rollout, train, mask = batch(seed)
        train[0, :4], rollout[0, :4] = (0.0, -1.0, 0.0, -1e-9), (0.0, 0.0, -1.0, -1e-10)
        mask[0, :4] = True
        advantages = np.random.default_rng(seed).normal(size=(len(mask), 1)) * np.ones(mask.shape)
        advantages[2] = 0.0
        values = dict(zip(("old_log_prob", "log_prob", "advantages"), tensors(rollout, train, advantages), strict=True))
        bounds = {"clip_divergence_low": clips[0], "clip_divergence_high": clips[1]}
        theirs = run(statements, torch_names() | values | bounds).valid_mask.numpy().astype(bool)
        given = {"kind": name, "threshold": clips, "advantages": advantages[:, 0], "preset": "verl"}
        assert np.array_equal(rejection_mask(rollout, train, mask, **given), theirs & mask)
        if name == "dppo_kl":
            kl = run(statements, torch_names() | values | bounds).binary_kl.numpy()
            ours = rejection_statistic(rollout, train, kind=name, preset="verl")
            np.testing.assert_allclose(np.abs(ours), np.abs(kl), rtol=1e-12, atol=1e-15)
            # without its 1e-8 the same, where neither probability is that close to 1
            far = np.maximum(rollout, train) < -0.1
            plain = np.abs(rejection_statistic(rollout, train, kind=name))
            np.testing.assert_allclose(plain[far], np.abs(kl)[far], rtol=1e-6, atol=1e-7)


def test_verl_gspo(source):
    """Value of its ratio, and the ratio's gradient: detached but for each token's own log-prob."""
    from kullback.integrations.torch import importance_ratios as differentiable

    (function,) = named(source("verl", "verl/trainer/ppo/core_algos.py"), "compute_policy_loss_gspo")
    wanted = ("negative_approx_kl", "seq_lengths", "negative_approx_kl_seq", "log_seq_importance_ratio")
    wanted = (*wanted, "seq_importance_ratio")
    statements = [n for n in function.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) in wanted]
    old, new, mask = batch(13)
    log_prob, old_log_prob, response = tensors(new, old, mask)
    log_prob.requires_grad_()
    values = {"log_prob": log_prob, "old_log_prob": old_log_prob, "response_mask": response}
    theirs = run(statements, torch_names() | values).seq_importance_ratio
    (slopes,) = __import__("torch").autograd.grad((theirs * response).sum(), log_prob)
    ours = importance_ratios(old, new, mask, level="gspo", preset="verl")
    kept = mask.any(-1)
    np.testing.assert_allclose(ours[kept], theirs.detach()[kept, 0], rtol=1e-12)
    own = log_prob.detach().requires_grad_()
    ratios = differentiable(old_log_prob, own, mask, level="gspo").detach()[:, None] * (own - own.detach()).exp()
    (ratios * response).sum().backward()
    near = theirs.detach()[:, 0] < np.exp(9.9)
    np.testing.assert_allclose(own.grad[near], slopes[near], rtol=1e-12, atol=0.0)


# -------------------------------------------------------------------------------------------------------- TRL


@pytest.fixture(scope="module")
def trainer(source):
    return source("trl", "trl/trainer/grpo_trainer.py")


TRL_BOUNDS = [(None, 3.0), (0.5, 2.0), (0.9, None)]


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("bounds", TRL_BOUNDS)
def test_trl_weights(trainer, mode, bounds):
    """The statement of `_generate_and_score_completions` that makes importance_sampling_ratio, NaN and all."""
    branch = statement(trainer, ast.If, "if self.use_vllm and self.vllm_importance_sampling_correction:\n    mask = ")
    level, kind = mode.split("_")
    for seed in ROUNDS:
        rollout, train, mask = batch(seed)
        rollout[8, :2], rollout[9, 0] = np.nan, np.nan
        mask[8:10, :2] = True
        old, sampling, completion = tensors(train, rollout, mask)
        settings = SimpleNamespace(
            use_vllm=True,
            vllm_importance_sampling_correction=True,
            vllm_importance_sampling_mode=mode,
            vllm_importance_sampling_clip_min=bounds[0],
            vllm_importance_sampling_clip_max=bounds[1],
        )
        values = {"self": settings, "completion_mask": completion, "tool_mask": None}
        values |= {"old_per_token_logps": old, "sampling_per_token_logps": sampling}
        theirs = run([branch], torch_names() | values).vllm_importance_sampling_ratio.numpy()
        theirs = np.broadcast_to(theirs, mask.shape)
        ours = importance_weights(rollout, train, mask, kind=kind, level=level, bounds=bounds, preset="trl")
        np.testing.assert_allclose(ours[mask], theirs[mask], rtol=1e-12, atol=0.0)
        assert not ours[~mask].any()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_trl_importance_sampling_level(trainer, level):
    """PPO's and GSPO's ratio in the loss: values, and gradients, which are not stopped."""
    import torch

    from kullback.integrations.torch import importance_ratios as differentiable

    choice = statement(trainer, ast.If, "if self.importance_sampling_level == 'token':")
    weigh = statement(trainer, ast.Assign, "coef_1 = torch.exp(log_importance_weights)")
    old, new, mask = batch(14)
    log_prob, behind, kept = tensors(new, old, mask)
    log_prob.requires_grad_()
    values = {"self": SimpleNamespace(importance_sampling_level=level), "log_ratio": log_prob - behind, "mask": kept}
    theirs = run([choice, weigh], torch_names() | values).coef_1
    own = log_prob.detach().requires_grad_()
    ours = differentiable(behind, own, torch.tensor(mask), level="geometric" if level == "sequence" else "token")
    weights = torch.tensor(np.random.default_rng(0).normal(size=mask.shape)) * kept
    if level == "sequence":
        weights, theirs = weights[:, 0], theirs[:, 0]
    np.testing.assert_allclose((ours * (weights != 0)).detach(), (theirs * (weights != 0)).detach(), rtol=1e-12)
    (slopes,) = torch.autograd.grad((theirs * weights).sum(), log_prob)
    (ours * weights).sum().backward()
    np.testing.assert_allclose(own.grad, slopes, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("threshold", [0.01, 0.1, 1.0])
def test_trl_off_policy_mask(trainer, threshold):
    theirs = run(named(trainer, "get_off_policy_mask"), torch_names()).get_off_policy_mask
    for seed in ROUNDS:
        rollout, train, mask = batch(seed)
        rollout[8, :2] = np.nan
        mask[8:10, :2] = True
        advantages = np.random.default_rng(seed).normal(size=len(mask))
        advantages[5] = -1.0  # the sequence far away
        gains, ahead, behind, kept = tensors(advantages[:, None], train, rollout, mask)
        expected = theirs(gains, ahead, behind, kept, threshold).numpy().astype(bool)
        given = {"kind": "opsm", "threshold": threshold, "advantages": advantages, "preset": "trl"}
        assert np.array_equal(rejection_mask(rollout, train, mask, **given), expected & mask)
        assert 0 < expected.sum() < expected.size


# ------------------------------------------------------------------------------------------- tensors of our own


def test_gradients_of_weights_are_stopped(verl):
    """Where theirs are: verl's weights have no gradient, and a loss times them has that of the loss alone."""
    import torch

    from kullback.integrations import torch as kt

    rollout, train, mask = batch(15)
    ahead, behind, kept = tensors(train, rollout, mask)
    ahead.requires_grad_()
    theirs, _ = verl.compute_rollout_correction_weights(ahead - behind, kept, "sequence", 2.0)
    ours = kt.importance_weights(behind, ahead, kept, level="sequence", bounds=2.0, preset="verl")
    assert not theirs.requires_grad and not ours.requires_grad and ours.dtype == torch.float64
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0.0)
    losses = [(weights * ahead * kept).sum() for weights in (theirs, ours)]
    slopes = [torch.autograd.grad(loss, ahead)[0] for loss in losses]
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-12, atol=0.0)
    keep = kt.rejection_mask(behind, ahead, kept, kind="seq_mean_k3", threshold=0.1)
    assert keep.dtype == torch.bool and not keep.requires_grad


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # what torch's own forward mode loads
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_ratios(level, packed):
    import torch

    from kullback.integrations import torch as kt

    rng = np.random.default_rng(16)
    rollout, train = (torch.tensor(-rng.exponential(size=(3, 5))).requires_grad_() for _ in range(2))
    mask = torch.tensor(rng.random((3, 5)) < 0.6)
    mask[1] = False
    offsets = None
    if packed:
        rollout, train = (x.detach().reshape(-1).requires_grad_() for x in (rollout, train))
        mask, offsets = mask.reshape(-1), torch.tensor([0, 4, 4, 15])
    assert torch.autograd.gradcheck(
        lambda a, b: kt.importance_ratios(a, b, mask, offsets, level=level), (rollout, train)
    )
    assert torch.autograd.gradgradcheck(
        lambda a, b: kt.importance_ratios(a, b, mask, offsets, level=level), (rollout, train)
    )
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="`train` carries a tangent"):
        dual = torch.autograd.forward_ad.make_dual(train, torch.ones_like(train))
        kt.importance_ratios(rollout, dual, mask, offsets, level=level)
