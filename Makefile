# Everything runs in $(VENV), which is made on first use and again when pyproject.toml changes.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# By file: a module's compiled functions and fixtures are shared by its tests. In the order of the
# files: by the number of tests, as is usual, the longest would be the last.
WORKERS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
# The cache executes what it holds: in the repository, readable by its owner only.
CACHE := $(CURDIR)/.cache/jax
TEST_ENV = JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} \
	JAX_COMPILATION_CACHE_DIR=$${JAX_COMPILATION_CACHE_DIR:-$(CACHE)} \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=$${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0}
# Most of the time is spent compiling: `test` compiles quickly, `test-all` as for users.
QUICK_COMPILE = JAX_DISABLE_MOST_OPTIMIZATIONS=$${JAX_DISABLE_MOST_OPTIMIZATIONS:-1}

.DEFAULT_GOAL := help
.PHONY: help demo demo-text test test-all lint format docs benchmark clean

help: ## Show this list
	@echo 'make TARGET [PYTHON=python3.12] [ARGS="--seed 1"]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

demo: $(VENV)/.stamp-base ## Install what a user needs and run the main job (ARGS are its flags)
	$(BIN)/python -m experiments.score_as_action $(ARGS)

demo-text: $(VENV)/.stamp-language $(VENV)/.stamp-emoji ## Build a small text-to-image model and fine-tune it (ARGS)
	$(BIN)/python -m experiments.text_to_image $(ARGS)

test: $(VENV)/.stamp-dev $(CACHE) ## Run the tests, slow ones left out (ARGS go to pytest)
	$(TEST_ENV) $(QUICK_COMPILE) $(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-all: $(VENV)/.stamp-dev $(CACHE) ## Run all the tests
	$(TEST_ENV) $(BIN)/python -m pytest $(WORKERS) -m "slow or not slow" $(ARGS)

lint: $(VENV)/.stamp-dev ## Check format, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.stamp-dev ## Format, and repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.stamp-docs $(CACHE) ## Build the site in docs/_build/html, its notebooks run (ARGS go to sphinx)
	$(TEST_ENV) $(QUICK_COMPILE) $(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees $(ARGS) docs docs/_build/html
	@echo 'docs/_build/html/index.html'

benchmark: $(VENV)/.stamp-base ## List the benchmarks, or run them (ARGS); peers: pip install -e ".[peers]"
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove build products and caches; runs/ and $(VENV) stay
	rm -rf build dist docs/_build .cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# .stamp-base is the plain install; .stamp-dev and .stamp-docs add an extra and cover it.
$(VENV)/.stamp-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'ctrl_jax needs Python 3.11 or newer; "$(PYTHON)" is' \
			"$$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
		echo 'No virtual environment could be made in $(VENV).' \
			'On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e ".$(if $(filter base,$*),,[$*])"
	@touch $(VENV)/.stamp-base $@

$(CACHE):
	@mkdir -p $@ && chmod 0700 $(dir $(CACHE)) $@
