"""What `kullback rollouts` says: which fields it read, which tokens its figures are of, why a gate is shut."""

import json
import re

import numpy as np
import pytest
import rollout_writers as writers
from test_rollouts import lines, run, written

from kullback.cli import main
from kullback.rlhf import importance_weights, rejection_mask
from kullback.rlhf.auditing.findings import share_words
from kullback.rlhf.auditing.sources import source_name
from kullback.rollouts import audit_files


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faulty(count, change):
    """Rows of a log of which the first `count` are changed."""
    rows = run()
    for row in rows[:count]:
        change(row)
    return rows


def late(row):
    row["train"] = [-3.0, *row["train"][:-1]]


def called(capsys, *arguments):
    code = main(["rollouts", *arguments, "--quiet"])
    return code, *capsys.readouterr()


def test_fields_with_the_names_of_roles_are_used_beside_a_preset(here):
    """They were not: a worker beside NeMo-RL's own fields was nobody."""
    path = writers.nemo_rl(here, writers.sequences())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_bytes(lines([row | {"worker": f"w{i % 2}", "step": 5, "tokens": [1]} for i, row in enumerate(rows)]))
    report = audit_files(path)
    assert list(report.by["worker"].points) == ["w0", "w1"]
    assert list(report.by["step"].points) == [5], "what a row says goes before the name of the file"
    (log,) = report.facts["files"]
    assert log["preset"] == "nemo_rl" and log["fields"]["worker"] == "worker"
    assert log["fields"]["tokens"] == "token_ids", "a field of the preset goes before one with the role's name"
    assert "train = prev_logprobs, mask = token_loss_mask" in " ".join(str(report).split())
    words = str(audit_files(path, by=["reward"]))
    assert "worker" in words and ", step" not in words, "what is not used is not named; sources are, by the audit"


def test_a_log_without_a_mask_says_so(here):
    """Who maps both sides gets no preset, and no mask of it."""
    path = writers.nemo_rl(here, writers.sequences())
    words = " ".join(str(audit_files(path, fields=["rollout=generation_logprobs", "train=prev_logprobs"])).split())
    assert "fields: rollout = generation_logprobs, train = prev_logprobs; no mask, so that all tokens count" in words
    assert "no mask" not in str(audit_files(path))


def test_the_sides_of_a_preset_are_those_that_it_names(here):
    """Another log's `rollout` and `train` are no log of that trainer."""
    path = written(here, run(), "jsonl")
    with pytest.raises(ValueError, match=r"nemo_rl has generation_logprobs and prev_logprobs"):
        audit_files(path, preset="nemo_rl")
    assert audit_files(path).facts["files"][0]["preset"] is None


def test_files_whose_fields_differ_are_told_apart(here):
    writers.prime_rl(here, writers.sequences())
    (here / "token_exports" / "step_1" / "mine.jsonl").write_bytes(lines(run(count=4)))
    text = " ".join(str(audit_files(here)).split())
    assert text.count("fields of 1 file:") == 2
    assert "rollout = inference_logprobs" in text and "of 1 file: rollout, train, mask" in text


def test_a_mapped_field_that_no_row_has_is_refused(here):
    """A mask that is not there would let every token count."""
    path = written(here, run(), "jsonl")
    with pytest.raises(ValueError, match=r"no row has 'msk', which is mapped to mask; rows have rollout, train, mask"):
        audit_files(path, fields={"mask": "msk"})
    (here / "two").mkdir()
    written(here / "two", [row | {"msk": row["mask"]} for row in run()], "jsonl")
    assert len(audit_files([path, here / "two"], fields={"mask": "msk"}).facts["files"]) == 2, "one file has it"


def test_the_figures_are_of_the_sound_tokens_and_say_so(here, capsys):
    path = written(here, faulty(20, late), "jsonl")
    code, text, _ = called(capsys, str(path), "--json", "out.json", "--by", "env")
    report = audit_files(path)
    lost, every = report.audit.unsound["shift"], report.audit.tokens
    flat = " ".join(text.split())
    assert code == 0 and f"sound {every - lost} of {every} tokens are sound, without those of shift ({lost})" in flat
    assert "; the figures below are without" in flat
    tree = json.loads((here / "out.json").read_text())
    assert tree["audit"]["unsound"] == {"shift": lost} and tree["audit"]["findings"][0]["unsound"]
    by = {entry["label"]: entry for entry in tree["by"]["env"]}
    assert sum(x["tokens"] for x in by.values()) == every == tree["total"]["tokens"]
    assert sum(x["sound_tokens"] for x in by.values()) == every - lost == tree["total"]["sound_tokens"]
    assert tree["by_position"][1].keys() >= {"from", "to", "sound_tokens"} and tree["by_position"][2]["to"] == 6
    row = re.search(r"^code +30 +(\d+) +(\d+) ", text, re.MULTILINE)
    assert [int(x) for x in row.groups()] == [by["code"]["tokens"], by["code"]["sound_tokens"]]


def test_the_terminal_says_which_positions_it_means_and_what_weights_would_do(here, capsys):
    path = written(here, faulty(1, lambda row: row["train"].__setitem__(7, -9999.0)), "jsonl")
    _, text, _ = called(capsys, "log.jsonl")
    assert "log.jsonl:1 position 7" in text and "Positions count from 0, from the first entry of the row" in text
    assert "By position in the answer: counted tokens that come before\ntokens before" in text
    table = text[text.index("What weights and masks would do to the sound tokens") :].splitlines()
    assert table[1].split()[:3] == ["setting", "tokens", "kept"]
    assert [line.split()[0] for line in table[2:9]] == [row.kind for row in audit_files(path).what_if.rows]
    assert max(map(len, text.splitlines())) <= 80


def test_no_gate_passes_because_an_error_left_tokens_out(here, capsys):
    """It did: half of a run was a token late, and the other half was good."""
    path = str(written(here, faulty(30, late), "jsonl"))
    code, _, error = called(capsys, path, "--fail-above", "5")
    report = audit_files(path)
    lost = report.audit.unsound["shift"]
    assert code == 1 and report.kl_upper() < 5
    assert f"is not known of {lost} of {report.audit.tokens} tokens (shift: {lost}): not shown to be at most 5" in error
    assert f"of the sound ones it is {report.total.kl_k3.mean:.6g}" in error
    assert called(capsys, path, "--fail-on", "error", "--fail-above", "5")[2].count("kullback: ") == 2


def test_a_gate_that_passes_says_what_its_figures_are_without(here, capsys):
    path = written(here, run(), "jsonl")
    assert called(capsys, str(path), "--fail-above", "5")[::2] == (0, "")
    rows = faulty(2, lambda row: row.pop("mask"))
    rows[7].pop("train")
    for row in rows[10:20]:  # a prompt without log-probs, inside the mask
        row["rollout"][:4], row["mask"][:4] = [0.0] * 4, [1] * 4
        row["train"][:4] = [-3.0] * 4
    path.write_bytes(lines(rows) + b'{"rollout": [-1')
    (here / "text.jsonl").write_text('{"text": "a"}\n')
    code, text, error = called(capsys, str(path), "text.jsonl", "--fail-above", "5")
    lost = audit_files(path).audit.unsound
    assert code == 0 and list(lost) == ["masked_prompt"]
    assert error == (
        "kullback: passes; its figures are without 2 rows (no train log-probs: 1, truncated last line: 1), 1 file, "
        f"{lost['masked_prompt']} tokens (masked_prompt: {lost['masked_prompt']})\n"
    )
    assert "used all the same: no mask, so that all tokens count: 2 rows, first log.jsonl:1" in text
    assert "left out: no train log-probs: 1 row, first log.jsonl:8" in text
    assert called(capsys, str(path), "text.jsonl")[2] == "", "no gate, no verdict"


def test_a_gate_says_that_a_side_may_be_a_copy(here, capsys):
    """Its KL is 0, which no limit is below."""
    path = written(here, [row | {"train": row["rollout"]} for row in run()], "jsonl")
    code, _, error = called(capsys, str(path), "--fail-above", "0")
    assert code == 0 and re.fullmatch(
        r"kullback: passes; in \d+ sequences one side may be a copy of the other\n", error
    )


def test_what_is_one_is_not_many(here, capsys):
    """Nothing is counted as "1 tokens", "1 rows" or "1 sequences", and nothing is said of NaN."""
    (here / "log.jsonl").write_bytes(lines([{"rollout": [-1.0, -9999.0], "train": [-1.0, -0.5]}]) + b"{")
    assert called(capsys, "log.jsonl", "--html", "page.html", "--json", "out.json")[0] == 0
    (here / "one.jsonl").write_bytes(lines([{"rollout": [-9999.0], "train": [-1.0]}]))
    texts = [
        called(capsys, name, "--fail-above", "1", "--html", "p.html", "--force") for name in ("log.jsonl", "one.jsonl")
    ]
    pages = [(here / name).read_text(encoding="utf-8") for name in ("page.html", "p.html")]
    for text in [*pages, *(line for _, *both in texts for line in both)]:
        assert not re.search(r"\b1 (tokens|rows|sequences|files|pieces|findings|errors|warnings)\b", text)
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "1 sequence, 2 tokens" in texts[0][1] and "1 token (50.0 %) in 1 sequence (all)" in texts[0][1]
    assert "KL (k3) is inf with it; no token is left without" in texts[1][1]


def test_the_page_says_what_its_figures_are_of(here):
    pytest.importorskip("jinja2")
    path = written(here, faulty(20, late), "jsonl")
    report = audit_files(path)
    report.to_html(here / "page.html")
    page = (here / "page.html").read_text(encoding="utf-8")
    assert f"{report.audit.sound_in_words}; all figures are of the sound ones." in page[: page.index("<h2>")]
    for words in ("the figures below are without", "KL, nats, by position in the answer",
                  "Positions count from 0, from the first entry of the row", "<th>sound</th>",
                  "rollout, train, mask, tokens, rollout_entropy"):  # fmt: skip
        assert words in page, words


@pytest.mark.parametrize("command", ["rollouts", "compare", "info", ""])
def test_exit_codes_name_what_a_command_has(capsys, command):
    """--checkpoint was named for commands without it."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    options, codes = capsys.readouterr().out.split("exit codes:")
    for option in re.findall(r"--[a-z-]+", codes):
        assert command == "" or option in options, option
    assert ("\n  1 " in codes) == (command != "info")


def test_a_lack_of_memory_names_the_option_that_there_is(here, capsys, monkeypatch):
    """It named --chunk-mib, which `rollouts` has not."""

    def full(*_, **__):
        raise MemoryError("64 GiB")

    monkeypatch.setattr("kullback.rollouts.audit_files", full)
    code, _, error = called(capsys, str(written(here, run(), "jsonl")))
    assert (code, error) == (3, "kullback: not enough memory; see --processes (64 GiB)\n")


def test_findings_name_the_environment_whatever_is_asked_for(here):
    """A worker beside it hid it, and so did --by."""
    rows = run(count=120)
    for row in rows[::2]:
        late(row)
    path = written(here, rows, "jsonl")
    for by in (None, ["worker"], ["step"], ["env"]):
        report = audit_files(path, by=by)
        found = next(f for f in report.audit.findings if f.check == "shift")
        assert "all of env 'math', which has 50 % of all sequences" in found.seen
        assert list(report.by) == (by or ["step", "env", "worker"])


def test_each_function_names_the_others_limits():
    sides = [[-1.0, -2.0]], [[-0.9, -2.3]]
    with pytest.raises(TypeError, match=r"rejection_mask\(\) takes no `bounds`: .*`importance_weights`.*`threshold`"):
        rejection_mask(*sides, kind="token_k1", bounds=2.0)
    with pytest.raises(TypeError, match=r"importance_weights\(\) takes no `threshold`: .*`rejection_mask`.*`bounds`"):
        importance_weights(*sides, threshold=2.0)
    assert np.all(rejection_mask(*sides, kind="token_k1", threshold=2.0))


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ((0.9998, 0.9999, 1.0, 1.0001), ["0.9998", "0.9999", "1", "1.0001"]),
        ((0.99995, 1.0, 1.00005), ["0.99995", "1", "1.00005"]),
        ((0.0, 1e-5, 2e-5), ["0", "1e-05", "2e-05"]),
        ((0.0, 123456.0), ["0", "1.23e5"]),
    ],
)
def test_no_two_marks_of_an_axis_read_the_same(ticks, texts):
    from kullback.rollouts.page import drawings

    assert [text for _, text in drawings._texts(ticks)] == texts


def test_a_source_that_is_a_number_is_not_in_quotes():
    """Worker '3' looked like a text; where there is no kind, a number alone would be none."""
    assert [source_name(kind, label) for kind in ("worker", "") for label in ("3", "w3")] == [
        "worker 3", "worker 'w3'", "source 3", "'w3'",
    ]  # fmt: skip


def test_shares_of_one_sentence_have_as_many_digits(here, capsys):
    """12 % stood beside 12.5 %; and nearly all is not all."""
    rows = [{"rollout": [-1.0] * 4, "train": [-1.0] * 4} for _ in range(8)]
    rows[0]["rollout"] = [-9999.0] * 2 + [-1.0] * 2
    (here / "log.jsonl").write_bytes(lines(rows))
    _, out, _ = called(capsys, "log.jsonl", "--html", "page.html")
    assert "2 tokens (6.25 %) in 1 sequence (12.5 %)" in out
    rows[0]["rollout"] = [-9999.0] * 4
    (here / "four.jsonl").write_bytes(lines(rows))
    assert "4 tokens (12.5 %) in 1 sequence (12.5 %)" in called(capsys, "four.jsonl")[1]
    assert [share_words(x) for x in (1.0, 0.12, 0.5, 0.99999, 0.000833)] == [
        "all", "12.0 %", "50.0 %", "99.999 %", "0.0833 %",
    ]  # fmt: skip
    page = (here / "page.html").read_text(encoding="utf-8")
    assert re.search(r"<b>1 [a-z]+</b><span>finding</span>", page)
