# On a fresh machine `make repro` and `make test` are enough: both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Each of these in a process of its own: Ray keeps the signals and threads of the process that starts it.
CLUSTERS := tests/embed/on_ray/test_ray.py tests/train/distributed
# Minutes of real `dvc` commands and of g++, and a real browser (Debian's chromium; skipped where there is none).
SLOW := tests/pipeline/matrix tests/browser tests/trust/whole tests/train/inductor
# Half an hour of kills, full disks and damaged files.
FAULTS := tests/faults/pipeline
# Stages run the first `python` on PATH: it must be the one of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# A user without an entry in passwd (docker run --user 12345) has no name and no home; DVC fails without them.
ifeq ($(shell id -un 2>/dev/null >&2 || echo nobody),nobody)
export USER ?= $(shell id -u)
export HOME := $(or $(filter-out /,$(HOME)),$(CURDIR)/.cache/home)
endif

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-clusters test-install test-pipeline test-faults fuzz lint format lock audit ui

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv and install requirements.lock (the other targets do this first)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "clipline needs Python 3.11 to 3.13, found %d.%d: run make PYTHON=python3.12" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.lock into $(VENV): about 8 GB, several minutes"
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

repro: $(STAMP) ## run the pipeline: download, preprocess, train, evaluate, export, embed, report
	dvc repro

# Files in alphabetical order: in xdist's own order, by number of tests, a long single test would run last and alone.
test: $(STAMP) ## run the quick tests: under ten minutes on two cores
	python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests --ignore=tests/install $(SLOW:%=--ignore=%) --ignore=$(FAULTS) $(CLUSTERS:%=--ignore=%)

test-clusters: $(STAMP) ## test stages, commands and training over several processes (torchrun, Ray)
	for tests in $(CLUSTERS); do python -m pytest $$tests || exit 1; done

test-install: $(STAMP) ## test an installation without torch: embed and search work in a second environment
	python -m pytest tests/install

test-pipeline: $(STAMP) ## test real dvc and MLflow commands, remotes, and MLflow's pages in a browser
	python -m pytest --timeout 900 $(SLOW)

test-faults: $(STAMP) ## test kills, full disks, locks and damaged files for half an hour (as root, with faketime)
	CLIPLINE_KILLS=100 python -m pytest -s tests/embed/test_kills.py
	CLIPLINE_KILLS=30 python -m pytest -s --timeout 1800 tests/train/test_kills.py
	CLIPLINE_KILLS=3 CLIPLINE_RANGES=200 python -m pytest -s --timeout 1800 tests/faults

MINUTES ?= 20
fuzz: $(STAMP) ## fuzz the reading of images, archives, captions and manifests, MINUTES=20 each (Linux)
	@test -d .cache/fuzz/packages/atheris || python -m pip install --quiet --no-deps --require-hashes \
		--target .cache/fuzz/packages --requirement tests/fuzz/requirements.txt
	python tests/fuzz/run.py --minutes $(MINUTES)

lint: $(STAMP) ## check code and format (ruff)
	ruff check . && ruff format --check .

format: $(STAMP) ## fix code and format (ruff)
	ruff check --fix . ; ruff format .

lock: ## renew requirements.lock from pyproject.toml
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv"; exit 1; }
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--extra dev pyproject.toml --output-file requirements.lock --upgrade

audit: ## check requirements.lock for known vulnerabilities (needs the network)
	@command -v pip-audit >/dev/null || { echo "make audit needs pip-audit: pipx install pip-audit"; exit 1; }
	pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

ui: $(STAMP) ## open MLflow on this repository's runs
	@echo "Open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning  (Ctrl-C stops)"
	@MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --host 127.0.0.1 --workers 1 \
		--backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}
