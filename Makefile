# Everything a user types. Each target sets up what it needs; a second call installs nothing.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    := .venv
HARNESS := $(VENV)/bin/harness
PIP     := $(VENV)/bin/python -m pip --disable-pip-version-check
FLAGS    = $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev list study plan status data report ui test lint format clean

help: ## Show what there is to type
	@echo "Does synthetic data help my segmentation model, which generator makes it, and how much of it do I need?"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'
	@echo
	@echo "  Start with:  make study NAME=quickstart"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Making a virtual environment in $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the pinned dependencies (a few minutes, once) ..." >&2
	@$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt $(VENV)/.ready
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.ready ## Set up the virtual environment (every other target does it by itself)

setup-dev: $(VENV)/.ready-dev ## The same, with what tests and linters need

list: setup ## List the studies, and all that one file can add: generators, segmenters, executors and so on
	@$(HARNESS) study list; echo; $(HARNESS) plugin list

study: setup ## Run or resume a study: NAME=quickstart [PROFILE=smoke] [ARGS="--set train.0.real=50"]
	@test -n "$(NAME)" || { echo "Say which study: make study NAME=quickstart; make list shows them." >&2; exit 2; }
	@$(HARNESS) study run $(NAME) $(FLAGS)

plan: setup ## Show what a study would run and how long it should take: NAME=... [PROFILE=...]
	@test -n "$(NAME)" || { echo "Say which study: make plan NAME=quickstart; make list shows them." >&2; exit 2; }
	@$(HARNESS) study plan $(NAME) $(FLAGS)

status: setup ## Say what is done, running, failed and left: NAME=... [PROFILE=...]
	@test -n "$(NAME)" || { echo "Say which study: make status NAME=quickstart; make list shows them." >&2; exit 2; }
	@$(HARNESS) study status $(NAME) $(FLAGS)

data: setup ## List datasets, or import one: NAME=kvasir-seg FROM=kvasir-seg.zip
	@if [ -n "$(FROM)" ]; then $(HARNESS) data import --name "$(NAME)" --from "$(FROM)" $(ARGS); else $(HARNESS) data list $(ARGS); fi

report: setup ## Render a study's report again from what is stored: NAME=... [PROFILE=...]
	@test -n "$(NAME)" || { echo "Say which study: make report NAME=quickstart; make list shows them." >&2; exit 2; }
	@$(HARNESS) report render $(NAME) $(FLAGS)

ui: setup ## Browse the runs in MLflow at http://127.0.0.1:5000 [PORT=5000]
	@$(HARNESS) track ui $(if $(PORT),--port $(PORT))

test: setup-dev ## Run the tests
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal --durations=15 $(ARGS)

lint: setup-dev ## Check style and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup-dev ## Format the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean: ## Remove the virtual environment, caches and rendered reports; data, results and runs stay
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find reports -mindepth 1 ! -name .gitkeep -delete
	@echo "Removed. Data and results stay in .harness, MLflow's runs in mlruns."
