"""`kullback eval`."""

from __future__ import annotations

import argparse
import glob
import os

from kullback.cli.delivery import check_before, deliver, model_sizes


def evaluate(options: argparse.Namespace) -> int:
    from kullback.evaluation.candidates import names_of
    from kullback.evaluation.gates import check_names
    from kullback.evaluation.models import compare_models
    from kullback.evaluation.progress import progress, say

    own = os.path.join(options.base, "tokenizer.json")
    if options.tokenizer is None and os.path.exists(own):
        options.tokenizer = own
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
            options.base, options.candidates, options.text, field=options.field, split=options.split,
            context=options.context, stride=options.stride, windows=options.windows, dtype=options.dtype,
            device=options.device, batch=options.batch, vocab_size=options.vocab_size, jensen_shannon=options.js,
            top_k=options.top_k, num_threads=options.threads, progress=report,
            warn=lambda line: say(f"suspicious: {line}"), checkpoint=options.checkpoint, resume=options.resume,
            per_token=options.per_token,
        )  # fmt: skip
    return deliver(comparison, options, sizes)
