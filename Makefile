# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := pytest -q -n 2 --dist loadfile --max-worker-restart=0

.PHONY: demo test test-page test-slow test-scale test-low test-minimum check

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/tether demo --out out/demo --force

# Two processes of one thread each: most tests are small, and threads that wait for each other cost more than they give.
# One that crashes is not started again: with --dist loadfile the rest of its file would be waited for without end.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST)

# The server's page in a browser; it needs Chromium (apt-get install chromium).
test-page: .venv/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,browser]'
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs tests/serving/page

test-slow: .venv/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,8bit]'
	$(BIN)/pytest -q -m slow

# Several processes and a cluster of Ray on this machine; PostgreSQL is Debian's: apt-get install postgresql.
test-scale: .venv/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,ray]'
	$(BIN)/pytest -q -m 'slow or not slow' tests/serving/test_store.py tests/serving/test_shared.py \
	    tests/serving/test_killed.py tests/serving/test_replicas.py tests/datasets/test_spread.py

# The lowest versions of all dependencies but torch, whose older builds take gigabytes that CI has no time for.
LOW = tests/base tests/cli tests/files tests/formats tests/images tests/kinds tests/test_conversion.py \
      tests/training/test_config.py

.venv-low/.installed: pyproject.toml constraints.txt constraints-min.txt
	$(PYTHON) -m venv .venv-low
	(grep -v '^torch==' constraints-min.txt; grep '^torch==' constraints.txt) > .venv-low/constraints.txt
	.venv-low/bin/pip install --quiet -c .venv-low/constraints.txt -e '.[parquet,serve]' 'pytest>=8.0' 'pytest-xdist>=3.6'
	touch $@

test-low: .venv-low/.installed
	OMP_NUM_THREADS=1 .venv-low/bin/$(PYTEST) $(LOW)

# The lowest versions of all of them, and more tests.
.venv-min/.installed: pyproject.toml constraints-min.txt
	$(PYTHON) -m venv .venv-min
	.venv-min/bin/pip install --quiet -c constraints-min.txt -e '.[parquet,serve]' 'pytest>=8.0' 'pytest-xdist>=3.6'
	touch $@

test-minimum: .venv-min/.installed
	OMP_NUM_THREADS=1 .venv-min/bin/$(PYTEST) $(LOW) tests/control tests/golden tests/sampling

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
