# `make train` and `make test` are all a fresh machine needs: each sets up the environment first.
PYTHON ?= python3
BIN := .venv/bin

# Not two benchmarks at a time, whatever -j says.
.NOTPARALLEL:
.PHONY: attack benchmark benchmark-gpu dist github-release help label label-test large-test package publish release-test tagged train test lint clean

help:
	@echo "make train   set up, then train on the phantom (CPU: minutes) and say where the pictures are"
	@echo "make test    set up, then run all checks and tests"
	@echo "make label   set up MONAI Label, then serve a release: correct its predictions, train on the corrections"
	@echo "make package     build the releases' archives and their registry into dist"
	@echo "make dist    build and check wheel and sdist into dist/pypi; make publish uploads them"
	@echo "make label-test   MONAI Label, driven by a test"
	@echo "make large-test   images in blocks by workers that are killed on the way"
	@echo "make release-test   releases, wheel and packages for BioImage.IO, each installed into an environment of its own (many minutes)"
	@echo "make lint        what the code's own checkers say; make clean removes environments and builds, and no run"
	@echo "make attack      attack the package on the loopback (minutes): what was tried, refused, survived and lost"
	@echo "make benchmark    set up the peers, measure everything (20 minutes, on a quiet machine), write bundle/docs/performance.md"
	@echo "make benchmark-gpu   measure training and prediction on this machine's GPU (minutes), and add them to the same page"

train: .venv/ready
	$(BIN)/python -m monai.bundle run training --config_file bundle/configs/train.yaml --output_dir runs/phantom_cells
	@echo "Pictures: runs/phantom_cells/figures   curves: runs/phantom_cells/curves.png   weights: runs/phantom_cells/model.pt"

test: lint
	# one process a core, each with one thread: a file's tests stay together, since they share what they trained;
	# a process that dies ends the run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --max-worker-restart 0

# PACKAGE="--release unet_em_segmentation --base_url URL", see bundle/docs/releases.md; WEIGHTS=FILE, of a run
package: .venv/ready
	$(BIN)/python scripts/package_bundle.py $(PACKAGE) $(if $(WEIGHTS),--weights $(WEIGHTS))

# Wheel and sdist, from the files of a checkout alone.
dist: .venv/ready
	$(BIN)/pip install --quiet -c constraints.txt -e .[release]
	rm -rf dist/pypi
	$(BIN)/python -m build --outdir dist/pypi
	$(BIN)/python -m twine check --strict dist/pypi/*

VERSION = v$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' unet_paper/__init__.py)

# By a token of PyPI in TWINE_PASSWORD, or by a workflow of GitHub that PyPI trusts; see the checklist in CONTRIBUTING.md.
publish: tagged dist
	$(BIN)/python -m twine upload --non-interactive dist/pypi/*

# Archives, for MONAI and for registry install, to the release of this tag, by GitHub's command gh. The registry that the
# tag holds must be of these very archives.
github-release: tagged .venv/ready
	$(BIN)/python scripts/package_bundle.py --github $(REPOSITORY)
	git ls-files --error-unmatch models/model_info.json
	git diff --exit-code models/model_info.json
	gh release create $(VERSION) --repo $(REPOSITORY) --notes "See CHANGELOG.md" dist/*_$(VERSION).zip dist/model_info.json

tagged:
	@test "$$(git describe --exact-match --tags HEAD)" = $(VERSION) || { echo "publish what is tagged $(VERSION)"; exit 1; }

# LABEL="--images FOLDER --release hela", see scripts/label_app/start.py
label: .venv/ready
	$(BIN)/python scripts/label_app/start.py $(LABEL)

# Not among the tests of `make test`: installs MONAI Label and trains, some minutes.
label-test: .venv/ready
	$(BIN)/python -m pytest -m label tests/label

# Not among the tests of `make test`: each worker takes seconds to start.
large-test: .venv/ready
	$(BIN)/python -m pytest -m large tests/large

# Not among the tests of `make test`: installs gigabytes. From registries, so it needs a network. Of the releases alone it
# tries the first, or RELEASE=unet_hela_segmentation.
release-test: .venv/ready
	$(BIN)/python -m pytest -s -m release tests/release

# ATTACK="--package CHECKOUT --only 'hostile archives'", see scripts/attack/__main__.py
attack: .venv/ready
	$(BIN)/python scripts/attack $(ATTACK)

BENCHMARKS := weight_map augmentation metrics forward training training_variants precision inference start large

# Goes on where it stopped: results that are newer than the code are kept. Fails at the end if a peer could not be measured.
benchmark: .venv/benchmark
	@$(MAKE) --keep-going $(BENCHMARKS:%=runs/benchmarks/%.json); failed=$$?; \
	$(BIN)/python scripts/benchmarks/write_performance_doc.py runs/benchmarks && exit $$failed

benchmark-gpu: .venv/benchmark
	$(BIN)/python scripts/benchmarks/benchmark_gpu.py --json runs/benchmarks/gpu.json
	$(BIN)/python scripts/benchmarks/write_performance_doc.py runs/benchmarks --names gpu

runs/benchmarks/%.json: scripts/benchmarks/benchmark_%.py scripts/benchmarks/benchmarking.py $(shell find unet_paper -name '*.py')
	$(BIN)/python $< --json $@

# The peers, beside the package.
.venv/benchmark: .venv/ready
	$(BIN)/pip install --quiet -c constraints.txt -e .[benchmark]
	touch $@

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
	rm -rf .venv .label-venv dist .pytest_cache .mypy_cache .ruff_cache
