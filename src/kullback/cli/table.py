"""`kullback table`."""

from __future__ import annotations

import argparse
import json
import sys

from kullback.cli.delivery import DONE, model_files, model_sizes


def table(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import atomic_file, check_outputs, show
    from kullback.evaluation.progress import say
    from kullback.evaluation.table import read_table
    from kullback.evaluation.table.picture import check_picture
    from kullback.evaluation.text import json_text

    names = ("markdown", "csv", "json", "svg", "png")
    models = model_files(options.size)
    check_outputs({f"--{name}": getattr(options, name) for name in names}, [*options.results, *models], options.force)
    for kind in ("svg", "png"):
        if path := getattr(options, kind):
            check_picture(path, f".{kind}")
    found = read_table(options.results, statistic=options.sort, sizes=model_sizes(options), force=options.force)
    text = json_text(json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    for name, content in (("markdown", found.to_markdown()), ("csv", found.to_csv()), ("json", text)):
        path = getattr(options, name)
        if path and (name, path) != ("json", "-"):
            with atomic_file(path) as file:
                file.write(content.encode())
    for kind in ("svg", "png"):
        if path := getattr(options, kind):
            for line in found.to_picture(path):
                say(line)
    show(lambda: sys.stdout.write(text if options.json == "-" else found.to_text()))
    return DONE
