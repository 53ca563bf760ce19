# `make demo` and `make test` are all that a newcomer needs; each sets up what it needs, in this folder alone.
PYTHON ?= python3
BIN := .venv/bin
# Tests start the program hundreds of times, and would compile it at each start.
unexport PYTHONDONTWRITEBYTECODE

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
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/pytest -n 4 --dist worksteal -m 'not slow'

.PHONY: test
test: .venv/development .tools/fetched ## lint, types, all tests, and the coverage gate
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --dist loadgroup
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

.PHONY: golden
golden: .venv/development ## write the golden files anew
	GOLDEN=write $(BIN)/pytest -q tests/test_golden.py

.PHONY: monitoring
monitoring: .venv/development ## render alerts, recording rules and dashboard (CONFIG=my.libsonnet OUTPUT=folder)
	$(BIN)/python -m monitoring.render $(if $(CONFIG),--config $(CONFIG)) $(if $(OUTPUT),--output $(OUTPUT))

.PHONY: pictures
pictures: .venv/development .tools/fetched ## draw the pictures of the README
	$(BIN)/pip install --quiet --disable-pip-version-check 'matplotlib>=3.9'
	$(BIN)/python -m monitoring.pictures

.PHONY: mutants
mutants: .venv/development .tools/fetched ## change one token at a time: do the quick tests notice? (NUMBER=200 SEED=1)
	$(BIN)/pip install --quiet --disable-pip-version-check 'mutmut>=3.8'
	nice $(BIN)/python -m tests.mutants $(if $(NUMBER),--number $(NUMBER)) $(if $(SEED),--seed $(SEED))

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

# What is built to be taken elsewhere. Everything in it is dated by the last commit, so that the same source gives the same
# bytes. INTERPRETER is what starts the installed program; -I keeps out what a user has set or installed for Python.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PREFIX ?= /usr/local
INTERPRETER ?= /usr/bin/python3 -I
zsh_completions ?= $(PREFIX)/share/zsh/site-functions
installed = $(DESTDIR)$(PREFIX)
units = $(installed)/lib/systemd/system

.PHONY: zipapp
zipapp: dist/cc-textfile.pyz ## build the whole program as one file, dist/cc-textfile.pyz

dist/cc-textfile.pyz: .venv/program packaging/build_zipapp.py packaging/wheels.txt $(shell find cc_textfile -name '*.py')
	$(BIN)/python packaging/build_zipapp.py $@

build/cc-textfile.1: dist/cc-textfile.pyz packaging/man_page.py
	mkdir -p build
	PYTHONPATH=dist/cc-textfile.pyz $(PYTHON) -P packaging/man_page.py > $@

build/completion.%: dist/cc-textfile.pyz
	mkdir -p build
	PYTHONPATH=dist/cc-textfile.pyz _CC_TEXTFILE_COMPLETE=$*_source \
		$(PYTHON) -P -c 'from cc_textfile.cli import main; main(prog_name="cc-textfile")' > $@

.PHONY: install
install: dist/cc-textfile.pyz build/cc-textfile.1 build/completion.bash build/completion.zsh build/completion.fish ## install under PREFIX, /usr/local
	install -d $(installed)/bin $(units) $(installed)/share/doc/cc-textfile
	$(PYTHON) -m zipapp dist/cc-textfile.pyz --python '$(INTERPRETER)' --output $(installed)/bin/cc-textfile
	chmod 0755 $(installed)/bin/cc-textfile
	install -D -m 0755 -t $(installed)/sbin systemd/cc-textfile-check
	install -D -m 0755 -t $(installed)/lib/cc-textfile systemd/link-textfile systemd/unless-daemon
	install -D -m 0644 -t $(installed)/lib/cc-textfile/placeholders systemd/placeholders/*
	install -m 0644 systemd/*.service systemd/*.timer systemd/*.target $(units)/
	sed -i -E 's!/usr/(bin/cc-textfile|lib/cc-textfile/|share/doc/)!$(PREFIX)/\1!g' $(units)/cc-textfile*.service
	set -e; for unit in cc-textfile cc-textfile@ cc-textfiled cc-textfiled@; do \
		install -D -m 0644 systemd/common.conf $(units)/$$unit.service.d/10-common.conf; done
	install -D -m 0644 systemd/cc-textfile.sysusers $(installed)/lib/sysusers.d/cc-textfile.conf
	install -D -m 0644 systemd/cc-textfile.tmpfiles $(installed)/lib/tmpfiles.d/cc-textfile.conf
	test -e $(DESTDIR)/etc/default/cc-textfile || \
		install -D -m 0644 packaging/cc-textfile.default $(DESTDIR)/etc/default/cc-textfile
	install -D -m 0644 build/cc-textfile.1 $(installed)/share/man/man1/cc-textfile.1
	install -D -m 0644 -t $(installed)/share/man/man8 packaging/cc-textfile.service.8
	install -D -m 0644 build/completion.bash $(installed)/share/bash-completion/completions/cc-textfile
	install -D -m 0644 build/completion.zsh $(DESTDIR)$(zsh_completions)/_cc-textfile
	install -D -m 0644 build/completion.fish $(installed)/share/fish/vendor_completions.d/cc-textfile.fish
	install -m 0644 -t $(installed)/share/doc/cc-textfile README.md CHANGELOG.md LICENSE docs/*.md
	install -D -m 0644 -t $(installed)/share/doc/cc-textfile/examples systemd/examples/*
	find monitoring -type f ! -name '*.py*' ! -name '*.png' ! -path '*/tests/*' -exec \
		install -D -m 0644 {} $(installed)/share/doc/cc-textfile/{} \;

.PHONY: deb
deb: ## build the Debian package, dist/cc-textfile_VERSION_all.deb
	rm -rf build/deb dist/cc-textfile_*_all.deb
	$(MAKE) --no-print-directory install DESTDIR=build/deb PREFIX=/usr zsh_completions=/usr/share/zsh/vendor-completions
	packaging/build_deb dist build/deb

# Of the two formats of podman and buildah only Docker's can hold a health check.
ENGINE ?= $(firstword $(foreach engine,podman docker buildah,$(if $(shell command -v $(engine)),$(engine))))
IMAGE ?= cc-textfile

.PHONY: image
image: ## build the container image, cc-textfile, with podman, docker or buildah
	$(if $(ENGINE),,$(error podman, docker or buildah is needed, and none is installed))
	BUILDAH_FORMAT=docker $(ENGINE) build $(IMAGE_FLAGS) --build-arg SOURCE_DATE_EPOCH --tag $(IMAGE) --file Containerfile .

.PHONY: dist
dist: .venv/development ## build what PyPI takes: sdist and wheel
	rm -f dist/cc_textfile-*
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/cc_textfile-*

.PHONY: bench
bench: .venv/development ## measure speed and memory beside their floors (takes eight minutes; wants an idle machine)
	$(BIN)/python -m benchmarks
