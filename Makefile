# `make run` and `make test` install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: run test tests test-slow check style types format docs clean

run: $(VENV)/.installed
	$(BIN)/manyshot run

# mypy takes one core for a minute where it has no cache, so tests begin beside it.
test: $(VENV)/.installed
	$(MAKE) --no-print-directory style
	$(MAKE) --no-print-directory -j 2 types tests

tests: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal

# Further examples of what `make test` shows, ten seconds and longer each; and layers with the
# instructions of smaller processors, on which torch runs other code.
test-slow: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal
	ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
	    tests/nn/test_nn_pointwise.py tests/nn/test_nn_equality.py tests/nn/test_nn_layers.py \
	    tests/nn/test_nn_mask_gradients.py tests/nn/test_nn_moves.py

check: style types

style: $(VENV)/.installed
	$(BIN)/ruff format --check src tests benchmarks examples tools
	$(BIN)/ruff check src tests benchmarks examples tools

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format src tests benchmarks examples tools
	$(BIN)/ruff check --fix src tests benchmarks examples tools

# The site, in site/. Its search needs a server: python -m http.server -d site. Nothing in it is
# loaded from elsewhere.
docs: $(VENV)/.docs
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.methods
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[docs]'
	touch $@

# torch comes first, at the version the checks run on; everything else fits around it. Modules are
# compiled when they are first imported, which most never are. What is compiled is kept, whatever
# the environment says: without that each of the many processes of the tests would compile torch.
unexport PYTHONDONTWRITEBYTECODE
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev,onnx,tensorboard,ray,timm,optuna]'
	touch $@

clean:
	rm -rf $(VENV) site build *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
