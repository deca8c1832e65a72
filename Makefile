# Two commands to know: `make run` shows kedit at work, offline, on a CPU; `make test` checks it.

PY ?= python3
VENV ?= .venv
NEWEST ?= .venv-newest
LOWEST ?= .venv-lowest
# pip chooses the build of torch (CPU or CUDA), which no lock file can name; what is installed after it keeps that build.
TORCH ?= torch==2.13.0
NEWEST_TORCH ?= torch
CONCEPT ?= star
ARGS ?=
# Processes that share the tests; each takes a core and about a gigabyte. 0 runs them in one.
WORKERS ?= 2
BIN := $(VENV)/bin
LOCK := requirements.lock
# Nothing here needs the hub, and a look for it without a network takes 23 seconds.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
# Some machines forbid Python to keep what it compiles; a test process would then compile all the tests for itself.
# A worker has whole files, for their fixtures, in the order of tests/conftest.py: xdist's own leaves slow ones for the end.
PYTEST := $(OFFLINE) PYTHONDONTWRITEBYTECODE=

# $(call install,WHAT): uv where it works, for speed; else pip. Both compile what they install, once for every process.
install = $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python $(1) || $(BIN)/python -m pip install -q $(1)
# $(call note,BIN): write down the releases there as those that the tests pass with; tests/test_tested.py compares.
note = $(1)/python -m pip freeze | $(1)/python tests/note_tested.py

.PHONY: help setup lock run test test-newest test-lowest lint format bench train clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

$(VENV)/.torch:
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q '$(TORCH)'
	$(BIN)/python -m pip install -q uv || true
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(LOCK) pyproject.toml
	$(call install,--no-deps -r $(LOCK))
	$(call install,--no-deps --no-build-isolation -e .)
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(call install,-c $(LOCK) -e '.[bench]')
	@touch $@

setup: $(VENV)/.dev  ## make .venv with what requirements.lock names, and kedit

# torch itself stays outside: the index has only its CUDA build, which brings gigabytes. What its CPU build needs is in.
lock: $(VENV)/.torch  ## write requirements.lock anew: the newest versions that pyproject.toml admits
	echo torch > $(VENV)/torch.txt
	$(BIN)/python -c 'from importlib.metadata import requires; print(*requires("torch"), sep="\n")' \
	| $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --fork-strategy fewest \
	  --excludes $(VENV)/torch.txt --no-annotate --custom-compile-command 'make lock' \
	  --extra dev pyproject.toml - -o $(LOCK)
	$(MAKE) setup
	$(call note,$(BIN))

run: setup  ## edit one concept of the shipped model (CONCEPT=star, ARGS='edit=patch ...')
	$(OFFLINE) $(BIN)/kedit run concept=$(CONCEPT) $(ARGS)

test: setup  ## run the tests (ARGS='-m slow' for the long ones)
	$(PYTEST) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-newest:  ## run the tests with the newest libraries that pyproject.toml admits
	$(PY) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q uv '$(NEWEST_TORCH)'
	$(NEWEST)/bin/uv pip install -q --compile-bytecode --python $(NEWEST)/bin/python -e '.[dev]'
	$(PYTEST) $(NEWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)
	$(call note,$(NEWEST)/bin)

test-lowest:  ## run the tests with the oldest libraries that pyproject.toml admits
	$(PY) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q uv
	$(LOWEST)/bin/uv pip install -q --compile-bytecode --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[dev]'
	$(PYTEST) $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## measure hooks and locating beside bare PyTorch, nnsight and pyvene
	$(OFFLINE) $(BIN)/python -m experiments.costs.run $(ARGS)

train: setup  ## train the shipped model again
	$(OFFLINE) $(BIN)/python -m experiments.training.scenes.run $(ARGS)

clean:  ## remove what the tools leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
