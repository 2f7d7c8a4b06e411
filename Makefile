# On a fresh machine with Python 3.11 or newer: `make serve` runs the service, `make test` tests it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet install
SOURCES := backend client_sdk tests
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	pyproject.toml client_sdk/pyproject.toml --group build

# Compiled tests and libraries are kept, also where the environment says not to: they save ten seconds of each run.
# Most tests wait for servers and commands: two processes of pytest for each processor.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses $$((2 * $$(getconf _NPROCESSORS_ONLN))) --dist worksteal

.PHONY: setup serve test test-all check format lint docs audit argon2 bench fuzz chaos mutants lock

serve: .venv/.runtime
	$(BIN)/tiles serve $(ARGS)

# Everything that a developer waits for: both databases, no long shares of what is generated or measured.
test: .venv/.development .venv/.clients
	$(PYTEST) -m "not long" $(ARGS)

test-all: .venv/.development .venv/.clients
	$(PYTEST) $(ARGS)

check: lint audit test-all

setup: .venv/.development

lint: .venv/.development
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Write the tables of settings, commands and operations in docs/ from the code.
docs: .venv/.development
	$(BIN)/python tests/documents.py

# Whether a pin has a known vulnerability; offline it says that it could not ask.
audit: .venv/.development
	$(BIN)/python tests/audit.py

# Build Argon2 from its pinned source for this processor: 1.6 times as many sign-ins. Needs cc, cmake and ninja.
argon2: .venv/.runtime
	sed -n '/^argon2-cffi-bindings==/,/[^\\]$$/p' requirements/runtime.txt >.venv/argon2.txt
	CFLAGS="-O3 -march=native" $(PIP) --require-hashes --no-deps --no-build-isolation --no-cache-dir --force-reinstall \
		--no-binary :all: --requirement .venv/argon2.txt

# Write tests/bench/report.md: the service beside PocketBase and beside its bars. Needs wrk, strace and Chromium.
bench: .venv/.bench
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

# Generated requests, 25 times as many as in every test run.
fuzz: .venv/.development
	$(PYTEST) --hypothesis-profile=bench tests/web/test_schema.py tests/promises/test_lifecycle.py \
		tests/web/test_fuzz.py tests/web/test_fuzz_rules.py $(ARGS)

# Kills, cuts off, fills and freezes what the service runs on, under load: nothing acknowledged may be lost.
chaos: .venv/.development
	PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

# Change the code of security, accounts and privacy in small ways: fails when the tests notice fewer changes than before.
# Takes hours; `make mutants ARGS=quick` changes the tokens only.
mutants: .venv/.development
	$(BIN)/python tests/mutants.py $(ARGS)

format: .venv/.development
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Renews every pin within the ranges of the two pyproject.toml and of package.json.
lock: .venv/.development
	$(COMPILE) --upgrade --output-file requirements/runtime.txt
	$(COMPILE) --upgrade --group dev --constraint requirements/runtime.txt --output-file requirements/development.txt
	$(COMPILE) --upgrade --group dev --group bench --constraint requirements/development.txt --output-file requirements/bench.txt
	cd tests/clients && npm update --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

.venv/.runtime: requirements/runtime.txt pyproject.toml client_sdk/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --requirement requirements/runtime.txt
	$(PIP) --no-deps --no-build-isolation --editable . --editable client_sdk
	@echo "Optional: 'make argon2' builds Argon2 for this processor, for 1.6 times as many sign-ins."
	touch $@

.venv/.development: .venv/.runtime requirements/development.txt
	$(PIP) --require-hashes --requirement requirements/development.txt
	touch $@

# The generators of TypeScript clients, where there is Node: the tests run them.
.venv/.clients: .venv/.runtime tests/clients/package.json tests/clients/package-lock.json
	if command -v npm >/dev/null; then \
		mkdir -p .venv/clients && cp tests/clients/package*.json .venv/clients && \
		npm ci --prefix .venv/clients --ignore-scripts --no-audit --no-fund --silent && touch $@; fi

.venv/.bench: .venv/.development requirements/bench.txt
	$(PIP) --require-hashes --requirement requirements/bench.txt
	touch $@
