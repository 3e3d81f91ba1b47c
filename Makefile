# Only Python 3.11 or newer (with venv), make and the package registry are needed.
# PYTHON chooses the interpreter:      make test PYTHON=python3.13   (or PYTHON=python3.13 make test)
# PYTEST_ARGS is handed to pytest:     make test PYTEST_ARGS="-k rollback -x"

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter that is new enough, unless one was chosen.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$p" && break; done)
ifeq ($(strip $(PYTHON)),)
PYTHON := python3
endif
endif
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)

VENV       := .venv
VENV_DEMO  := .venv-demo
VENV_TOOLS := .venv-tools
# A stamp says: set up for this interpreter. It is older than what it was made from when that changes.
READY      := $(VENV)/ready-$(VERSION)
READY_LINT := $(VENV)/ready-lint-$(VERSION)
READY_DEMO := $(VENV_DEMO)/ready-$(VERSION)

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input
WORKERS     ?= 2
PYTEST_ARGS ?=

say = @echo '==>' $(1)

.PHONY: help
help: ## list the targets
	@echo 'make <target>, where target is one of:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.13 chooses the interpreter, DULY_DATABASE_URL=... the database of demo and bench.'

.PHONY: demo
demo: $(READY_DEMO) ## play a small shop with real jobs, a killed worker and a reckoning (40 s)
	@$(if $(DULY_DATABASE_URL),DULY_DATABASE_URL='$(DULY_DATABASE_URL)') $(VENV_DEMO)/bin/python -m examples.shop

.PHONY: test
test: $(READY) ## run the tests on SQLite and PostgreSQL (found, or started by the tests)
	$(call say,'running the tests on Python $(VERSION)')
	@$(VENV)/bin/python -m pytest -n $(WORKERS) --quiet $(PYTEST_ARGS)

.PHONY: faults-once
faults-once: $(READY) ## kill and freeze workers at random for minutes: every effect is there once
	$(call say,'1000 kills and 100 freezes on each database')
	@DULY_TEST_FAULTS=long $(VENV)/bin/python -m pytest -n $(WORKERS) --quiet -rP $(PYTEST_ARGS) tests/faults/test_once.py

.PHONY: gallery
gallery: $(READY) ## crash the wrong and the mended tasks of the tutorial at every point (minutes)
	@DULY_TEST_FAULTS=long $(VENV)/bin/python -m pytest -n $(WORKERS) --quiet $(PYTEST_ARGS) tests/docs/test_gallery.py tests/docs/test_patterns.py

.PHONY: bench
bench: $(READY) ## measure drain, enqueue and latency beside the bare statements
	@$(if $(DULY_DATABASE_URL),DULY_DATABASE_URL='$(DULY_DATABASE_URL)') $(VENV)/bin/python -m benchmarks

.PHONY: lint
lint: $(READY_LINT) ## check style, formatting and security smells (ruff, bandit)
	@$(VENV)/bin/ruff check --output-format concise .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/bandit --quiet -ll -ii --recursive --configfile pyproject.toml src

.PHONY: format
format: $(READY_LINT) ## format the code and mend what ruff can mend
	@$(VENV)/bin/ruff check --fix --quiet . || true
	@$(VENV)/bin/ruff format .

.PHONY: types
types: $(READY) ## check types (mypy strict, pyright)
	@$(VENV)/bin/mypy --python-executable $(VENV)/bin/python
	@$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

.PHONY: contracts
contracts: $(READY_LINT) ## check that imports run one way (import-linter)
	@$(VENV)/bin/lint-imports --no-cache

.PHONY: check
check: test lint types contracts ## all of the above that must pass before a change is merged

.PHONY: lock
lock: $(VENV_TOOLS)/ready-$(VERSION) ## write requirements/*.txt anew from pyproject.toml (UPGRADE=1 takes newer versions)
	$(call say,'locking requirements')
	@$(COMPILE) pyproject.toml --all-extras --group test --output-file requirements/test.txt
	@$(COMPILE) --group lint --constraint requirements/test.txt --output-file requirements/lint.txt
	@$(COMPILE) pyproject.toml --all-extras --group demo --constraint requirements/test.txt --output-file requirements/demo.txt
	@$(COMPILE) --group tools --output-file requirements/tools.txt

# Universal: one file for all interpreters and systems. Hashes and no index lines: any index can serve it.
COMPILE = $(VENV_TOOLS)/bin/uv --quiet --no-config pip compile --universal --python-version 3.11 \
	--generate-hashes --only-binary :all: --no-emit-index-url --no-annotate --no-header $(if $(UPGRADE),--upgrade) \
	$(UNUSED:%=--no-emit-package %)
# Of scikit-image only the photographs are used: what it needs to run (100 MB) is left out of the locks.
UNUSED = imageio lazy-loader networkx numpy scipy tifffile

.PHONY: clean
clean: ## remove the environments, caches and what was built
	rm -rf $(VENV) $(VENV_DEMO) $(VENV_TOOLS) .demo build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ── set-up ────────────────────────────────────────────────────────────────────────────────────

.PHONY: python
python:
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo 'Duly needs Python 3.11 or newer; "$(PYTHON)" is $(or $(VERSION),not there).' >&2; \
		echo 'Choose another one: make <target> PYTHON=python3.13' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'The module venv of "$(PYTHON)" is missing (Debian, Ubuntu: apt install python3-venv).' >&2; exit 1; }

define environment # folder
$(call say,'making $(1) with Python $(VERSION)')
@"$(PYTHON)" -m venv --clear $(1)
endef

define install # folder, requirements
$(call say,'installing what requirements/$(2).txt locks')
@$(1)/bin/python $(PIP_INSTALL) --require-hashes --no-deps --only-binary :all: --requirement requirements/$(2).txt
endef

define install_duly # folder
$(call say,'installing duly itself')
@$(1)/bin/python $(PIP_INSTALL) --no-build-isolation --no-deps --no-index --editable .
endef

$(VENV)/locked-$(VERSION): requirements/test.txt | python
	$(call environment,$(VENV))
	$(call install,$(VENV),test)
	@touch $@

$(READY): pyproject.toml $(VENV)/locked-$(VERSION)
	$(call install_duly,$(VENV))
	@touch $@

$(READY_LINT): requirements/lint.txt $(VENV)/locked-$(VERSION)
	$(call install,$(VENV),lint)
	@touch $@

$(VENV_DEMO)/locked-$(VERSION): requirements/demo.txt | python
	$(call environment,$(VENV_DEMO))
	$(call install,$(VENV_DEMO),demo)
	@touch $@

$(READY_DEMO): pyproject.toml $(VENV_DEMO)/locked-$(VERSION)
	$(call install_duly,$(VENV_DEMO))
	@touch $@

$(VENV_TOOLS)/ready-$(VERSION): requirements/tools.txt | python
	$(call environment,$(VENV_TOOLS))
	$(call install,$(VENV_TOOLS),tools)
	@touch $@
