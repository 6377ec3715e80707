# `make help` lists what there is. Everything is installed into .venv; nothing outside is touched.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := jobs service worker migrations tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all chaos bench bench-trl bench-graders bench-latency lint format openapi clean

help: ## Show the available commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Honed needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

# What runs the service and the demo.
.venv/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[worker,demo]"
	@touch $@

# The tests' needs beside that.
.venv/.installed: pyproject.toml constraints.txt .venv/.installed-demo
	$(PIP) install --quiet -c constraints.txt -e ".[worker,demo,dev]"
	@touch $@

install: .venv/.installed ## Install everything, for running, testing and benchmarks, into .venv

demo: .venv/.installed-demo ## Train the starter model through the whole service, and show what it learned
	@$(BIN)/honed demo

test: .venv/.installed ## Run the fast tests
	$(BIN)/python -m pytest -m "not slow"

test-all: test ## Run the fast tests, then the slow suites
	$(BIN)/python -m pytest -m slow

FAULTS ?= 20
SEED ?= 1
TOPOLOGY ?= embedded
chaos: .venv/.installed ## Break things under real jobs: FAULTS=20 SEED=1 TOPOLOGY=embedded|scaled, ARGS=--help
	@$(BIN)/python tests/chaos --faults $(FAULTS) --seed $(SEED) --topology $(TOPOLOGY) $(ARGS)

bench: .venv/.installed ## Run every benchmark, keep its row in benchmarks/results, make README's table
	@$(BIN)/python -m benchmarks

WORKLOAD ?= mixed
bench-trl: .venv/.installed ## Measure a step against TRL's: WORKLOAD=mixed|short|long-prompt|long, ARGS=--help
	@$(BIN)/python benchmarks/vs_trl.py --workload $(WORKLOAD) $(ARGS)

bench-graders: .venv/.installed ## Measure python graders in the sandbox: cold start, calls a second
	@$(BIN)/python -m benchmarks graders

bench-latency: .venv/.installed ## Measure POST to first token, and what the service costs a step
	@$(BIN)/python -m benchmarks latency

lint: .venv/.installed ## Check style, types, import rules and that migrations match the tables
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@folder=$$(mktemp -d) && HONED_DATA_DIR=$$folder $(BIN)/alembic upgrade head \
		&& HONED_DATA_DIR=$$folder $(BIN)/alembic check; status=$$?; rm -rf $$folder; exit $$status

format: .venv/.installed ## Format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

openapi: .venv/.installed ## Write docs/openapi.json from the routes, docs/graders.schema.json from the graders
	$(BIN)/python -m service.openapi docs/openapi.json
	$(BIN)/python -m jobs.graders.schema > docs/graders.schema.json

clean: ## Remove the environment and the demo's folder
	rm -rf .venv .honed
