# The commands we use. `make demo` and `make test` do all their own set-up and can be run again and again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(wildcard setup.py) $(wildcard kernels/*.py kernels/*/*.py kernels/*.h)
PYTEST := $(BIN)/python -m pytest
# whole suites: a file goes to whichever core is free, and stays there
ON_ALL_CORES := -n auto --dist loadfile
# what the integration tests compare with; torch is pinned because its wheels without CUDA are, transformers with it
PEERS := torch==2.13.0 transformers==5.24.0 jax pandas polars xarray scikit-learn statsmodels axe-core-python 'pot>=0.9.6,<0.10' 'dask[array]' distributed 'pynndescent>=0.7,<0.8'

# the tools that drift presets are named after, verified together; they need what is older than the PEERS
DRIFT_TOOLS := evidently==0.7.23 nannyml==0.13.1 feature-engine==1.9.4 frouros==0.9.0 deepchecks==0.19.1 \
	'pandas<3' 'scikit-learn<1.7' statsmodels polars pyarrow

.DEFAULT_GOAL := help
.PHONY: help demo test test-jit test-integrations test-presets test-oldest test-python audit fuzz test-space nightly bench-check test-wheel lint format types bench bench-job bench-smoke generated accuracy audit-table references-table coverage docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

# One stamp file for each set of extras; touched again when the build inputs change.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed-%: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

$(VENV)/.installed-integrations: $(VENV)/.installed-test Makefile
	$(BIN)/python -m pip install --quiet $(PEERS)
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-integrations
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)-presets/.installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)-presets
	$(VENV)-presets/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-presets/bin/python -m pip install --quiet --editable '.[stats,drift]' hypothesis pytest pytest-benchmark $(DRIFT_TOOLS)
	@touch $@

demo: $(VENV)/.installed-eval ## compare two real logits files from examples/ and print the report
	$(BIN)/kullback compare examples/f16.kld examples/q4_k_m.kld

test: $(VENV)/.installed-test ## run the test suite
	$(PYTEST) $(if $(TESTS),,$(ON_ALL_CORES)) -m "not integration" $(TESTS)

test-jit: $(VENV)/.installed-test ## run it once more on kernels compiled by Numba when used
	KULLBACK_ENGINE=jit $(PYTEST) $(ON_ALL_CORES) -m "not integration"

test-integrations: $(VENV)/.installed-integrations ## run the tests against torch, jax and other libraries
	$(PYTEST) -m integration

test-presets: $(VENV)-presets/.installed ## run the drift presets against the tools they are named after
	KULLBACK_ALL_TOOLS=1 $(VENV)-presets/bin/python -m pytest tests/test_drift_presets.py

# what a user's results rest on; test_scipy_face compares with the newest SciPy and is not among them
CORE := $(addsuffix .py,$(addprefix tests/test_,divergences comparison tokens edge_cases layouts aggregation \
	public_api sources sources_formats sources_convert sources_sparse job checkpoint drift fits closed_form \
	estimators report threads cli))

test-oldest: ## the core tests on the least versions that pyproject.toml allows, then a few on kernels by that Numba
	$(PYTHON) -m venv .venv-oldest
	@mkdir -p build
	$(PYTHON) tests/oldest.py > build/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --constraint build/oldest.txt '.[test]'
	KULLBACK_ENGINE=compiled .venv-oldest/bin/python -m pytest -q -m "not integration and not slow" $(CORE)
	KULLBACK_ENGINE=jit .venv-oldest/bin/python -m pytest -q tests/test_segments.py

test-python: ## the test suite under another interpreter: make test-python PYTHON=python3.13 [TESTS=...]
	$(MAKE) test PYTHON=$(PYTHON) VENV=.venv-$(notdir $(PYTHON)) TESTS="$(TESTS)"

audit: $(VENV)/.installed-test ## known vulnerabilities of what we depend on; a CycloneDX list of it in build/sbom.json
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit cyclonedx-bom
	@mkdir -p build
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.json $(BIN)/python
	$(BIN)/python -m pip freeze --exclude-editable > build/audited.txt
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement build/audited.txt

fuzz: $(VENV)/.installed-test ## damaged files of every format, SECONDS_EACH (40) each, from SEED; failures stay in build/fuzz
	@echo "fuzz: SEED=$(or $(SEED),0)"
	for format in $$($(BIN)/python tests/fuzzing.py --list); do \
		$(BIN)/python tests/fuzzing.py $$format --seconds $(or $(SECONDS_EACH),40) --seed $(or $(SEED),0) || exit 1; done

sanitize: $(VENV)/.installed-test ## the C functions between pages that may not be touched, and under valgrind where it is installed
	$(BIN)/python tests/sanitize.py

test-space: $(VENV)/.installed-test ## functions of rows on inputs nobody thought of, against long double: MINUTES=, SEED=, ONLY="names", SETTLED=1
	$(BIN)/python tests/space.py --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(SETTLED),--settled)

nightly: $(VENV)/.installed-test ## a million random rows, 100,000 against their compact references, 30 minutes of the space of inputs, 10,000 misuses a function, the rates and intervals of the pages, faults in 200 RL runs; ROWS=..., FIRST=batch
	$(BIN)/python tests/random_rows.py --rows $(or $(ROWS),1000000) --first $(or $(FIRST),0)
	$(BIN)/python tests/space.py --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))
	$(BIN)/python tests/misuse.py --calls $(or $(CALLS),10000) --seed $(or $(SEED),0)
	$(BIN)/python tests/compact_rows.py --rows 100000 --seed $(or $(SEED),0)
	$(BIN)/python docs/drift_rates.py --check --runs $(or $(RUNS),200)
	$(BIN)/python docs/counts.py --check
	$(BIN)/python tests/interval_coverage.py --check --repeats $(or $(REPEATS),300)
	$(BIN)/python docs/verdicts.py --check --runs $(or $(RUNS),200)
	$(BIN)/python docs/audit_table.py --runs $(or $(RUNS),200) --first $(or $(FIRST),2000) --jobs 2

test-wheel: $(VENV)/bin/python ## build sdist and wheel, install them in clean environments, test those
	$(BIN)/python tests/wheel_check.py

lint: $(VENV)/.installed-lint ## ruff: style, imports, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-lint ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-lint ## mypy on src, on what users write and on their slips, each of which it must find
	$(BIN)/mypy

bench: $(VENV)/.installed-bench ## time the kernels and their peers; verify every result first
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks --docs

bench-check: $(VENV)/.installed-test ## which case got slower against a commit: [AGAINST=commit] [ONLY=part of a name]
	$(BIN)/python -m benchmarks --check $(if $(AGAINST),--against $(AGAINST)) $(if $(ONLY),--only "$(ONLY)")

bench-job: $(VENV)/.installed-test ## compare files of 20 GB: rate, memory, killed jobs; needs the room on disk
	$(BIN)/python -m benchmarks.job --gib 20 --kills 10

bench-smoke: $(VENV)/.installed-bench ## run every benchmark once on small inputs: it must still work
	$(BIN)/python -m benchmarks --smoke

generated: accuracy ## rewrite every number and picture of README.md and docs/ that a command makes
	$(BIN)/python docs/generate.py

references-table: $(VENV)/.installed-integrations ## what compact references leave open, by their bytes: docs/references.md
	$(BIN)/python docs/references_table.py --model

audit-table: $(VENV)/.installed-test ## put faults into simulated RL runs and count what audits find: docs/audits.md; RUNS=
	$(BIN)/python docs/audit_table.py --write --jobs $(or $(JOBS),2) --runs $(or $(RUNS),200) --first 1000

accuracy: $(VENV)/.installed-test ## measure the worst errors against long double: docs/accuracy.md
	$(BIN)/python docs/accuracy.py

coverage: $(VENV)/.installed-test ## how often intervals and claims hold: docs/intervals.md, docs/verdicts.md (minutes); REPEATS=, RUNS=
	$(BIN)/python tests/interval_coverage.py --repeats $(or $(REPEATS),2000) --write
	$(BIN)/python docs/verdicts.py --runs $(or $(RUNS),300)

docs: $(VENV)/.installed-docs ## build the site in build/site
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/site

clean: ## remove the environment and build products
	rm -rf $(VENV) $(VENV)-presets build dist src/*.egg-info
