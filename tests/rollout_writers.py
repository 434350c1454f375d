"""Logs of RL runs, written as the trainers' own code writes them (August 2026; the place is named at each)."""

import json
import math
import pickle
import sys
import types

import numpy as np


def sequences(seed=0, count=6, prompt=3):
    """Samples with a prompt and an answer: ids, mask, log-probs of both sides over all of it, entropy, reward."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        n = int(rng.integers(4, 12))
        rollout = np.concatenate([np.zeros(prompt), -rng.exponential(0.5, n)]).astype(np.float32)
        noise = rng.normal(0, 0.01, n + prompt).astype(np.float32)
        train = np.where(np.arange(n + prompt) < prompt, np.float32(0), np.minimum(rollout + noise, np.float32(-1e-7)))
        made.append({
            "ids": rng.integers(10, 90, n + prompt), "mask": (np.arange(n + prompt) >= prompt).astype(np.int64),
            "rollout": rollout, "train": train.astype(np.float32), "prompt": prompt, "reward": float(i % 2),
            "entropy": rng.exponential(0.4, n + prompt).astype(np.float32), "env": ("math", "code")[i % 2],
        })  # fmt: skip
    return made


def padded(rows, fill=0):
    width = max(map(len, rows))
    return np.array([np.concatenate([row, np.full(width - len(row), fill, np.asarray(row).dtype)]) for row in rows])


def nemo_rl(folder, samples, step=1):
    """NVIDIA-NeMo/RL 7ea279ab: algorithms/grpo.py ("Log training data") and utils/logger.py log_batched_dict_as_jsonl.

    Every value is cut from the batch by [i:i + 1], so that a row holds batches of one.
    """
    batch = {
        "agent_ref": [{"type": "responses_api_agents", "name": s["env"]} for s in samples],
        "content": ["text"] * len(samples),
        "rewards": [s["reward"] for s in samples],
        "input_lengths": [len(s["ids"]) for s in samples],
        "token_ids": padded([s["ids"] for s in samples]).tolist(),
        "token_loss_mask": padded([s["mask"] for s in samples]).tolist(),
        "sample_loss_mask": [1.0] * len(samples),
        "advantages": padded([np.full(len(s["ids"]), 0.5) for s in samples]).tolist(),
        "generation_logprobs": padded([s["rollout"] for s in samples]).tolist(),
        "prev_logprobs": padded([s["train"] for s in samples]).tolist(),
    }
    path = folder / f"train_data_step{step}.jsonl"
    with open(path, "w") as file:
        for i in range(len(samples)):
            sample = {key: value[i : i + 1] for key, value in batch.items()}
            file.write(json.dumps({**sample, "idx": i}, default=str) + "\n")
    return path


def prime_rl(folder, samples, step=1, rank=0):
    """PrimeIntellect-ai/prime-rl 559b4477: trainer/rl/token_export.py; NaN and inf are null."""

    def floats(values):
        return [float(x) if math.isfinite(x) else None for x in values]

    place = folder / "token_exports" / f"step_{step}"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"rank_{rank}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i, s in enumerate(samples):
            with np.errstate(invalid="ignore"):
                d = s["train"].astype(float) - s["rollout"].astype(float)
                k3 = np.exp(d) - d - 1
            record = {
                "schema_version": 1, "step": step, "rank": rank, "micro_step": 0, "micro_sequence_idx": i,
                "export_sequence_idx": i, "env_name": s["env"], "token_ids": s["ids"].tolist(),
                "position_ids": list(range(len(d))), "loss_mask": [bool(m) for m in s["mask"]],
                "advantages": floats(np.ones(len(d))), "inference_logprobs": floats(s["rollout"]),
                "trainer_logprobs": floats(s["train"]), "entropy": floats(s["entropy"]),
                "mismatch_kl": floats(k3), "log_importance_ratio": floats(d),
                "importance_ratio": floats(np.exp(d)), "prob_delta": floats(np.zeros(len(d))),
                "is_masked": [False] * len(d), "is_masked_high": [False] * len(d), "is_masked_low": [False] * len(d),
                "rl_weights": [None] * len(d), "ce_weights": [None] * len(d), "ref_kl_weights": [None] * len(d),
            }  # fmt: skip
            file.write(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
    (place / "STABLE").touch()
    return path


def answers(samples, name):
    """A field of the answers alone, padded on the right."""
    return padded([s[name][s["prompt"] :] for s in samples])


def verl_texts(folder, samples, step=1):
    """verl-project/verl 1dda039b: trainer/ppo/ray_trainer.py _write_generations: no log-probs."""
    path = folder / f"{step}.jsonl"
    with open(path, "w") as file:
        for s in samples:
            entry = {"input": "a", "output": "b", "gts": "c", "score": s["reward"], "step": step}
            file.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
    return path


def verl_batch(samples):
    """The same project, DataProto.batch after compute_log_prob: names and shapes of ray_trainer.py and agent_loop.py.

    token_level_scores holds the reward at the last token of an answer.
    """
    mask = answers(samples, "mask")
    last = mask.cumsum(1).argmax(1)
    scores = np.zeros(mask.shape, np.float32)
    scores[np.arange(len(samples)), last] = [s["reward"] for s in samples]
    return {
        "responses": answers(samples, "ids"), "response_mask": mask,
        "rollout_log_probs": answers(samples, "rollout"), "old_log_probs": answers(samples, "train"),
        "entropys": answers(samples, "entropy"), "token_level_scores": scores,
    }  # fmt: skip


def verl_data_proto(samples, tensors, facts):
    """verl-project/verl 1dda039b: protocol.py, DataProto.save_to_disk, which pickles (tensors, arrays, facts).

    `tensors` are bytes of torch.save, or what serialize_tensordict makes of them.
    """
    arrays = {
        "data_source": np.array([s["env"] for s in samples], object),
        "uid": np.array([f"u{i}" for i in range(len(samples))], object), "index": np.arange(len(samples)),
    }  # fmt: skip
    return _DataProto((tensors, arrays, facts))


def verl_words(samples):
    """The same file, serialize_tensordict, for VERL_DATAPROTO_SERIALIZATION_METHOD=numpy: (size, device, words)."""
    words = {
        name: (str(x.dtype), x.shape, np.ascontiguousarray(x).reshape(-1).view(np.uint8))
        for name, x in verl_batch(samples).items()
    }
    return (len(samples),), None, words


class _DataProto:
    """Pickled under the name of verl's class, whose module is there for as long."""

    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state


def save_to_disk(data, path, protocol=4):
    """With open(filepath, "wb") as f: pickle.dump(self, f)."""
    module = types.ModuleType("verl.protocol")
    module.DataProto = _DataProto
    before = _DataProto.__module__, _DataProto.__qualname__
    _DataProto.__module__, _DataProto.__qualname__ = "verl.protocol", "DataProto"
    sys.modules |= {"verl": types.ModuleType("verl"), "verl.protocol": module}
    try:
        with open(path, "wb") as file:
            pickle.dump(data, file, protocol=protocol)
    finally:
        del sys.modules["verl"], sys.modules["verl.protocol"]
        _DataProto.__module__, _DataProto.__qualname__ = before
    return path


def trl_batch(samples):
    """huggingface/trl f2cd5771: trainer/grpo_trainer.py, what _generate_and_score_completions returns."""
    return {
        "completion_ids": answers(samples, "ids"), "completion_mask": answers(samples, "mask"),
        "advantages": np.zeros(len(samples), np.float32), "num_items_in_batch": np.array(40),
        "old_per_token_logps": answers(samples, "train"), "sampling_per_token_logps": answers(samples, "rollout"),
    }  # fmt: skip


def trl_texts(folder, samples, step=5):
    """The same file, log(): completions_{step:05d}.parquet of pandas, which pyarrow writes: no log-probs."""
    import pyarrow as pa
    from pyarrow import parquet

    count = len(samples)
    table = {
        "step": [step] * count, "prompt": ["p"] * count, "completion": ["c"] * count,
        "reward_func": [s["reward"] for s in samples], "advantage": [0.0] * count,
    }  # fmt: skip
    path = folder / f"completions_{step:05d}.parquet"
    parquet.write_table(pa.table(table), path)
    return path


def slime_payload(samples, rollout_id=3, tensor=lambda x: x):
    """THUDM/slime 624b824a: observability/train_data_utils.py _build_dump_payload (--save-debug-train-data).

    Log-probs and masks are those of the answer, tokens those of the prompt too; `tensor` makes the tensors.
    """
    made = [
        {
            "data_parallel_rank": i % 2, "sample_index": i, "rollout_position": i, "tokens": tensor(s["ids"]),
            "total_lengths": len(s["ids"]), "response_lengths": len(s["ids"]) - s["prompt"], "rewards": s["reward"],
            "truncated": 0, "loss_masks": tensor(s["mask"][s["prompt"] :].astype(np.int32)),
            "rollout_log_probs": tensor(s["rollout"][s["prompt"] :]), "log_probs": tensor(s["train"][s["prompt"] :]),
            "entropy": tensor(s["entropy"][s["prompt"] :]),
        }
        for i, s in enumerate(samples)
    ]  # fmt: skip
    layout = [{"rank": 0, "data_parallel_rank": 0, "sample_indices": [0, 1], "micro_batch_indices": [[0], [1]]}]
    return {
        "format_version": 2, "rollout_id": rollout_id, "rank": 0, "samples": made, "dp_shards": layout,
        "raw_reward": [s["reward"] for s in samples],
    }  # fmt: skip
