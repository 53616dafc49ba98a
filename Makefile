# The two commands: `make train` and `make test`. Each does all the set-up it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HEADLINE := agent=bcq prune=grasp sparsity=0.95 env=halfcheetah dataset=expert \
	dataset.size=300000 updates=30000 eval.every=5000 checkpoint.every=5000 eval.episodes=5 run_dir=runs/headline

.PHONY: train test lint clean

train: $(VENV)/.installed  ## set up, make the data, train the headline agent (about 3 minutes on 2 cores)
	$(BIN)/python train.py $(HEADLINE)

test: $(VENV)/.installed-dev lint  ## set up, lint, check types, run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,experts]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
