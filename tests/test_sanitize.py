"""`make sanitize` sees a read outside a row, says which call made it, and goes on; the installed library makes none."""

import subprocess

import sanitize

from kullback._engine import native

READS_TOO_FAR = """
#include <kullback.h>
int64_t kullback_phi(const double *x, double *out, int64_t start, int64_t stop, int64_t *bad_row) {
  (void)start; (void)bad_row;
  out[0] = ((const volatile double *)x)[stop];
  return KULLBACK_OK;
}
"""


def test_a_read_outside_is_seen_and_its_call_named(tmp_path):
    source, library = tmp_path / "faulty.c", tmp_path / "libfaulty.so"
    source.write_text(READS_TOO_FAR)
    include = f"-I{native.get_include()}"
    subprocess.run(["cc", "-shared", "-fPIC", include, str(source), "-o", str(library)], check=True)
    _, complaints = sanitize.supervised(library, "kullback_phi", 1)
    assert len(complaints) >= sanitize.MOST_FAULTS
    assert complaints[0].startswith("SIGSEGV, nothing behind: kullback_phi, call 0: ")


def test_the_library_reads_no_more_than_its_rows():
    calls, complaints = sanitize.supervised(native.get_library(), "kullback_log_softmax", 1)
    assert calls > 100
    assert complaints == []
