# make demo: set up, then turn the shipped text-to-emoji model toward small files.   make test: set up, then everything CI checks.
SHELL := /bin/bash
# The first that runs and is new enough: a version manager's shim is on the path even when nothing stands behind it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
PACKAGES := -e core $(patsubst %/pyproject.toml,-e %,$(wildcard plugins/*/pyproject.toml))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint types format clean
demo: $(VENV)/ready
	$(BIN)/tropism run image/rlcm-compress

# Two processes of one thread each; a file's tests stay together, as they share what is slow to build.
test: $(VENV)/ready-test lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

lint: $(VENV)/ready-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/ready-test
	$(BIN)/mypy core/src/tropism $(wildcard plugins/*/src/*)

format: $(VENV)/ready-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# torch first and by itself: with a GPU the default build, without one the CPU build, which is gigabytes smaller.
$(VENV)/torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "tropism needs Python 3.11 or newer; none was found. Say which: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tropism needs Python 3.11 or newer; found $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch $(TORCH)"
	@if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then $(PIP) torch==$(TORCH); \
	elif $(PIP) torch==$(TORCH)+cpu 2>/dev/null; then :; \
	elif $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu torch==$(TORCH); then :; \
	else $(PIP) torch==$(TORCH); fi
	@touch $@

$(VENV)/ready: $(VENV)/torch $(PROJECTS)
	@echo "installing tropism and its dependencies"
	@$(PIP) --constraint constraints.txt $(PACKAGES)
	@touch $@

$(VENV)/ready-test: $(VENV)/ready
	@$(PIP) --constraint constraints.txt ruff mypy pytest pytest-cov pytest-xdist tensorboard matplotlib pyarrow types-PyYAML
	@touch $@
