# On a machine with Python 3.11 or newer, git and make, `make run` and `make test` need nothing else done first.

# The system's own Python first, if it can make environments: where the interpreter is a shared library, as in many
# that pyenv builds, the broker runs at 0.76 to 0.85 of its rate.
SYSTEM_PYTHON := /usr/bin/python3.11
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c "import ensurepip, venv" 2>/dev/null && echo $(SYSTEM_PYTHON) || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt --build-constraint constraints.txt

# A process per processor; the tests of a file stay together, for some files share a broker.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

# What an installed environment depends on. A stamp that is newer than these is up to date.
INPUTS := pyproject.toml constraints.txt Makefile

.PHONY: help run test check lint format unit integration crash power-cut interop fuzz differential sync bench bench-compare bench-curves soak build upgrade clean
.DEFAULT_GOAL := check

help:  ## This list.
	@sed -n 's/^\([a-z -]*\):[^#]*  ## /\1: /p' Makefile

run: $(VENV)/runtime.stamp  ## Run a broker on ./data (AMQP on 5672, HTTP on 15672); Ctrl-C stops it.
	$(BIN)/leveret serve --data-dir data

test: lint  ## Everything that must hold before a change lands.
	$(BIN)/pytest $(PARALLEL)

check: lint  ## The quick gate (under two minutes): style, types, layers, unit tests.
	$(BIN)/pytest $(PARALLEL) tests/unit tests/meta -m "not slow"

lint: $(VENV)/dev.stamp  ## Style, types and layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp  ## Mend what the tools can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit integration crash fuzz: $(VENV)/dev.stamp  ## One tier of tests.
	$(BIN)/pytest tests/$@

sync: $(VENV)/dev.stamp  ## Write src/leveret/sync anew from client/.
	$(BIN)/python -m leveret.sync_generator.generate

power-cut: $(VENV)/dev.stamp  ## 10,000 power cuts of a broker under load (about 15 minutes; needs strace).
	$(BIN)/python tests/crash/run_power_cut.py --power-cuts 10000

interop: $(VENV)/dev.stamp  ## Other people's clients, and then their own test suites, whole (about 20 minutes).
	$(BIN)/pytest tests/interop
	$(BIN)/python tests/foreign/run.py

differential: $(VENV)/dev.stamp  ## 2,000 scripts on RabbitMQ (which must be installed) and on Leveret.
	LEVERET_DIFFERENTIAL_SCRIPTS=$${LEVERET_DIFFERENTIAL_SCRIPTS:-2000} \
	LEVERET_DIFFERENTIAL_SEED=$${LEVERET_DIFFERENTIAL_SEED:-random} $(BIN)/pytest tests/differential

soak: $(VENV)/dev.stamp  ## Minutes of mixed load; `make test` leaves these tests out.
	$(BIN)/pytest -m soak

bench: $(VENV)/dev.stamp  ## How fast the broker is here, every load once; see benchmarks/README.md.
	$(BIN)/leveret bench --all --wire amqp --wire native --runs 1

bench-compare: $(VENV)/dev.stamp  ## Beside RabbitMQ (which must be installed), in turn: what is wanted, what is reached.
	$(BIN)/python -m benchmarks.compare

bench-curves: $(VENV)/dev.stamp  ## How the cost grows with queues, connections, sizes and backlogs: docs/curves.
	$(BIN)/python -m benchmarks.curves

build: $(VENV)/dev.stamp  ## dist/: the sdist, and the wheel made from it.
	PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m build

upgrade:  ## Write constraints.txt anew with the newest versions that pyproject.toml allows.
	rm -rf build/upgrade
	$(PYTHON) -m venv build/upgrade
	build/upgrade/bin/pip install --quiet --upgrade pip
	build/upgrade/bin/pip install --quiet --group dev --editable .
	{ sed -n '/^#/p' constraints.txt; build/upgrade/bin/pip freeze --all --exclude-editable --exclude setuptools; } \
		> build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/upgrade

clean:  ## Remove what the other targets made, but no data.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/pip.stamp: $(INPUTS)
	$(PYTHON) -c 'import sys; sys.exit("Leveret needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --upgrade pip
	touch $@

$(VENV)/runtime.stamp: $(VENV)/pip.stamp
	$(INSTALL) --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	$(INSTALL) --group dev
	touch $@
