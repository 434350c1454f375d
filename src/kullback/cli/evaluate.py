"""`kullback eval`."""

from __future__ import annotations

import argparse
import glob
import os
from typing import Any

from kullback.cli.delivery import DONE, check_before, deliver, model_sizes


def evaluate(options: argparse.Namespace) -> int:
    from kullback.evaluation.candidates import names_of
    from kullback.evaluation.gates import check_names
    from kullback.evaluation.models import compare_models
    from kullback.evaluation.progress import progress, say

    for folder in (options.base, *options.candidates):
        own = os.path.join(folder, "tokenizer.json")
        if options.tokenizer is None and os.path.exists(own):
            options.tokenizer = own
    if bool(options.candidates) == bool(options.reference):
        raise ValueError("expected candidates to compare, or --reference OUT to write, and then: eval OUT CANDIDATE")
    if options.reference:
        return _reference(options)
    names = names_of(options.candidates)
    check_before(options, [options.base, *options.candidates, options.text])
    check_names(options.fail_if, names)
    known = dict(options.size)
    for name, folder in zip(names, options.candidates, strict=True):
        if name not in known and glob.glob(os.path.join(glob.escape(folder), "*.safetensors")):
            options.size.append((name, folder))  # how large a candidate is, its folder says
    sizes = model_sizes(options, names)
    with progress(options.quiet, options.checkpoint if options.resume else "") as report:
        comparison = compare_models(
            options.base, options.candidates, options.text, jensen_shannon=options.js, top_k=options.top_k,
            progress=report, warn=lambda line: say(f"suspicious: {line}"), checkpoint=options.checkpoint,
            resume=options.resume, per_token=options.per_token, by_fields=options.by_field, **_running(options),
        )  # fmt: skip
    return deliver(comparison, options, sizes)


def _reference(options: argparse.Namespace) -> int:
    from kullback.evaluation.models import reference_of_model
    from kullback.evaluation.progress import progress

    for name in ("json", "html", "markdown", "per_token", "junit", "checkpoint", "fail_if", "by_field"):
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} is of a comparison; --reference makes none")
    with progress(options.quiet, options.reference if options.resume else "") as report:
        reference_of_model(
            options.base, options.text, options.reference, top_k=options.reference_top_k, progress=report,
            resume=options.resume, overwrite=options.force, **_running(options),
        )  # fmt: skip
    return DONE


def _running(options: argparse.Namespace) -> dict[str, Any]:
    """How models run, and on what."""
    names = "field split context stride windows dtype device batch vocab_size"
    return {name: getattr(options, name) for name in names.split()} | {"num_threads": options.threads}
