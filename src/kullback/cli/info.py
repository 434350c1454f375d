"""`kullback info`."""

from __future__ import annotations

import argparse
import json
import sys

from kullback.cli.delivery import DONE, reader_options


def info(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import show
    from kullback.evaluation.sources import Dump, holds_answers, open_logits, open_sparse
    from kullback.evaluation.sources.streams import is_stream
    from kullback.evaluation.terminal import print_facts
    from kullback.evaluation.text import json_text

    if not is_stream(options.file) and holds_answers(options.file):
        given = [name for name, x in reader_options(options).items() if x is not None and x is not False]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise ValueError(f"{options.file}: top-k answers in JSON, for which {option} means nothing")
        facts = open_sparse(options.file).facts()
    else:
        with open_logits(options.file, **reader_options(options)) as source:
            facts = source.check() if isinstance(source, Dump) else source.facts()
    text = json_text(json.dumps(facts, indent=2, ensure_ascii=False)) + "\n"
    show(lambda: sys.stdout.write(text) if options.json else print_facts(facts))
    return DONE
