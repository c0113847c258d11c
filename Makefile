# Works from any folder (make -C), in paths with spaces, and without an activated environment.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run serve test faults bench clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/complete ## Create .venv with the pinned environment
.venv/complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup ## Bring data, model, metrics and report up to date, and print the metrics
	python -m dvc repro
	@python -c 'import json; print(*(f"{name:28}{value:.4f}" for name, value in json.load(open("reports/metrics.json")).items() if name != "per_class"), "", "The report: reports/index.html", sep="\n")'

serve: setup ## Retrain at 3:00 UTC every day, with Prefect's pages, until Ctrl-C
	@mnist serve

test: setup ## Lint, types and tests
	python -m ruff check
	python -m ruff format --check
	python -m mypy
	python -m pytest

faults: setup ## Inject every fault there is a test for, in real processes, and run the slow tests; three quarters of an hour
	python -m pytest -m slow

bench: run ## Time the training loop against the notebook's
	python -m benchmarks.speed
