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
