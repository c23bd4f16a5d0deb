# Two commands set everything up by themselves: `make chat` and `make test`.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
IMAGE  ?=
AUDIO  ?=
OUT    ?= out/answer.wav
API_PORT ?= 8000
PORT   ?= 7860

.PHONY: chat demo serve test test-all smoke lint setup setup-dev setup-eval setup-lmms-eval eval help
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

chat: $(VENV)/.chat  ## Ask a spoken question about a picture: make chat [IMAGE=…] [AUDIO=…] [OUT=answer.wav]
	@mkdir -p "$$(dirname "$(OUT)")"
	@$(BIN)/emova chat $(if $(IMAGE),--image "$(IMAGE)") $(if $(AUDIO),--audio "$(AUDIO)") --out "$(OUT)"

demo: $(VENV)/.demo  ## Open the demo in a browser: make demo [PORT=7860]
	@$(BIN)/emova demo --port $(PORT) --open

serve: $(VENV)/.serve  ## Serve programs that speak to OpenAI's API: make serve [API_PORT=8000]
	@$(BIN)/emova serve --port "$(API_PORT)"

# A file's tests share what they have loaded, so files are what the processes share out.
test: $(VENV)/.dev  ## Run the tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-all: $(VENV)/.all  ## Run the slow tests too: several processes, a real browser
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 900

smoke: $(VENV)/.dev  ## Train every part for two steps, on two processes, to a checkpoint that answers
	$(BIN)/python -m pytest -m slow --timeout 1800 tests/train/test_all.py

lint: $(VENV)/.dev  ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.chat  ## Install what the assistant needs
setup-dev: $(VENV)/.dev  ## Install what training, evaluation and the tests need too

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch is pinned first and by itself, so that no dependency moves it to another build.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	$(PIP) --constraint constraints.txt pip wheel setuptools
	$(PIP) --constraint constraints.txt torch
	@touch $@

$(VENV)/.chat: $(VENV)/.torch setup.cfg pyproject.toml
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.demo: $(VENV)/.chat
	$(PIP) --constraint constraints.txt --editable ".[demo]"
	@touch $@

$(VENV)/.serve: $(VENV)/.chat
	$(PIP) --constraint constraints.txt --editable ".[serve]"
	@touch $@

# pipecat-ai pins older versions of protobuf, soundfile and soxr; what is tried of it runs with the pinned ones.
$(VENV)/.dev: $(VENV)/.chat tests/app/clients/package-lock.json
	$(PIP) --constraint constraints.txt --editable ".[train,scale,data,eval,openclip,demo,browser,serve,clients,dev]"
	$(PIP) --constraint constraints.txt --no-deps pipecat-ai
	@if command -v npm > /dev/null; then npm ci --silent --no-audit --no-fund --prefix tests/app/clients; fi
	@touch $@

$(VENV)/.all: $(VENV)/.dev
	$(PIP) --constraint constraints.txt --editable ".[ray,track]"
	@touch $@

# Without their own pins: distillmos asks for a torchaudio that does not fit beside the pinned torch, and does not need
# it to score; Resemblyzer asks for a webrtcvad that is built from source, where webrtcvad-wheels does.
setup-eval: $(VENV)/.dev  ## Install the judges of naturalness, quality and voices too
	$(PIP) --constraint constraints.txt --editable ".[judges]"
	$(PIP) --constraint constraints.txt --no-deps distillmos xls-r-sqa speechmos utmos-pytorch Resemblyzer visqol-python

# lmms-eval pins an older av, and pytablewriter an older python-dateutil; both run with the pinned ones.
setup-lmms-eval: $(VENV)/.dev  ## Install lmms-eval beside what is there, whose versions stay
	$(PIP) --constraint constraints.txt --editable ".[lmms]"
	$(PIP) --constraint constraints.txt --no-deps lmms-eval pytablewriter DataProperty mbstrdecoder tabledata tcolorpy typepy

eval: setup-eval  ## Measure emova-nano on held-out data (needs `emova data make nano`)
	$(BIN)/emova eval nano
