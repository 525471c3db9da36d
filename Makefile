# make demo | test | lint | types | bench | clean      (each sets itself up; PYTHON=python3.12 picks the interpreter)

PYTHON ?= python3
PYTEST_ARGS ?=
READY := .venv/.ready
RUN := .venv/bin/python
comma := ,
PIP := $(RUN) -m pip --quiet --disable-pip-version-check

.PHONY: demo test lint types bench clean
.NOTPARALLEL:

# Print a command as the user would type it, then run it in the environment.
define step
@printf '\n$$ python %s\n' '$(1)'
@$(RUN) $(1)
endef

demo: $(READY)
	@rm -rf runs/demo
	$(call step,-m preprocessing.phantom --output data/phantom)
	$(call step,-m preprocessing.to_shards --input data/phantom --output data/shards)
	$(call step,-m training.run --loader dali --shards data/shards --output runs/demo --patch 40$(comma)40$(comma)40 --epochs 8)
	$(call step,-m training.predict --checkpoint runs/demo/checkpoints/best.pt --input data/phantom/imagesTs --output runs/demo/predictions)
	$(call step,-m training.evaluate --predictions runs/demo/predictions --labels data/phantom/labelsTs --images data/phantom/imagesTs --output runs/demo/evaluation)
	$(call step,-m training.report --run runs/demo)

# One process a core, each with one thread: two threads each would fight for the cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n logical $(PYTEST_ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(READY)
	$(RUN) -m mypy

bench: $(READY)
	$(RUN) benchmarks/loader_compare.py

# What these targets made, less the environment and the data: a store under data/ may be somebody's own.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis runs/demo
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first: the largest download fails early, and a CPU-only build that pip is pointed at is taken before
# anything else asks for the default one.
$(READY): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) not found: install Python 3.10 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "$(PYTHON) is older than Python 3.10: name a later one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv: install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "setting up .venv from constraints.txt (once; torch and DALI are large downloads)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $(READY)
