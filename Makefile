# Throughway's commands. From a fresh clone, with only Python 3.11 or newer and make:  make demo, make test
# PYTHON=python3.12 chooses the interpreter, ARGS=... is passed on to what a command runs.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

ARGS ?=
export PYTHON

# An interpreter that is named gets environments of its own, so that no two overwrite each other's.
SUFFIX :=
ifneq ($(PYTHON),)
SUFFIX := $(shell $(PYTHON) -c 'import sys; print("-%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
USER_VENV := .venv$(SUFFIX)
TEST_VENV := .venv-test$(SUFFIX)
BIN := $(TEST_VENV)/bin

# An environment is made anew where its interpreter is gone, and updated where the packaging changed.
usable = $(if $(shell test -x $(1)/bin/python && echo yes),,FORCE)

$(USER_VENV)/installed: pyproject.toml .ci/environment $(call usable,$(USER_VENV))
	@.ci/environment $(USER_VENV) cli
	@touch $@

$(TEST_VENV)/installed-%: pyproject.toml .ci/environment $(call usable,$(TEST_VENV))
	@.ci/environment $(TEST_VENV) $*
	@touch $@

.PRECIOUS: $(TEST_VENV)/installed-%

.PHONY: FORCE
FORCE:

.PHONY: help
help: ## What there is to do
	@echo "Throughway. make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=python3.12 chooses the interpreter, ARGS='...' is passed on, as in: make test ARGS='-k cancel -x'"

.PHONY: demo
demo: $(USER_VENV)/installed ## Make an environment, install, and run the demonstration
	@$(USER_VENV)/bin/throughway demo $(ARGS)

.PHONY: test
test: $(TEST_VENV)/installed-test ## All tests, from nothing
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: test-environment
test-environment: $(TEST_VENV)/installed-test ## What make test installs first, and nothing more

.PHONY: lint
lint: $(TEST_VENV)/installed-lint ## Format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint test ## Everything that has to pass before a change is proposed

.PHONY: format
format: $(TEST_VENV)/installed-lint ## Format the sources and fix what the linter can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

SECONDS ?=
SEED ?=

.PHONY: chaos
chaos: $(TEST_VENV)/installed-test ## Random faults on real processes, SECONDS=... for each plan, SEED=... to repeat
	@THROUGHWAY_CHAOS_SECONDS="$(or $(SECONDS),60)" THROUGHWAY_CHAOS_SEED="$(SEED)" \
		$(BIN)/python -m pytest -s tests/chaos tests/systems/test_partitions.py $(ARGS)

.PHONY: soak
soak: $(TEST_VENV)/installed-test ## Steady load for SECONDS=...: memory, descriptors and threads must stay flat
	@THROUGHWAY_SOAK_SECONDS="$(or $(SECONDS),600)" $(BIN)/python -m pytest -s tests/hostile/test_soak.py $(ARGS)

.PHONY: fuzz
fuzz: $(TEST_VENV)/installed-fuzz ## Coverage-guided fuzzing, SECONDS=... for each target
	@THROUGHWAY_FUZZ_SECONDS="$(or $(SECONDS),60)" $(BIN)/python -m pytest -s tests/fuzzing $(ARGS)

PARSL_VENV := .venv-parsl$(SUFFIX)

$(PARSL_VENV)/installed: pyproject.toml .ci/environment $(call usable,$(PARSL_VENV))
	@.ci/environment $(PARSL_VENV) test-parsl
	@touch $@

.PHONY: test-parsl
test-parsl: $(PARSL_VENV)/installed ## Parsl's own tests on Throughway's executor, from nothing
	@$(PARSL_VENV)/bin/python tests/integrations/parsl/suite/run.py $(ARGS)

# Each bound has an environment of its own: the oldest supported versions, and the newest of today.
INTEGRATIONS = -m pytest tests/integrations tests/executors/test_progress.py $(ARGS)

$(TEST_VENV)-oldest/installed: pyproject.toml .ci/environment tests/integrations/oldest.txt $(call usable,$(TEST_VENV)-oldest)
	@PIP_CONSTRAINT=tests/integrations/oldest.txt .ci/environment $(TEST_VENV)-oldest test-integrations
	@touch $@

$(TEST_VENV)-newest/installed: pyproject.toml .ci/environment $(call usable,$(TEST_VENV)-newest)
	@PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager .ci/environment $(TEST_VENV)-newest test-integrations
	@touch $@

.PHONY: test-integrations
test-integrations: $(TEST_VENV)-oldest/installed $(TEST_VENV)-newest/installed ## joblib, Dask, notebooks and others: oldest and newest versions
	@THROUGHWAY_REQUIRE_INTEGRATIONS=1 $(TEST_VENV)-oldest/bin/python $(INTEGRATIONS)
	@THROUGHWAY_REQUIRE_INTEGRATIONS=1 $(TEST_VENV)-newest/bin/python $(INTEGRATIONS)

SEEDS ?= 0:5000
PROCESSES ?= 1
SCALE ?= 8192:1000000

.PHONY: simulate
simulate: $(TEST_VENV)/installed-test ## A whole run on a fake clock, with seeded faults: SEEDS=A:B, PROCESSES=...
	@$(BIN)/python -m throughway.testing.simulation --seeds "$(SEEDS)" --processes "$(PROCESSES)" $(ARGS)

.PHONY: simulate-scale
simulate-scale: $(TEST_VENV)/installed-test ## Recovery with thousands of managers and a million tasks: SCALE=MANAGERS:TASKS
	@$(BIN)/python -m throughway.testing.simulation --scale "$(SCALE)" $(ARGS)

.PHONY: coverage
coverage: $(TEST_VENV)/installed-coverage ## All tests, and which lines and branches they miss
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: bench
bench: $(TEST_VENV)/installed-bench ## Measure side by side with the peers; prints a table and writes JSON
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: docs-diagrams
docs-diagrams: $(TEST_VENV)/installed-test ## Write the state diagrams of docs/ anew from the transition tables
	@$(BIN)/python docs/make_diagrams.py $(ARGS)

.PHONY: clean
clean: ## Remove the environments and everything that was made
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .ci/logs
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
