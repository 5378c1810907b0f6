# `make quickstart` and `make test` do everything on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test check benchmarks pictures adopt-tiny adopt-tiny-qwen setup clean

quickstart: setup  ## set up, run the main job, print the table
	$(BIN)/lilora run quickstart

test: setup check  ## all tests, the slow ones too; .ci/run has the long ones
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

check: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

adopt-tiny: setup  ## pre-train the tiny LLaVA (half an hour) and put it in the package
	$(BIN)/lilora run pretrain_tiny --store .lilora
	$(BIN)/python -c "from pathlib import Path; from experiments.pretrain_tiny import pretrain_tiny; \
	from lilora.backbones._checkpoints import adopt; \
	print(adopt(Path('.lilora/artifacts', pretrain_tiny().digest), 'tiny_llava'))"

adopt-tiny-qwen: setup  ## the same for the tiny Qwen2-VL
	$(BIN)/lilora run pretrain_tiny_qwen --store .lilora
	$(BIN)/python -c "from pathlib import Path; from experiments.pretrain_tiny_qwen import pretrain_tiny_qwen; \
	from lilora.backbones._checkpoints import adopt; \
	print(adopt(Path('.lilora/artifacts', pretrain_tiny_qwen().digest), 'tiny_qwen2_vl'))"

benchmarks: setup  ## the short benchmarks, and what they said, into benchmarks/results
	$(BIN)/python -m benchmarks.short

pictures: setup  ## draw the documentation's pictures from the store
	$(BIN)/python -m docs.make_pictures

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lilora needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[mini,dev]'
	touch $@

clean:  ## what runs left behind (results in .lilora too)
	rm -rf .lilora .pytest_cache .mypy_cache .ruff_cache build *.egg-info
