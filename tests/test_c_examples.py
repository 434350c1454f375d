"""The C programs of docs/ and examples/ compile without a warning, as documented, and print what is said of them."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import kullback as kb

ROOT = Path(__file__).parent.parent
LIBRARY = Path(kb.get_library()).parent
SETTINGS = os.environ | {"PKG_CONFIG_PATH": str(LIBRARY / "pkgconfig"), "LD_LIBRARY_PATH": str(LIBRARY)}
PROGRAMS = re.findall(
    r"^```c\n(.*?)^```\n+```text\n(.*?)^```$",
    (ROOT / "docs" / "c_interface.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)


def output_of(source, program, *options):
    """What a program prints, compiled by the flags that pkg-config gives."""
    asked = ["pkg-config", "--cflags", "--libs", "kullback"]
    flags = subprocess.run(asked, capture_output=True, text=True, check=True, env=SETTINGS).stdout.split()
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", *options]
    command = ["cc", *strict, str(source), *flags, "-lm", "-lpthread", "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, env=SETTINGS, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_programs():
    assert len(PROGRAMS) == (ROOT / "docs" / "c_interface.md").read_text(encoding="utf-8").count("```c\n") > 0


@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_programs_of_the_page(tmp_path, program, printed):
    source = tmp_path / "program.c"
    source.write_text(program, encoding="utf-8")
    assert output_of(source, tmp_path / "program", "-fsanitize=address,undefined") == printed


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_rows_shared_among_threads(tmp_path, sanitizer):
    """Four threads make the library's first calls at once, under ThreadSanitizer too."""
    printed = output_of(ROOT / "examples" / "c" / "compare_rows.c", tmp_path / "program", f"-fsanitize={sanitizer}")
    assert re.fullmatch(
        r"mean KL \d\.\d+e-05 nats, same top-1 in \d+ of 1000 rows, same bits on one thread: yes\n", printed
    )
