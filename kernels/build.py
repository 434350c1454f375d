"""The ahead-of-time build: the entry points of entries.py as machine code in an extension module and a C library.

    kernels -> LLVM IR (Numba) -> one object per instruction set -> + a C shim that picks one at load time
            -> kullback._compiled (cffi) and libkullback

Each instruction set is compiled by a process of its own, with NUMBA_CPU_NAME and NUMBA_CPU_FEATURES set to it, so that
nothing of the build host's processor leaks in. Run by setup.py; `python -m kernels.build --target NAME OUT.o` is one
of those processes. Objects are kept under a digest of all they depend on: what is unchanged is not compiled again.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from . import contract

# name: (LLVM cpu, features told to LLVM, GCC's names of what the processor must have); best first
_X86 = {
    "v4": (
        "x86-64-v4",
        "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx2,+fma,+f16c,+bmi,+bmi2,-prefer-256-bit",
        ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma", "bmi", "bmi2", "popcnt"),
    ),
    "v3": ("x86-64-v3", "+avx2,+fma,+f16c,+bmi,+bmi2", ("avx2", "fma", "bmi", "bmi2", "popcnt")),
}
_ARM = {"neon": ("generic", "+neon", ())}


def targets():
    """The instruction sets built for this machine's architecture, best first; none where it is unknown."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return _X86
    return _ARM if machine in ("aarch64", "arm64") else {}


# ----------------------------------------------------------------------------------------- one object, in a child


def emit_object(target, path):
    """Write the object file of every entry point for one instruction set; symbols are kullback_<what>_<target>."""
    from llvmlite import binding
    from numba.core import compiler
    from numba.core.registry import cpu_target

    from . import separate

    separate.whole()
    from . import entries
    from .control import whole_entry
    from .linked import only_linked

    module = None
    for name in contract.functions():
        signature = contract.numba_signature(name)
        flags = compiler.Flags()
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.error_model = "numpy"
        whole = whole_entry(name, getattr(entries, name))
        with only_linked(whole.__qualname__):
            result = compiler.compile_extra(
                cpu_target.typing_context,
                cpu_target.target_context,
                whole,
                signature.args,
                signature.return_type,
                flags,
                {},
            )
            result.library._ensure_finalized()
        part = binding.parse_assembly(result.library.get_llvm_str())
        for function in part.functions:
            if not function.is_declaration:
                function.linkage = "internal"
        for variable in part.global_variables:
            if not variable.is_declaration:
                variable.linkage = "internal"
        entry = part.get_function(result.fndesc.llvm_func_name)
        entry.linkage, entry.visibility, entry.name = "external", "hidden", f"{name}_{target}"
        if module is None:
            module = part
        else:
            module.link_in(part)
    cpu, features, _ = targets()[target]
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small", jit=False
    )
    Path(path).write_bytes(machine.emit_object(module))


def build_digest():
    """A digest of what the objects depend on: the kernels, the compilers, the instruction sets."""
    from importlib.metadata import version

    parts = [contract.source_digest(), *(version(name) for name in ("numba", "llvmlite", "numpy")), repr(targets())]
    return hashlib.sha256("\0".join([*parts, sys.version]).encode()).hexdigest()[:20]


def emit_objects(directory):
    """{target: object file} for every instruction set, each from a process that knows no other processor."""
    directory = Path(directory) / build_digest()
    directory.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[__package__.count(".") + 1]
    paths, children = {}, []
    for target, (cpu, features, _) in targets().items():
        paths[target] = directory / f"kullback_{target}.o"
        if not paths[target].exists():
            environment = dict(os.environ, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, NUMBA_DISABLE_JIT="0")
            unfinished = directory / f"kullback_{target}.{os.getpid()}.part"
            command = [sys.executable, "-m", f"{__package__}.build", "--target", target, str(unfinished.resolve())]
            child = subprocess.Popen(command, env=environment, cwd=root)
            children.append((child, unfinished, paths[target]))
    failed = [child.args for child, _, _ in children if child.wait() != 0]
    if failed:
        raise RuntimeError(f"compiling the kernels failed: {failed}")
    for _, unfinished, path in children:
        unfinished.replace(path)
    return paths


# ------------------------------------------------------------------------------------------------------- the shim


_SUPPORTED = """
#if defined(__x86_64__)
#include <cpuid.h>
/* What many compilers have no name for in __builtin_cpu_supports. AVX2 implies that the system saves AVX registers. */
static int has_rest_of_v3(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C) || !(c & bit_MOVBE)) return 0;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & bit_LZCNT);
}
#endif
"""


def _variant(sets):
    """C that picks the best of these instruction sets once; threads that come first together find the same."""
    lines = [_SUPPORTED, "static int variant(void) {", "  static int kept = -1;"]
    lines += ["  int chosen = __atomic_load_n(&kept, __ATOMIC_RELAXED);", "  if (chosen >= 0) return chosen;"]
    if any(needs for _, _, needs in sets.values()):
        lines.append("  __builtin_cpu_init();")
    lines.append("  chosen = 0;")
    for i, (_, _, needs) in reversed(list(enumerate(sets.values(), start=1))):
        tests = [f'__builtin_cpu_supports("{need}")' for need in needs]
        lines.append(f"  if ({' && '.join([*tests, 'has_rest_of_v3()']) if tests else '1'}) chosen = {i};")
    return [*lines, "  __atomic_store_n(&kept, chosen, __ATOMIC_RELAXED);", "  return chosen;", "}", ""]


def shim_source(sets=None):
    """C that gives every function of the header a body: the variant for this processor, picked once."""
    sets = targets() if sets is None else sets
    lines = [
        '#include "kullback.h"',
        "#include <stddef.h>",
        "",
        "/* Numba's inner symbols: a slot for the result, a slot for an exception (never used), the arguments. */",
    ]
    for name, parameters in contract.functions().items():
        arguments = ", ".join(["int64_t *", "void **", *parameters])
        lines += [f"extern int {name}_{target}({arguments});" for target in sets]
    lines += ["", "/* Referenced by dead code of the kernels, never called: they allocate nothing. */"]
    lines.append('__attribute__((visibility("hidden"))) void NRT_MemInfo_call_dtor(void *info) { (void)info; }')
    lines += _variant(sets)
    lines += ["int kullback_supported(void) { return variant() != 0; }", ""]
    for name, parameters in contract.functions().items():
        count = len(parameters)
        arguments = ", ".join(f"{kind} a{i}" for i, kind in enumerate(parameters))
        lines += [
            f"int64_t {name}({arguments}) {{",
            "  int64_t status = KULLBACK_UNSUPPORTED;",
            "  void *exception = NULL;",
        ]
        lines.append("  switch (variant()) {")
        for i, target in enumerate(sets, start=1):
            names = ", ".join(f"a{i}" for i in range(count))
            lines.append(f"    case {i}: {name}_{target}(&status, &exception, {names}); break;")
        lines += ["    default: break;", "  }", "  return status;", "}", ""]
    return "\n".join(lines)


def write_extension_source(path):
    """The C source of kullback._compiled: cffi's wrapper around the shim."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(contract.declarations())
    ffi.set_source("kullback._compiled", shim_source(), include_dirs=[str(contract.HEADER.parent)])
    ffi.emit_c_code(str(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compile the kernels for one instruction set.")
    parser.add_argument("--target", required=True, choices=sorted(targets()))
    parser.add_argument("path", help="object file to write")
    options = parser.parse_args()
    emit_object(options.target, options.path)
