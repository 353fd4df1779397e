# make demo and make test are all a newcomer needs; each makes what it lacks.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NICE ?= nice -n 5
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check docs reference bench changelog clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.demo ## replay the New York flights of 2013 through the whole loop
	$(BIN)/tidemill demo

test: $(VENV)/.dev ## the tests, minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not browser and not live"

test-all: $(VENV)/.dev ## all tests: also slow, browser and live ones
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: $(VENV)/.dev ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src tests
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## the site, every link checked; in site/
	$(BIN)/mkdocs build --strict

reference: $(VENV)/.dev ## write docs/reference from the code
	$(BIN)/python docs/hooks/reference.py && $(BIN)/python docs/hooks/readme.py

bench: $(VENV)/.dev ## every benchmark with its peers; docs/benchmarks.md is made from the results
	@mkdir -p benchmarks/results
	@for area in benchmarks/[a-z]*.py; do \
	  name=$$(basename $$area .py); case $$name in kit|servers|openloop) continue ;; esac; echo "== $$name"; \
	  $(BIN)/python $$area --json | tee benchmarks/results/$$name.jsonl || exit 1; \
	done
	$(BIN)/python docs/hooks/benchmarks.py benchmarks/results/*.jsonl

changelog: $(VENV)/.dev ## what CHANGELOG.md would gain from changes/
	$(BIN)/towncrier build --draft --version next

clean: ## remove what was made, the environment too
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage* examples/flights/.tidemill examples/flights/data
	find src tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidemill needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# installed once, and again when the dependencies change
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@[ -e $(VENV)/.dev ] && [ $(VENV)/.dev -nt pyproject.toml ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
