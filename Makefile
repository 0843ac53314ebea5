# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-minimum check

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/tether demo --out out/demo --force

# Two processes of one thread each: most tests are small, and threads that wait for each other cost more than they give.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

test-slow: .venv/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,8bit]'
	$(BIN)/pytest -q -m slow

# The lowest versions of all dependencies, in an environment of their own.
.venv-min/.installed: pyproject.toml constraints-min.txt
	$(PYTHON) -m venv .venv-min
	.venv-min/bin/pip install --quiet -c constraints-min.txt -e . 'pytest>=8.0'
	touch $@

test-minimum: .venv-min/.installed
	.venv-min/bin/pytest -q tests/base tests/control tests/files tests/formats tests/sampling tests/golden tests/test_conversion.py

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
