# demo and test each make the virtual environment if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := watermark ledger node coordinator client_sdk
SOURCES := watermark/medprov_watermark ledger/medprov_ledger node/medprov_node coordinator/medprov_coordinator \
	client_sdk/medprov_sdk demo benchmarks contracts/build.py
# One thread per library call: two processes with two spinning threads each are slower than four with one.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint contracts clean setup unit

setup: $(VENV)/.installed

$(VENV)/.installed: constraints.txt dev-requirements.txt $(PROJECTS:%=%/pyproject.toml) contracts/package-lock.json
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medprov needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -r dev-requirements.txt \
		-e "watermark[train]" -e "ledger[chain]" -e "client_sdk[web]" -e node -e coordinator
	@if command -v npm >/dev/null 2>&1 && command -v node >/dev/null 2>&1; \
		then npm ci --prefix contracts --no-audit --no-fund --loglevel=error; \
		else echo "Node is not installed: the embedded chain will be the Python EVM, contract rebuilds are skipped"; fi
	touch $@

demo: setup
	$(BIN)/python -m demo

# A file's tests share their chains and marked pictures, so a file stays with one worker. In the order of their names:
# by number of tests, as pytest-xdist would have it, the long files would come last and leave a worker idle.
test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

unit: setup
	$(BIN)/pytest -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

contracts: setup
	$(BIN)/python contracts/build.py

clean:
	rm -rf build $(VENV) contracts/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf $(PROJECTS:%=%/*.egg-info)
