# Everything runs in .venv, which is made on first use and re-made when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out/demo
REPORT ?= $(OUT)/report.html
# Two processes of one thread each: two threads in each would wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test test-slow test-gpu lint docs picture clean

demo: $(STAMP)  ## Train the demo model, build and check its FP8 and INT8 engines.
	$(BIN)/deploy build --model demo --task demo --precision fp8,int8,fp16 \
		--require-fusion --out $(OUT)

test: $(STAMP) lint  ## Lint, type-check and run the fast tests.
	$(PYTEST)

test-slow: $(STAMP)  ## Sweeps of minutes: builds killed and failed at every call, and raced.
	$(PYTEST) -m slow

test-gpu: $(STAMP)  ## Test sessions on a GPU; elsewhere every test says why it is skipped.
	$(BIN)/python -m pytest tests/gpu -rs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## Write the command reference from the command line.
	$(BIN)/python docs/generate.py

picture: $(STAMP)  ## Photograph a report for README, in a headless Chromium.
	$(BIN)/python docs/picture.py $(REPORT)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[rtx,dev]'
	touch $@

clean:
	rm -rf $(VENV) out
