# `make demo` and `make test` are all that a newcomer needs; each sets up what it needs, in this folder alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help
help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: .venv/program ## see it work, without an account
	$(BIN)/cc-textfile demo

.PHONY: check
check: .venv/development .tools/fetched ## lint, types and the quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m 'not slow'

.PHONY: test
test: .venv/development .tools/fetched ## lint, types, all tests, and the coverage gate
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

.PHONY: golden
golden: .venv/development ## write the golden files anew
	GOLDEN=write $(BIN)/pytest -q tests/test_golden.py

.PHONY: dashboard
dashboard: .venv/development ## write monitoring/dashboard.json anew from its script
	$(BIN)/python monitoring/dashboard.py

.PHONY: pictures
pictures: .venv/development .tools/fetched ## draw the README's pictures anew (takes ten minutes; needs chromium and prometheus installed)
	$(BIN)/python monitoring/pictures.py 8

.PHONY: clean
clean: ## remove all that was made
	rm -rf .venv .tools .cache build dist demo-textfile .coverage*

.venv/program: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/development: .venv/program
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.tools/fetched: tests/fetch-tools
	tests/fetch-tools .tools
	touch $@
