# `make bench` and `make test` set everything up by themselves, in .venv.
# `make bench PYTHON=python3` uses the environment you are in and installs nothing.
.DEFAULT_GOAL := help
.PHONY: help bench test test-all test-poisoned soak lint format report compare

VENV   := .venv/bin/python
PYTHON ?= $(VENV)
SETUP  := $(if $(filter $(VENV),$(PYTHON)),.venv/.installed)
RUN    ?= results/latest
CASES  ?= 100000
# processes that share the tests, file by file; WORKERS=0 for none, as a debugger wants it
WORKERS ?= auto
TEST   := $(PYTHON) -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile
# their threads outnumber the cores, and one that spins while it waits keeps another from working
test test-all test-poisoned: export OMP_WAIT_POLICY = passive

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: $(SETUP)  ## verify, time and race the optimizers; ARGS="--budget smoke|default|full --device cpu|cuda ..."
	$(PYTHON) -m bench run $(ARGS)

test: $(SETUP)  ## run the tests; ARGS="-k adam"
	$(TEST) $(ARGS)

test-all: $(SETUP)  ## run the slow tests too
	$(TEST) -m "slow or not slow" $(ARGS)

# what needs many processes, or only numbers, shows nothing about memory
UNPOISONED := parity mutants triton triton_losses docstrings guard_pages threads

test-poisoned: $(SETUP)  ## run the optimizers' tests with NaN in the memory that torch leaves uninitialised
	$(TEST) tests/optimizers --poison $(UNPOISONED:%=--ignore=tests/optimizers/test_%.py) $(ARGS)

soak: $(SETUP)  ## step random optimizers at random beside torch's, about half an hour; CASES=100000
	SOAK_CASES=$(CASES) $(PYTHON) -m pytest tests/optimizers/test_soak.py $(ARGS)

lint: $(SETUP)  ## check style, formatting and types
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

format: $(SETUP)  ## put the code into the one format
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .

report: $(SETUP)  ## make the tables, charts and page of a finished run again; RUN=results/latest
	$(PYTHON) -m bench report $(RUN)

compare: $(SETUP)  ## compare the step times of two runs; ARGS="results/A results/B"
	$(PYTHON) -m bench compare $(ARGS)

.venv/.installed: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(VENV) -m pip install --quiet -c constraints.txt -e '.[dev,triton]'
	touch $@
