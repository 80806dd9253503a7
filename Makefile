# `make` lists the targets. Each first calls deploy/setup.sh, which does nothing once everything is in place.
.DEFAULT_GOAL := help
.PHONY: help demo check test test-all bench deb lint lock audit clean setup test-tools

BIN := .venv/bin
BENCHED := $(patsubst %,runs/bench/export/%.tflite,fp32 fp16 dynamic int8)
# Those of a file share what is dear to make, and stay together. Files come in the order of their names, dear ones
# first, so that no processor waits at the end. There are four workers at most: each takes 2 GB.
PYTEST := $(BIN)/pytest --maxprocesses 4 --dist loadfile --no-loadscope-reorder --numprocesses
# Federations wait: for silence to become long enough, for each other. One worker more computes meanwhile.
ONE_MORE := $$(($$(nproc) + 1))
export PATH := $(PATH):/usr/sbin# mosquitto's place on Debian, which a user's PATH leaves out

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: setup ## Run a whole federation on this machine, on real data; its results go to runs/demo
	$(BIN)/fedprune demo --preset frugal --rounds 40 --out runs/demo

check: lint ## Check style, types and import rules, and run the quick tests: of units, and simulated federations
	$(PYTEST) logical tests/unit tests/simulation

test: lint test-tools ## The same, with real federations, also on emulated devices and through power cuts
	$(PYTEST) $(ONE_MORE) -m "not slow"

test-all: lint test-tools ## The same, with the tests that take long
	$(PYTEST) $(ONE_MORE)

bench: setup ## Measure all that docs/MEASURED.md claims of speed, memory and accuracy (four hours or more; 7 GB of memory, 8 of disk)
	@failed=0; \
	$(BIN)/fedprune demo --out runs/bench || failed=1; \
	$(BIN)/python -m benchmarks.agreement $(BENCHED) || failed=1; \
	$(BIN)/python -m benchmarks.against_dense || failed=1; \
	$(BIN)/python -m benchmarks.pruning --json benchmarks/results/pruning.json || failed=1; \
	$(BIN)/python -m benchmarks.agent_memory || failed=1; \
	$(BIN)/python -m benchmarks.agent_start || failed=1; \
	$(BIN)/python -m benchmarks.device_memory || failed=1; \
	$(BIN)/python -m benchmarks.large_data || failed=1; \
	$(BIN)/python -m benchmarks.training_throughput || failed=1; \
	$(BIN)/python -m benchmarks.zoo --json benchmarks/results/zoo.json --markdown docs/ZOO.md || failed=1; \
	$(BIN)/python -m benchmarks.codec || failed=1; \
	$(BIN)/python -m benchmarks.bytes_to_accuracy --json benchmarks/results/bytes_to_accuracy.json || failed=1; \
	$(BIN)/python -m benchmarks.control_bytes || failed=1; \
	$(BIN)/python -m benchmarks.merging || failed=1; \
	$(BIN)/python -m benchmarks.machines || failed=1; \
	$(BIN)/python -m benchmarks.load || failed=1; \
	$(BIN)/python -m benchmarks.load --agents 1000 --loads int8 --restart-broker || failed=1; \
	$(BIN)/python -m benchmarks.card_wear || failed=1; \
	$(BIN)/python -m benchmarks.sub_gateways || failed=1; \
	$(BIN)/python -m benchmarks.forged_descriptions || failed=1; \
	$(BIN)/python -m benchmarks.intruders || failed=1; \
	$(BIN)/python -m benchmarks.enrolment_fuzz || failed=1; \
	$(BIN)/python -m benchmarks.transfers || failed=1; \
	$(BIN)/python -m benchmarks.brokers || failed=1; \
	$(BIN)/python -m benchmarks.outliers || failed=1; \
	$(BIN)/python -m benchmarks.unequal_work || failed=1; \
	$(BIN)/python -m benchmarks.raw_columns || failed=1; \
	$(BIN)/python -m benchmarks.federations --json benchmarks/results/federations.json || failed=1; \
	exit $$failed

deb: setup ## Make the Debian packages of agent and gateway, in dist/ (for Debian's own tools, see deploy/deb.sh)
	deploy/deb.sh

lint: setup ## Check style, types and import rules only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup ## Pin in requirements/*.txt what pyproject.toml asks for
	deploy/lock.sh

audit: setup ## Look up the pinned packages among known vulnerabilities, at PyPI
	deploy/audit.sh

clean: ## Remove .venv and what the tools cache; runs/ stays
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@deploy/setup.sh

test-tools: setup
	@deploy/setup.sh test-tools
