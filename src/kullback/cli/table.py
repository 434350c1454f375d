"""`kullback table`."""

from __future__ import annotations

import argparse
import json
import os
import sys

from kullback.cli.delivery import DONE


def table(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import atomic_file, check_outputs, show
    from kullback.evaluation.progress import say
    from kullback.evaluation.table import read_table
    from kullback.evaluation.table.picture import check_picture
    from kullback.evaluation.text import json_text

    names = ("markdown", "csv", "json", "svg", "png")
    sizes = dict(options.size)
    if len(sizes) < len(options.size):
        raise ValueError("--size is given twice for one candidate")
    models = [path for path in sizes.values() if os.path.exists(path)]
    check_outputs({f"--{name}": getattr(options, name) for name in names}, [*options.results, *models], options.force)
    for kind in ("svg", "png"):
        if path := getattr(options, kind):
            check_picture(path, f".{kind}")
    found = read_table(
        options.results, statistic=options.sort, sizes=sizes, parameters=options.parameters, force=options.force
    )
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
