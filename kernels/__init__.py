"""The kernels: Numba only, one source for JIT and ahead-of-time builds. They know nothing of the rest."""
