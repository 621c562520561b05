# Everything that a user or developer runs; each target installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= synthetic

.PHONY: install train test test-all lint bench peers clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

train: install
	$(BIN)/mspipe-triton train $(DATA) --model tgn

test: install
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-all: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .mypy_cache/target build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target .mypy_cache/target .
	cd .mypy_cache/target && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p mspipe_triton

bench: .venv/installed-bench
	$(BIN)/python -m pytest bench --benchmark-only

peers: .venv/installed-bench
	$(BIN)/python -m bench.peers --data $(DATA)

clean:
	rm -rf .venv build dist *.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
