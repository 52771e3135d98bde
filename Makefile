# Two commands do everything: `make train` and `make test`. Python 3.11 or newer is all they need.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: train test slow lint clean help

help:
	@echo "make train   set up, then train the demo on the built-in corpus"
	@echo "make test    set up, then run the tests"
	@echo "make slow    set up, then run the tests that take long"
	@echo "make lint    set up, then check style"
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
	$(RUN) -m pytest -m slow

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf $(VENV) *.egg-info
