# PYTHON=.venv/bin/python make quick
PYTHON ?= python3
PYTEST = $(PYTHON) -m pytest -q -n auto --dist worksteal

.PHONY: quick test lint

quick:  # Some of every folder, in two minutes. A test that takes long here is to be marked slow.
	$(PYTEST) --quick --timeout 120 --durations 5

test:
	$(PYTEST)

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
