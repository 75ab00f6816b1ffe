# `make train` and `make test` are all a fresh machine needs: each sets up the environment first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train test lint clean

help:
	@echo "make train   set up, then train on the phantom (CPU: minutes) and say where the pictures are"
	@echo "make test    set up, then run all checks and tests"

train: .venv/ready
	$(BIN)/python -m monai.bundle run training --config_file bundle/configs/train.yaml --output_dir runs/phantom_cells
	@echo "Pictures: runs/phantom_cells/figures   curves: runs/phantom_cells/curves.png   weights: runs/phantom_cells/model.pt"

test: lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Both the package's and the tests' dependencies, in the versions that constraints.txt pins.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e .[test]
	touch $@

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
