# Needs python3 (3.11 or newer), make and a package registry. Every target brings what it needs into .venv first.
# make test ARGS="tests/bus -k envelope" hands arguments on to pytest.

PYTHON ?= python3
BIN := .venv/bin
# Said here and not in the script, which an old Python may not even be able to read.
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"Sojourn needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'

.PHONY: help demo replay test check check-style check-types check-imports check-tree check-package prove bench lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     three agents follow 500 synthetic customers through 14 days, on a real NATS server"
	@echo "make replay   the same with a real data set: the CDNOW purchase log, 69,659 orders"
	@echo "make test     the tests"
	@echo "make check    style, types, import contracts, packaging"
	@echo "make prove    the long proofs; their results go to docs/proof/"
	@echo "make bench    what the guard and personal data cost, as ratios; fails where docs/benchmarks.md is broken"
	@echo "make lock     renews requirements/ from pyproject.toml"
	@echo "make clean    removes .venv and all caches"

demo: .venv/.run
	$(BIN)/sojourn simulate examples.retail --customers 500 --days 14 --seed 7

replay: .venv/.run .venv/.replay
	$(BIN)/sojourn replay cdnow

# On all cores, but not on so many that servers and workers starve each other.
test: .venv/.dev .venv/.replay
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: check-style check-types check-imports check-tree check-package

check-style: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

check-types: .venv/.dev
	$(BIN)/mypy
	$(BIN)/pyright

check-imports: .venv/.dev
	$(BIN)/lint-imports

check-tree: .venv/.dev
	$(BIN)/python tools/check_tree.py

check-package: .venv/.dev
	$(BIN)/python tools/check_package.py

# A proof takes minutes where a test takes seconds.
prove: .venv/.dev .venv/.replay
	SOJOURN_PROOF=docs/proof $(BIN)/pytest tests/prove -m prove -o faulthandler_timeout=3600 $(ARGS)

# Ratios want a machine that does nothing else meanwhile, so this is no part of the tests.
bench: .venv/.run
	$(BIN)/python -m benchmarks $(ARGS)

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock"

lock: .venv/.dev
	$(COMPILE) pyproject.toml --upgrade -o requirements/run.txt
	$(COMPILE) pyproject.toml --group dev --upgrade -c requirements/run.txt -o requirements/dev.txt
	grep -o '^uv==[0-9.]*' requirements/dev.txt | $(COMPILE) - -o requirements/uv.txt
	echo lifetimes==0.11.3 | $(COMPILE) - --no-deps -o requirements/replay.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist

# A stamp is written last, so that an interrupted installation does not look finished.
.venv/.run .venv/.dev: .venv/.%: pyproject.toml requirements/%.txt requirements/uv.txt tools/environment.py
	@$(NEW_ENOUGH)
	@$(PYTHON) tools/environment.py $*

.venv/.replay: requirements/replay.txt requirements/uv.txt tools/environment.py | .venv/.run
	@$(NEW_ENOUGH)
	@$(PYTHON) tools/environment.py replay
