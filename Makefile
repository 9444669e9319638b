# Every target sets up what it needs in .venv; run any of them on a fresh checkout.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: install quickstart test lint bench clean

install: .venv/dev.done

.venv/pip.done:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/quickstart.done: pyproject.toml | .venv/pip.done
	$(BIN)/python -m pip install --quiet --editable '.[data,eval,train]'
	touch $@

.venv/dev.done: pyproject.toml | .venv/pip.done
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/quickstart.done $@

# Data, both phases from the mini base, questions before and after, quickstart/report.html. Stopped, it goes on.
quickstart: .venv/quickstart.done
	$(BIN)/python -m examples.quickstart --base examples/seq2time-mini-base --output quickstart

test: .venv/dev.done
	$(BIN)/python -m pytest -n 2

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/dev.done
	$(BIN)/python -m benchmarks.encoding
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.notations
	$(BIN)/python -m benchmarks.constrained_decoding
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.denormals
	$(BIN)/python -m benchmarks.long_videos
	$(BIN)/python -m benchmarks.image_sequences
	$(BIN)/python -m benchmarks.caption_metrics
	$(BIN)/python -m benchmarks.moment_metrics
	$(BIN)/python -m benchmarks.training_steps
	$(BIN)/python -m benchmarks.features

# The paper's tables in miniature, some 12 hours, or 6 as two commands at a time (docs/reproduction.md);
# `make reproduce TABLE="table2 table5"` for some. Stop it and go on at any time.
.PHONY: reproduce
reproduce: .venv/dev.done
	$(BIN)/python -m train.reproduce $(or $(TABLE),all)

clean:
	rm -rf .venv quickstart benchmarks/.cache
