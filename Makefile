# Everything that a user or developer runs; each target installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
ARGS ?=
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: install install-dev train test test-all lint bench peers peers-data aot clean

install: .venv/installed

install-dev: .venv/installed-dev

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed, as in: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[report,tensorboard]'
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[test,bench,serve,report,tensorboard]'
	touch $@

train: install
	$(BIN)/mspipe-triton train $(or $(DATA),synthetic) --model tgn $(ARGS)

test: install-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' $(ARGS)

test-all: install-dev
	$(BIN)/python -m pytest

# mypy checks the package as it installs, since kernels/ and tuning/ have other names in the checkout.
lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build .mypy_cache/target
	$(PIP) --no-deps --no-build-isolation --target .mypy_cache/target .
	rm -rf build
	cd .mypy_cache/target && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p mspipe_triton

bench: install-dev
	$(BIN)/python -m pytest bench --benchmark-only $(ARGS)

# Every kernel in every configuration, for sm_80 and sm_90, without a GPU: docs/measured/kernels.md.
aot: install-dev
	$(BIN)/python -m bench.aot

# Our TGN and PyG's on DATA, or on the stream that `make peers-data` downloads: docs/measured/peers.md.
peers: install-dev
	$(BIN)/python -m bench.studies.peers --data $(or $(DATA),data/wiki.csv) $(ARGS)

peers-data: install-dev
	$(BIN)/python -m bench.studies.peer_data

clean:
	rm -rf .venv build dist *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
