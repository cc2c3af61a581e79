# make demo   sets up and runs the main job on drawn data      make test   sets up and runs the tests
# make lint   formatting, lint, types                          Each is safe to repeat.
# make bench  measures what needs no GPU, in ten minutes, into BENCHMARKS.md; bench-full, bench-gpu more
# make parity sets up TensorFlow, haiku and transformers (2 GB) and runs the tests against them
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench bench-full bench-gpu parity readme clean

demo: .venv/ready
	$(BIN)/bench run --zoo all --protocol paf

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: .venv/ready
	$(BIN)/python -m benchmarks.table

bench-full: .venv/ready .venv-parity/ready
	$(BIN)/python -m benchmarks.ap --full
	PYTHONPATH=.venv-parity/transformers:. $(BIN)/python -m benchmarks.hugging_face
	$(BIN)/python -m benchmarks.grid

bench-gpu: .venv/ready
	$(BIN)/python -m benchmarks.gpu

parity: .venv/ready .venv-parity/ready
	$(BIN)/python -m pytest tests/parity

# Writes the table of the last demo into README.md.
readme: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/readme.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-parity/ready: tests/parity/requirements.txt tests/parity/requirements-transformers.txt | .venv/ready
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --requirement tests/parity/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv-parity/transformers \
		--requirement tests/parity/requirements-transformers.txt
	touch $@

clean:
	rm -rf .venv .venv-parity
