"""Random rows of every kind against long double: some thousands in the suite, a million by `make nightly`."""

import os

import random_rows

ROWS = int(os.environ.get("KULLBACK_RANDOM_ROWS", "4000"))


def test_random_rows():
    worst = random_rows.measure(ROWS)
    assert not worst.beyond, worst.table()
    assert {storage for storage, _, _ in worst.found} == set(random_rows.STORAGES)
