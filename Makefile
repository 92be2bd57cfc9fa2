# Every target makes .venv and installs into it by itself, once; it installs again when requirements.txt or setup.py change.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help install quickstart smoke test lint clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
STAMP := $(VENV)/.installed
RUN ?=
PYTEST_ARGS ?=

help:
	@echo "make quickstart   train the whole miniature system, score it, write the report (about half an hour on two cores)"
	@echo "make smoke        the same pipeline at its smallest, to see that everything works (minutes)"
	@echo "make test         every test;  PYTEST_ARGS='-k name' chooses"
	@echo "make lint         ruff check and ruff format --check"
	@echo "make clean        remove caches (never runs/ nor .venv)"

$(STAMP): requirements.txt setup.py
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} found, 3.11 or newer needed; run: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(VENV)/bin/python || "$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[micro,test]'
	@touch $@

install: $(STAMP)

# RUN='--from stage2 stage2.seed=1' is handed on to `bcaudio run`
quickstart: $(STAMP)
	$(VENV)/bin/bcaudio run recipes/micro/pipeline.yaml $(RUN)

smoke: $(STAMP)
	$(VENV)/bin/bcaudio run recipes/micro/smoke.yaml $(RUN)

test: $(STAMP)
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) tests

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find bcaudio data_prep tests -name __pycache__ -type d -prune -exec rm -rf {} +
