# Two commands do everything: `make train` and `make test`. Python 3.11 or newer is all they need.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.ready

PEERS = .venv-peers
TORCH = $(PEERS)/torch/bin/python
KERAS_ADAPTIVE_SOFTMAX = $(PEERS)/keras/bin/python

.PHONY: train test slow lint bench clean help

help:
	@echo "make train   set up, then train the demo on the built-in corpus"
	@echo "make test    set up, then run the tests"
	@echo "make slow    set up, then run the tests that take long"
	@echo "make lint    set up, then check style"
	@echo "make bench   set up, with peers beside, then measure everything; an hour of a quiet machine"
	@echo "make clean   remove the environment"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=..., e.g. make train PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	@touch $@

train: $(READY)
	$(RUN) train.py

test: $(READY)
	$(RUN) -m pytest -n 2 --dist loadfile -m "not slow"

slow: $(READY)
	XLA_FLAGS="$(XLA_FLAGS)" $(RUN) -m pytest -m slow

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Torch and transformers want an older NumPy, keras-adaptive-softmax Keras 2: environments of their own.
$(PEERS)/.ready: $(READY)
	$(PYTHON) -m venv $(PEERS)/torch
	$(TORCH) -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.35.2 'numpy<2'
	$(PYTHON) -m venv $(PEERS)/keras
	$(KERAS_ADAPTIVE_SOFTMAX) -m pip install --quiet --disable-pip-version-check tensorflow tf-keras keras-adaptive-softmax==0.9.0
	@touch $@

bench: $(PEERS)/.ready
	$(RUN) -m benchmarks.softmax --torch_python=$(TORCH) \
	  --keras_adaptive_softmax_python=$(KERAS_ADAPTIVE_SOFTMAX)
	$(RUN) -m benchmarks.loss_memory --torch_python=$(TORCH)
	$(RUN) -m benchmarks.training_step --huggingface_python=$(TORCH)
	$(RUN) -m benchmarks.inference --torch_python=$(TORCH)
	$(RUN) -m benchmarks.growth

clean:
	rm -rf $(VENV) $(PEERS) *.egg-info
