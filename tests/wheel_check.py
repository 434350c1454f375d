"""What we ship, from nothing: `python tests/wheel_check.py` builds sdist and wheel, tries them in clean environments.

1. The sdist holds all that a build needs; the wheel is made from it, one for every Python from 3.11 on.
2. Installed beside NumPy and cffi alone, without Numba, the wheel passes the tests of the results.
3. Without a C compiler both kinds of install succeed, say so, and leave the JIT engine.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("divergences", "comparison", "tokens", "edge_cases", "layouts", "laws", "accuracy", "aggregation")
TEST_NEEDS = ("pytest", "hypothesis", "mpmath", "ml_dtypes")
IN_WHEEL = (
    "_kullback.py",
    "kullback/_compiled.abi3.so",
    "kullback/kernels/kullback.h",
    "kullback/kernels/entries.py",
    "kullback/kernels/kinds/renyi.py",
    "kullback/lib/libkullback.so",
    "kullback/lib/pkgconfig/kullback.pc",
    "kullback/py.typed",
)
IN_SDIST = ("setup.py", "kernels/build.py", "kernels/kullback.h", "tests/c/replay.c", "src/kullback/_engine/engine.py")
NO_COMPILER = {"CC": "/bin/false"}
SAID = "the compiled kernels could not be built"


def run(*command, cwd=None, **environment):
    """Standard output and errors of a command that must succeed."""
    words = list(map(str, command))
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KULLBACK"))}
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=settings | environment)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def environment(path, *needs):
    """The interpreter of a new environment with these packages."""
    venv.create(path, with_pip=True)
    python = path / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *needs)
    return python


def build(work):
    """(the sdist unpacked, the wheel built from it)."""
    python = environment(work / "builder", "build")
    started = time.perf_counter()
    run(python, "-m", "build", "--outdir", work / "dist", ROOT)
    print(f"sdist and wheel built in {time.perf_counter() - started:.0f} s")
    (sdist,), (wheel,) = (list((work / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "sdist", filter="data")
    (source,) = (work / "sdist").iterdir()
    missing = [name for name in IN_SDIST if not (source / name).exists()]
    assert not missing, f"the sdist lacks {missing}"

    assert "-cp311-abi3-" in wheel.name, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    missing = [name for name in IN_WHEEL if name not in sizes]
    assert not missing, f"the wheel lacks {missing}"
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {sum(sizes.values()) / 1e6:.2f} MB unpacked")
    return source, wheel


def check_without_numba(work, wheel):
    """The compiled engine needs neither Numba nor a place to write."""
    python = environment(work / "clean", "numpy", "cffi", *TEST_NEEDS)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    home = work / "home"
    home.mkdir()
    settings = {"HOME": str(home), "KULLBACK_ENGINE": "compiled", "PYTHONDONTWRITEBYTECODE": "1"}
    first = "import sys, numpy, kullback as kb; kb.kl_divergence(numpy.ones((8, 32000)), numpy.ones((8, 32000)));"
    loaded = run(
        python, "-c", first + "print(*sorted({n.partition('.')[0] for n in sys.modules}))", cwd=home, **settings
    )
    assert not {"numba", "llvmlite", "cffi"} & set(loaded.split()), loaded
    assert "NO" in run(python, "-c", "import importlib.util as u; print('YES' if u.find_spec('numba') else 'NO')")
    tests = [ROOT / "tests" / f"test_{name}.py" for name in RESULTS]
    options = ["-o", "addopts=", "-q", "-p", "no:cacheprovider", "-m", "not integration"]
    print(run(python, "-m", "pytest", *options, *tests, cwd=home, **settings).splitlines()[-1])
    left = [path for path in home.rglob("*") if ".hypothesis" not in path.parts]
    assert not left, f"files were written: {left}"


def check_without_compiler(work, source):
    """`pip install .` and `pip install -e .` go on; the engine is the JIT's."""
    for kind in ([], ["--editable"]):
        python = environment(work / f"jit{len(kind)}", "numpy", "cffi", "numba")
        said = run(python, "-m", "pip", "install", "--verbose", "--no-deps", *kind, source, **NO_COMPILER)
        assert SAID in said, said[-3000:]
        script = "import kullback as kb; print(kb.get_engine(), kb.kl_divergence([0.5, 0.5], [0.25, 0.75]))"
        answer = run(python, "-c", script, cwd=work)
        assert answer.startswith("jit 0.1438410362258904"), answer
        print(f"without a compiler, pip install {' '.join(kind) or '.'}: {answer.strip()}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        unpacked, made = build(place)
        check_without_numba(place, made)
        check_without_compiler(place, unpacked)
