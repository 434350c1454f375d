"""Builds the kernels ahead of time; everything else about the package is in pyproject.toml.

Without a C compiler the install goes on, says so, and the package compiles its kernels with Numba when they are used.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError

ROOT = Path(__file__).parent
PACKAGE = ROOT / "src" / "kullback"
sys.path.insert(0, str(ROOT))
_EXPECTED = (BaseError, CompileError, LinkError, ImportError, OSError, RuntimeError, subprocess.SubprocessError)


class BuildKernels(build_ext):
    """kullback._compiled, and for users of the C interface lib/libkullback.so with its pkg-config file."""

    def run(self):
        try:
            super().run()
        except _EXPECTED as error:
            self.warn(f"the compiled kernels could not be built, Numba will compile them when used: {error}")
            if self.editable_mode:  # what an earlier build left there would run old kernels
                for extension in self.extensions:
                    (PACKAGE / Path(self.get_ext_filename(extension.name)).name).unlink(missing_ok=True)
                shutil.rmtree(PACKAGE / "lib", ignore_errors=True)
            self.extensions = []

    def build_extension(self, extension):
        from kernels import build

        if not build.targets():
            raise RuntimeError("no instruction sets are known for this architecture")
        work = Path(self.build_temp) / "kernels"
        work.mkdir(parents=True, exist_ok=True)
        shim = work / "kullback_shim.c"
        shim.write_text(build.shim_source(), encoding="utf-8")
        shim_objects = self.compiler.compile(
            [str(shim)], output_dir=str(work), include_dirs=extension.include_dirs, extra_preargs=["-O2"]
        )  # before the kernels: without a C compiler this fails in no time
        kernels = [str(path) for path in build.emit_objects(ROOT / "build" / "kernels").values()]
        source = work / "_compiled.c"
        build.write_extension_source(source)
        extension.sources, extension.extra_objects = [str(source)], kernels
        super().build_extension(extension)
        self.build_library(shim_objects + kernels, Path(self.get_ext_fullpath(extension.name)).parent)

    def build_library(self, objects, built):
        """lib/libkullback.so, without Python, and lib/pkgconfig/kullback.pc, valid wherever the package lies."""
        library = (PACKAGE if self.editable_mode else built) / "lib"
        (library / "pkgconfig").mkdir(parents=True, exist_ok=True)
        soname = ["-Wl,-soname,libkullback.so"] if sys.platform == "linux" else []
        self.compiler.link_shared_lib(objects, "kullback", str(library), libraries=["m"], extra_postargs=soname)
        package = "${pcfiledir}/../.."
        include = f"{package}/../../kernels" if self.editable_mode else f"{package}/kernels"
        (library / "pkgconfig" / "kullback.pc").write_text(
            f"libdir={package}/lib\n"
            "Name: kullback\n"
            f"Description: {self.distribution.get_description()}\n"
            f"Version: {self.distribution.get_version()}\n"
            f'Cflags: -I"{include}"\n'
            'Libs: -L"${libdir}" -lkullback\n',
            encoding="utf-8",
        )


setup(
    ext_modules=[
        Extension(
            "kullback._compiled",
            sources=[],
            include_dirs=[str(ROOT / "kernels")],
            libraries=["m"],
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            extra_compile_args=["-fvisibility=hidden"],  # a libkullback in the same process is another version's
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
