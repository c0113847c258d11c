# Works from any folder (make -C), in paths with spaces, and without an activated environment.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run review serve test faults bench image image-test

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/complete ## Create .venv with the pinned environment
.venv/complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup ## Bring data, model, metrics and report up to date, and print the metrics
	python -m dvc repro
	@python -c 'import json, pathlib; print(*(f"{name:28}{value:.4f}" for name, value in json.load(open("reports/metrics.json")).items() if name != "per_class"), "", "The report: " + pathlib.Path("reports/index.html").absolute().as_uri(), sep="\n")'

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
	python -m pytest -m slow --numprocesses 4  # most of them wait

bench: run ## Time the training loop against the notebook's
	python -m benchmarks.speed

IMAGE ?= mnist
image: ## Build the container image with podman, docker or buildah: make image IMAGE=mnist IMAGE_OPTIONS='--build-arg …'
	@for tool in podman docker buildah; do $$tool info >/dev/null 2>&1 && break; tool=; done; \
	test "$$tool" || { echo "image: neither podman, docker's daemon nor buildah answers here; install one" >&2; exit 2; }; \
	layers=$$(test $$tool != buildah || echo --layers); set -x; $$tool build $$layers $(IMAGE_OPTIONS) --tag '$(IMAGE)' .

image-test: setup ## Build the image as root with podman, on a base by debootstrap unless told, and run flows in containers of it
	python -m pytest -m image --numprocesses 0 tests/faults/test_image.py
