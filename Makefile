# Two commands to know: `make run` shows kedit at work, offline, on a CPU; `make test` checks it.

PY ?= python3
VENV ?= .venv
# pip chooses the build of torch (CPU or CUDA); what is installed after it keeps that build.
TORCH ?= torch==2.13.0
CONCEPT ?= star
ARGS ?=
BIN := $(VENV)/bin
# Nothing here needs the hub, and a look for it without a network takes 23 seconds.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

# $(call install,EXTRA): uv where it works, for speed; else pip.
install = $(BIN)/uv pip install -q --python $(BIN)/python -e '.[$(1)]' || $(BIN)/pip install -q -e '.[$(1)]'

.PHONY: help setup run test lint format bench train clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv '$(TORCH)'
	$(call install,dev)
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(call install,bench)
	@touch $@

setup: $(VENV)/.dev  ## make .venv and install kedit into it

run: setup  ## edit one concept of the shipped model (CONCEPT=star, ARGS='edit=patch ...')
	$(OFFLINE) $(BIN)/kedit run concept=$(CONCEPT) $(ARGS)

test: setup  ## run the tests (ARGS='-m slow' for the long ones)
	$(OFFLINE) $(BIN)/python -m pytest $(ARGS)

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## measure hooks and locating beside bare PyTorch, nnsight and pyvene
	$(OFFLINE) $(BIN)/kedit bench $(ARGS)

train: setup  ## train the shipped model again
	$(OFFLINE) $(BIN)/kedit train-scenes $(ARGS)

clean:  ## remove what the tools leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
