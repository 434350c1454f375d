"""Rewrites what commands make, for `make generated`: marked blocks of README.md, pictures, the sample report."""

import os
import subprocess
import sys
from pathlib import Path

from pictures import PICTURES
from sample_report import sample_report
from speed import speed_table

ROOT = Path(__file__).parent.parent


def demo():
    """The first table of `make demo`."""
    program = "import sys; from kullback.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "compare", "examples/f16.kld", "examples/q4_k_m.kld"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    shown = done.stdout.partition("By p's greatest")[0]
    return "```\n" + "\n".join(line.rstrip() for line in shown.strip().splitlines()) + "\n```"


def candidates():
    """What `kullback table` makes of the dumps of three models, in Markdown."""
    return _table("kullback.json")


def logs():
    """The same of what llama-perplexity printed for them."""
    return _table("f16.txt", "q8_0.txt", "q4_k_m.txt")


def _table(*names):
    from kullback.evaluation.table import read_table

    lines = read_table([ROOT / "examples" / "results" / name for name in names]).to_markdown().splitlines()
    return "\n".join(lines[1:-1])  # without the comments that mark a file


def commands():
    """Of each command what it does, an example, and all its arguments."""
    from kullback.cli.program import EXAMPLES, parser

    (several,) = (action for action in parser()._actions if action.dest == "command")
    return "\n\n".join(_command(name, one, EXAMPLES[name]) for name, one in several.choices.items())


def _command(name, parser, example):
    lines = [
        f"## kullback {name}",
        "",
        f"{_cell(parser.description)}.",
        "",
        f"    kullback {example}",
        "",
        "| | |",
        "|---|---|",
    ]
    for action in parser._actions:
        if action.dest != "help":
            shown = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
            places = {"+": f"{shown} [{shown} ...]", "*": f"[{shown} ...]"}.get(action.nargs, shown)
            words = [*action.option_strings[-1:], *([] if action.nargs == 0 else [places])]
            lines.append(f"| `{' '.join(words)}` | {_cell(action.help)} |")
    return "\n".join(lines)


def _cell(text):
    return text.replace("%%", "%").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


BLOCKS = {
    "README.md": {"demo": demo, "speed": speed_table},
    "docs/table.md": {"candidates": candidates, "logs": logs},
    "docs/commands.md": {"commands": commands},
}


def with_blocks(text, page="README.md"):
    """The text of a page with every block between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    for name, make in BLOCKS[page].items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        assert start and end, f"{page} has no block {name!r}"
        text = f"{before}{start}{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in BLOCKS:
        path = ROOT / page
        path.write_text(with_blocks(path.read_text(encoding="utf-8"), page), encoding="utf-8")
    for name, picture in PICTURES.items():
        (ROOT / "docs" / "pictures" / name).write_text(picture(), encoding="utf-8")
    (ROOT / "docs" / "sample_report.html").write_text(sample_report(), encoding="utf-8")
