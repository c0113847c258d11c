# Works from any folder (make -C), in paths with spaces, and without an activated environment.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run review serve test faults bench image

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

BASE ?= origin/main
review: setup ## Bring everything up to date, and say in Markdown what that runs and changes: make review BASE=origin/main
	@git rev-parse --quiet --verify '$(BASE)^{commit}' >/dev/null || { echo "BASE=$(BASE) is no commit here; git fetch it, or name another" >&2; exit 2; }
	@python -m dvc checkout --quiet --allow-missing
	@printf '## Plan\n\n```text\n' && mnist plan && printf '```\n'
	@python -m dvc repro >&2
	@printf '\n## Parameters\n\n' && python -m dvc params diff --md '$(BASE)'
	@printf '\n## Metrics\n\n' && python -m dvc metrics diff --md '$(BASE)'

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

image: ## Build the container image, with docker, podman or buildah: make image IMAGE=mnist IMAGE_OPTIONS='--build-arg …'
	@tool=$$(command -v podman || command -v buildah || command -v docker) || { echo "image: needs docker, podman or buildah" >&2; exit 2; }; set -x; $$tool build $(IMAGE_OPTIONS) --tag $(or $(IMAGE),mnist) .
