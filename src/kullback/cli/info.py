"""`kullback info`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from kullback.cli.delivery import DONE, UNUSABLE, reader_options

# what says something of a comparison only
_OF_PAIRS = ("given", "tokens", "vocab_size", "read")


def info(options: argparse.Namespace) -> int:
    if len(options.files) > 1:
        return _fit(options)
    for name in _OF_PAIRS:
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} is for two files or more, which are to be compared")
    from kullback.evaluation.terminal import print_facts

    facts = _facts(options.files[0], reader_options(options))
    _show(facts, options.json, lambda: print_facts(facts))
    return DONE


def _facts(path: str, given: dict[str, Any]) -> dict[str, Any]:
    from kullback.evaluation.sources import Dump, holds_answers, open_logits, open_sparse
    from kullback.evaluation.sources.sparse import TopKError
    from kullback.evaluation.sources.streams import is_stream

    if not is_stream(path) and holds_answers(path):
        meant = [name for name, x in given.items() if x is not None and x is not False]
        if meant:
            option = f"--{meant[0].replace('_', '-')}"
            raise ValueError(f"{path}: top-k answers in JSON, for which {option} means nothing")
        return open_sparse(path).facts()
    try:
        with open_logits(path, **given) as source:
            return source.check() if isinstance(source, Dump) else source.facts()
    except TopKError:
        return open_sparse(path, over_listed=True).facts()


def _fit(options: argparse.Namespace) -> int:
    """Whether files can be compared, with the code that the comparison would have for it."""
    from kullback.evaluation.fitting import fit, print_fit
    from kullback.evaluation.own_options import collected

    found = fit(
        options.files, given=options.given or "logits", tokens=options.tokens, vocab_size=options.vocab_size,
        read=collected(options.read), **reader_options(options),
    )  # fmt: skip
    _show(found, options.json, lambda: print_fit(found))
    return DONE if found["comparable"] else UNUSABLE


def _show(found: Any, as_json: bool, print_it: Any) -> None:
    from kullback.evaluation.outputs import show
    from kullback.evaluation.text import json_text

    text = json_text(json.dumps(found, indent=2, ensure_ascii=False)) + "\n"
    show(lambda: sys.stdout.write(text) if as_json else print_it())
