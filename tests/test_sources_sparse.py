"""Top-k dumps read into sparse rows: answers as the servers document them, shards that DistillKit wrote."""

import json
import math
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from kullback.evaluation.sources import open_sparse

DISTILLKIT = Path(__file__).parent / "data" / "distillkit"

VLLM = {
    "id": "cmpl-1",
    "choices": [
        {
            "index": 0,
            "text": " there",
            "prompt_logprobs": [
                None,
                {
                    "9906": {"logprob": -9.5, "rank": 412, "decoded_token": "Hello"},
                    "791": {"logprob": -1.0, "rank": 1, "decoded_token": "The"},
                    "40": {"logprob": -2.0, "rank": 2, "decoded_token": "I"},
                },
                {
                    "1070": {"logprob": -0.25, "rank": 1, "decoded_token": " there"},
                    "11": {"logprob": -1.75, "rank": 2, "decoded_token": ","},
                },
            ],
        }
    ],
}
SGLANG = {
    "text": "!",
    "meta_info": {
        "input_token_logprobs": [[None, 1, None], [-0.5, 7, None], [-3.0, 8, None]],
        "input_top_logprobs": [None, [[-0.5, 7, None], [-1.5, 9, None]], [[-0.1, 5, None], [None, 6, None]]],
        "output_token_logprobs": [[-0.2, 20, "!"]],
        "output_top_logprobs": [[[-0.2, 20, "!"], [-2.2, 21, "?"]]],
    },
}
CHAT = {
    "choices": [
        {
            "logprobs": {
                "content": [
                    {
                        "token": "é",
                        "logprob": -0.1,
                        "bytes": [195, 169],
                        "top_logprobs": [
                            {"token": "é", "logprob": -0.1, "bytes": [195, 169]},
                            {"token": "\\xc3", "logprob": -3.0, "bytes": [195]},
                        ],
                    },
                    {
                        "token": "!",
                        "logprob": -9999.0,
                        "bytes": [33],
                        "top_logprobs": [{"token": "?", "logprob": -0.5, "bytes": [63]}],
                    },
                ]
            }
        }
    ]
}
COMPLETION = {
    "choices": [
        {
            "logprobs": {
                "tokens": ["token_id:5", "token_id:6"],
                "token_logprobs": [None, -2.5],
                "top_logprobs": [None, {"token_id:3": -0.3, "token_id:4": -1.6}],
                "text_offset": [0, 3],
            }
        }
    ]
}


def read(tmp_path, *documents, **options):
    path = tmp_path / "answers.json"
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return open_sparse(path, **options)


def rows_of(sparse) -> list[dict[int, float]]:
    return [
        dict(zip(sparse.ids[i:j].tolist(), sparse.log_probs[i:j].tolist(), strict=True))
        for i, j in zip(sparse.indptr, sparse.indptr[1:], strict=False)
    ]


class TestAnswers:
    def test_vllm(self, tmp_path):
        sparse = read(tmp_path, VLLM, vocab_size=128256)
        assert rows_of(sparse) == [{9906: -9.5, 791: -1.0, 40: -2.0}, {1070: -0.25, 11: -1.75}]
        assert sparse.tokens.tolist() == [9906, 1070]
        assert sparse.target_log_probs.tolist() == [-9.5, -0.25]
        np.testing.assert_allclose(sparse.mass[1], math.exp(-0.25) + math.exp(-1.75))
        facts = sparse.facts()
        assert json.loads(json.dumps(facts)) == facts
        assert facts["format"] == "vllm"
        assert facts["entries"] == {"min": 2, "max": 3, "mean": 2.5}
        assert facts["positions_without_log_probs"] == 1
        assert facts["named_by"] == "id"

    def test_vllm_with_the_prompt_or_sorted_keys(self, tmp_path):
        position = {"3": {"logprob": -1.0, "rank": 1}, "5": {"logprob": -8.0, "rank": 77}}
        assert read(tmp_path, {"prompt_logprobs": [None, position]}).tokens.tolist() == [5]
        answer = {"prompt_logprobs": [None, {"3": -1.0, "5": -8.0}], "prompt_token_ids": [1, 4]}
        sparse = read(tmp_path, answer)
        assert sparse.tokens.tolist() == [4]
        assert np.isnan(sparse.target_log_probs).all()
        with pytest.raises(ValueError, match="2 prompt_logprobs for 3 prompt_token_ids"):
            read(tmp_path, answer | {"prompt_token_ids": [1, 2, 3]})

    def test_sglang(self, tmp_path):
        sparse = read(tmp_path, SGLANG)
        assert rows_of(sparse) == [{7: -0.5, 9: -1.5}, {5: -0.1, 8: -3.0}, {20: -0.2, 21: -2.2}]
        assert sparse.tokens.tolist() == [7, 8, 20]
        assert sparse.target_log_probs.tolist() == [-0.5, -3.0, -0.2]
        assert sparse.notes["sentinels"] == 1

    def test_sglang_without_top(self, tmp_path):
        sparse = read(tmp_path, {"meta_info": {"output_token_logprobs": [[-0.2, 20], [-0.3, 21]]}})
        assert rows_of(sparse) == [{20: -0.2}, {21: -0.3}]
        with pytest.raises(ValueError, match="1 output_top_logprobs for 2 tokens"):
            read(
                tmp_path,
                {"meta_info": {"output_token_logprobs": [[-1, 2], [-1, 3]], "output_top_logprobs": [[]]}},
            )

    def test_openai_chat(self, tmp_path):
        vocabulary = {b"?": 30}
        sparse = read(tmp_path, CHAT, vocabulary=vocabulary)
        assert vocabulary == {b"?": 30, b"\xc3\xa9": 1, b"\xc3": 2, b"!": 3}
        assert rows_of(sparse) == [{1: -0.1, 2: -3.0}, {30: -0.5}]
        assert sparse.tokens.tolist() == [1, 3]
        assert np.isnan(sparse.target_log_probs[1])
        assert sparse.facts()["named_by"] == "text"

    def test_new_tokens_get_ids_of_no_other(self, tmp_path):
        vocabulary = {b"?": 1, b"a": 2, b"b": 5}  # 3 tokens: id 3 is free, 5 is not
        read(tmp_path, CHAT, vocabulary=vocabulary)
        assert vocabulary == {b"?": 1, b"a": 2, b"b": 5, b"\xc3\xa9": 3, b"\xc3": 4, b"!": 6}
        assert len(set(vocabulary.values())) == len(vocabulary)

    def test_invented_ids_are_not_those_of_the_file(self, tmp_path):
        answer = {"prompt_logprobs": [None, {"1": {"logprob": -1.0, "rank": 1}}]}
        with pytest.raises(ValueError, match="some tokens by id and others by text, of which "):
            read(tmp_path, [CHAT, answer])
        vocabulary = {b"?": 30, b"\xc3\xa9": 31, b"\xc3": 32, b"!": 33}
        assert read(tmp_path, [CHAT, answer], vocabulary=vocabulary).tokens.tolist() == [31, 33, 1]

    def test_openai_completion_with_ids(self, tmp_path):
        sparse = read(tmp_path, COMPLETION)
        assert rows_of(sparse) == [{3: -0.3, 4: -1.6, 6: -2.5}]
        assert sparse.tokens.tolist() == [6]
        assert sparse.facts()["named_by"] == "id"

    def test_lines_lists_and_batches(self, tmp_path):
        batch = {"custom_id": "a", "response": {"status_code": 200, "body": VLLM}}
        sparse = read(tmp_path, [SGLANG, SGLANG], batch, VLLM)
        assert sparse.groups.tolist() == [0] * 3 + [1] * 3 + [2] * 2 + [3] * 2
        assert sparse.format == "sglang, vllm"
        (tmp_path / "indented.json").write_text(json.dumps(VLLM, indent=2))
        assert len(open_sparse(tmp_path / "indented.json").tokens) == 2

    def test_through_a_url(self, tmp_path):
        system = fsspec.filesystem("memory")
        system.pipe("/sparse.json", json.dumps(VLLM).encode())
        assert len(open_sparse("memory://sparse.json").tokens) == 2
        system.rm("/sparse.json")

    def test_repeated_ids_are_counted(self, tmp_path):
        sparse = read(
            tmp_path,
            {"meta_info": {"output_token_logprobs": [[-1, 2]], "output_top_logprobs": [[[-1, 2], [-2, 2]]]}},
        )
        assert rows_of(sparse) == [{2: -1.0}]
        assert sparse.notes["repeated"] == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("nonsense", "not JSON"),
            ('{"choices": []}', "no log-probabilities of vLLM, SGLang or OpenAI in it"),
            ('{"prompt_logprobs": [null]}', "no position with log-probabilities"),
            ('{"prompt_logprobs": [{"3": 12.5}]}', r"\(line 1\): 12.5 is no log-probability; .* logits\?"),
            ('{"prompt_logprobs": [{"x": -1}]}', r"\(line 1\): invalid literal"),
            ('{"prompt_logprobs": [{"3": {}}]}', r"\(line 1\): 'logprob'"),
            ('{"prompt_logprobs": [{"3": -1}]}\n{', "line 2 is not JSON"),
            ('{"prompt_logprobs": 3}', r"\(line 1\)"),
            ('{"meta_info": {"output_token_logprobs": [[-1]]}}', r"\(line 1\)"),
            ('{"choices": [{"logprobs": {"content": [{}]}}]}', r"\(line 1\): 'token'"),
            ("[" * 100_000, "not JSON|no log-prob"),
        ],
    )
    def test_damaged(self, tmp_path, content, message):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            open_sparse(tmp_path / "a.json")

    def test_ids_beyond_the_vocabulary(self, tmp_path):
        with pytest.raises(ValueError, match="token ids from 11 to 9906, expected 0 to 4999"):
            read(tmp_path, VLLM, vocab_size=5000)


class TestDistillKit:
    @pytest.mark.parametrize(("name", "exact_step"), [("delta", 2**-5), ("plain", 0)])
    def test_decodes_what_it_wrote(self, name, exact_step):
        sparse = open_sparse(DISTILLKIT / name)
        with np.load(DISTILLKIT / name / "expected.npz") as expected:
            decoded, original, ids = expected["decoded"], expected["original"], expected["ids"]
        values = sparse.log_probs.reshape(decoded.shape)
        np.testing.assert_array_equal(sparse.ids.reshape(ids.shape), ids)
        # the library rounds its result to `exact_dtype`, bfloat16 in one case; values are between -8 and 0
        np.testing.assert_allclose(values, decoded, rtol=0, atol=0.51 * exact_step)
        assert abs(values - original).max() <= abs(decoded - original).max() + 0.51 * exact_step
        assert np.bincount(sparse.groups).tolist() == [4, 8]
        # one target of each sequence lies outside the top k
        assert np.isnan(sparse.target_log_probs).sum() == 2
        known = ~np.isnan(sparse.target_log_probs)
        np.testing.assert_array_equal(sparse.tokens[known], ids[known, 2])
        np.testing.assert_array_equal(sparse.target_log_probs[known], values[known, 2])
        facts = sparse.facts()
        assert (facts["vocab_size"], facts["k"], facts["targets_known"]) == (5003, ids.shape[1], 10)

    def test_one_shard(self, tmp_path):
        sparse = open_sparse(DISTILLKIT / "plain" / "data_1.parquet")
        assert len(sparse.tokens) == 8
        shutil.copy(DISTILLKIT / "plain" / "data_1.parquet", tmp_path)
        with pytest.raises(FileNotFoundError, match=r"compression_config\.yaml"):
            open_sparse(tmp_path / "data_1.parquet")
        config = DISTILLKIT / "plain" / "compression_config.yaml"
        again = open_sparse(tmp_path / "data_1.parquet", config=config)
        np.testing.assert_array_equal(again.log_probs, sparse.log_probs)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("k: 20", "k: 21"), "expected 21 numbers of 13 bits"),
            (("k: 20", "k: 2000000000000"), "expected 2000000000000 numbers"),
            (("d: 5003", "d: 50003"), "expected 20 numbers of 16 bits"),
            (("exact_k: 4", "exact_k: 3"), "bytes a position, expected"),
            (
                ("exact_dtype: float32", "exact_dtype: float64"),
                "bytes a position, expected",
            ),
            (("exact_dtype: float32", "exact_dtype: int8"), "holds int8"),
            (("element_bits: 5", "element_bits: 99"), "1 to 32 bits"),
            (("num_elements: 9", "num_elements: 99"), "do not fit"),
            (("- 3\n", "- cbrt\n"), "polynomial_terms are"),
            (("k: 20\n", "\n"), "KeyError"),
            (("d: 5003", "d: [1"), "not a compression configuration"),
        ],
    )
    def test_wrong_configuration(self, tmp_path, change, message):
        shutil.copytree(DISTILLKIT / "plain", tmp_path / "a")
        config = tmp_path / "a" / "compression_config.yaml"
        assert change[0] in config.read_text()
        config.write_text(config.read_text().replace(*change))
        with pytest.raises(ValueError, match=message):
            open_sparse(tmp_path / "a")

    def test_damaged_shards(self, tmp_path):
        shutil.copytree(DISTILLKIT / "plain", tmp_path / "a")
        shard = tmp_path / "a" / "data_0.parquet"
        table = pq.read_table(shard)
        tokens = table.column("input_ids").to_pylist()
        pq.write_table(table.set_column(0, "input_ids", [[[*tokens[0], 5]]]), shard)
        with pytest.raises(ValueError, match="sequence 0 has 4 and 4 positions for 6 tokens"):
            open_sparse(tmp_path / "a")
        os.truncate(shard, 100)
        with pytest.raises(ValueError, match=r"data_0\.parquet: not a readable Parquet file"):
            open_sparse(tmp_path / "a")
