"""The arguments of the command `kullback`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from kullback.evaluation.argument_types import condition, is_number, limit, numbers, positive, row_range
from kullback.evaluation.model_arguments import model_arguments
from kullback.evaluation.reference_arguments import reference_arguments
from kullback.evaluation.sources.base import FLOAT_DTYPES, UNNAMED
from kullback.evaluation.table_arguments import size_arguments, table_arguments
from kullback.evaluation.text import visible

__all__ = ["READER_OPTIONS", "ROLLOUT_PRESETS", "build_parser"]

# the arguments of `open_logits` that the commands take
READER_OPTIONS = ("tensor", "dtype", "salvage", "lm_head", "norm", "layer")

Command = Callable[[argparse.Namespace], int]


def build_parser(commands: Mapping[str, Command], epilog: Callable[[str], str]) -> argparse.ArgumentParser:
    """The parser; `options.run` is the command chosen. `epilog`: what stands below the help of one, or of all, ""."""
    parser = _Parser(
        prog="kullback", description="Compare what language models predict, from files of their logits.",
        epilog=epilog(""), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def command(name: str, description: str) -> argparse.ArgumentParser:
        new = subparsers.add_parser(
            name, help=description, description=description, epilog=epilog(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        new.set_defaults(run=commands[name])
        return new

    _compare(command("compare", "compare candidates Q with a base P: KL(p‖q), agreement, perplexities"))
    _eval(command("eval", "run a model and its candidates on a text and compare what they predict (transformers)"))
    _reference(command("reference", "keep of each row of a base what comparisons need: about 2 kB a token"))
    table_arguments(command("table", "rank candidates of one base: results of compare --json, sizes, frontier"))
    _rollouts(command("rollouts", "audit the log-probs in logs of RL training: what is wrong with a run, and where"))
    _merge(command("merge", "bring together the checkpoints of a job that was split by --rows"))
    _info(command("info", "say what a file of logits holds, or whether and how several can be compared"))
    _convert(command("convert", "write logits as .npy, .safetensors or a llama.cpp dump (.kld)"))
    _bench(command("bench", "measure this machine's throughput for a minute"))
    return parser


class _Parser(argparse.ArgumentParser):
    """Errors of arguments quote them: they must not reach the terminal as they are."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:  # argparse takes no notice of a disk that is full
            _show(message)
        else:
            super()._print_message(message, file)


def _show(text: str) -> None:
    from kullback.evaluation.outputs import show

    show(lambda: sys.stdout.write(text))


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        _show(f"kullback {version('kullback')}\n")
        parser.exit()


def _compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "p",
        metavar="P",
        help="the base: a file, folder or URL of logits, or a compact reference; - or a FIFO: as written",
    )
    add("q", metavar="Q", nargs="+", help="the candidates (of - and FIFOs each is read once); the base is read once")
    add("--given", choices=("logits", "log_probs", "probs"), default="logits", help="what the files hold")
    add("--tokens", metavar="FILE", help="target token of each row, where no file has them (.npy, .json, text)")
    add("--vocab-size", metavar="N", type=int, help="compare the first N columns only")
    add("--ignore-index", metavar="ID", type=int, default=-100, help="leave tokens with this id out (-100)")
    add("--rows", metavar="A:B", type=row_range, help="compare these rows only")
    _figures(parser)
    add("--convention", choices=("llama.cpp",), help="give what llama-perplexity --kl-divergence prints too")
    add("--by", metavar="FILE", help="labels of rows or documents (Parquet, CSV, JSON lines, .npy): figures by label")
    add("--by-column", metavar="NAME", action="append", help="of FILE take this column only (again for others)")
    _reading(parser)
    _own_reading(parser)
    _outputs(parser)
    _keeping(parser)
    add("--dask", metavar="SCHEDULER", help="compute on the cluster of this Dask scheduler (tcp://host:8786)")
    _chunks(parser)


def _chunks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chunk-mib",
        metavar="MIB",
        type=positive,
        default=32,
        help="read so much at a time, all files; 4 times it is held (32)",
    )


def _reference(parser: argparse.ArgumentParser) -> None:
    reference_arguments(parser)
    _reading(parser)
    _chunks(parser)


def _figures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--js", action="store_true", help="give the Jensen-Shannon divergence too")
    add(
        "--top-k",
        metavar="K,...",
        type=numbers,
        action="extend",
        default=[],
        help="agreement of the K likeliest tokens (of all, where there are fewer)",
    )


def _keeping(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--per-token", metavar="FILE", help="write a row for each token: Parquet, or CSV for a name in .csv")
    add("--checkpoint", metavar="FILE", help="log what was computed, so that a killed job can go on")
    add("--resume", action="store_true", help="go on from the checkpoint (or begin, if there is none)")
    add("--threads", metavar="N", type=positive, help="threads that compute (all the cores allowed)")
    add("--quiet", action="store_true", help="no progress on standard error")


def _eval(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    _figures(parser)
    _outputs(parser)
    _keeping(parser)


def _outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--markdown", metavar="FILE", help="write a table in Markdown, for pull requests and model cards")
    add("--json", metavar="FILE", help="write the results as JSON; - for standard output, without the table")
    add("--html", metavar="FILE", help="write a report, one page that needs nothing else")
    size_arguments(parser, frontier=True)
    add("--tokenizer", metavar="FILE", help="a tokenizer.json, to show the worst tokens as text")
    add(
        "--margin", metavar="NATS", type=limit,
        help="ship the smallest candidate that is shown not to be worse than the best by so much in mean KL(p‖q)",
    )  # fmt: skip
    add("--fail-above", metavar="NATS", type=limit, help="exit with 1 if the mean KL(p‖q) is above this, or NaN")
    add(
        "--fail-if",
        metavar="CONDITION",
        type=condition,
        action="append",
        default=[],
        help="exit with 1 if it holds, or is not known: 'kl.p99 > 0.1', 'q4.kld: same_top1.mean < 0.97', "
        "'kl.mean.upper > 0.01' (one-sided 95 %% interval), 'q4.kld [domain=code]: kl > 0.02' (by label; "
        "[domain=*]: each), 'q4.kld - q5.kld: kl.upper > 0.001' (a difference)",
    )
    add("--junit", metavar="FILE", help="write what --fail-above and --fail-if found as JUnit XML")
    add("--annotate", choices=("github",), help="print what failed as annotations for GitHub Actions")
    add("--force", action="store_true", help="let outputs replace files that kullback did not write (never an input)")


# names of `kullback.rollouts.PRESETS`, which no other command needs to load
ROLLOUT_PRESETS = ("nemo_rl", "prime_rl", "verl", "trl", "slime")


def _rollouts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "files",
        metavar="FILE",
        nargs="+",
        help="JSON lines (.gz, .zst too), Parquet, Arrow, .npz, .pt, .pkl; folders of them; or all parts from --save",
    )
    add("--preset", choices=ROLLOUT_PRESETS, help="whose fields the rows have (by default those that fit)")
    add(
        "--map",
        metavar="ROLE=FIELD",
        nargs="+",
        action="extend",
        help="fields by role: rollout, train, mask, tokens, rollout_entropy, train_entropy, keep, reward, step, env, "
        "worker",
    )
    add("--by", metavar="LABEL", nargs="+", action="extend", help="roles or fields to break down by (step env worker)")
    add("--json", metavar="FILE", help="write the results as JSON; - for standard output, without the tables")
    add("--html", metavar="FILE", help="write a report, one page that needs nothing else")
    add("--tokenizer", metavar="FILE", help="a tokenizer.json, to show the worst tokens as text")
    add(
        "--fail-on", choices=("error", "warning", "note"), help="exit with 1 if there is such a finding, or a worse one"
    )
    add(
        "--fail-above",
        metavar="NATS",
        type=limit,
        help="exit with 1 unless KL(rollout‖train), k3 of the sound tokens, is at most this at the upper end of its "
        "one-sided 95 %% interval, and no error left tokens out of it",
    )
    add("--part", metavar="I/N", type=_part, help="read this part of the files only, of N from 1")
    add("--save", metavar="FILE", help="write what merges with the other parts, to the same bits as in one piece")
    add("--partial", action="store_true", help="merge what there is of saved parts; the results say what is missing")
    add("--dask", metavar="SCHEDULER", help="read on the cluster of this Dask scheduler (tcp://host:8786)")
    add("--processes", metavar="N", type=positive, help="read in so many (as many as cores are allowed)")
    add("--quiet", action="store_true", help="no progress on standard error")
    add("--force", action="store_true", help="let outputs replace files that kullback did not write (never an input)")


def _part(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and is_number(number) and is_number(of) and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}, expected I/N: the I-th of N parts, from 1")
    return int(number), int(of)


def _merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", metavar="CHECKPOINT", nargs="+", help="files written by compare --checkpoint")
    parser.add_argument("--partial", action="store_true", help="merge what there is; the results say what is missing")
    _outputs(parser)


def _reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tensor", metavar="NAME", help="name of the array or column in files that hold several")
    add("--dtype", choices=tuple(UNNAMED), help="what words of 2 or 1 bytes in NumPy, HDF5 or zarr files are")
    add(
        "--salvage",
        action="store_true",
        help="use what is there of truncated dumps and incomplete folders; NaN for rows never written",
    )
    add("--lm-head", metavar="MODEL", help="the files hold hidden states: make logits with this folder or weights")
    add("--norm", choices=("applied", "model"), help="with --lm-head: the last normalisation was, or is to be, applied")
    add("--layer", metavar="L", type=int, help="with --lm-head: take this one of the layers in states (T, L, H)")


def _own_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--read",
        metavar="FILE:OPTION=VALUE",
        type=_own_option,
        action="append",
        default=[],
        help="one of these six for one file: p, q (all candidates) or a name, as in q:norm=model",
    )


def _own_option(text: str) -> Any:
    from kullback.evaluation.own_options import parse

    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _info(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="a file, folder or URL; - or a FIFO. Several: can they be compared?")
    add("--json", action="store_true", help="as JSON")
    _reading(parser)
    _own_reading(parser)
    add("--given", choices=("logits", "log_probs", "probs"), help="of several files: what they hold (logits)")
    add("--tokens", metavar="FILE", help="of several files: target token of each row, where no file has them")
    add("--vocab-size", metavar="N", type=int, help="of several files: the first N columns only")


def _convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="IN", help="a file, folder or URL of logits; - or a FIFO: as they are written")
    add("target", metavar="OUT", help="its suffix says the format: .npy, .safetensors or .kld")
    add(
        "--chunk-tokens",
        metavar="FILE",
        help="for .kld: the text as the model saw it, chunks of n_ctx token ids (another .kld, .npy of "
        "shape (C, n_ctx), .json with a list a chunk, text with a line a chunk)",
    )
    add("--to-dtype", choices=FLOAT_DTYPES, help="the source's, by default")
    add("--quiet", action="store_true", help="no progress on standard error")
    add("--force", action="store_true", help="replace OUT if it exists (never an input)")
    _reading(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rows", metavar="T", type=positive, default=256, help="rows of a pair (256)")
    add("--vocab-size", metavar="V", type=positive, default=131072, help="columns (131072)")
    add("--threads", metavar="N", type=positive, help="threads that compute (all the cores allowed)")
