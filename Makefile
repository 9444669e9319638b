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

.venv/base.done: pyproject.toml | .venv/pip.done
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/dev.done: pyproject.toml | .venv/pip.done
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/base.done $@

# A tiny model with random weights answers about a video that is rendered here; the last line runs in a process of its
# own, whose script imports transformers only and takes the model's code from its folder.
quickstart: .venv/base.done
	$(BIN)/python examples/make_tiny_model.py --preset timechat --output quickstart/tiny-timechat
	$(BIN)/python examples/render_video.py --output quickstart/shapes.mp4
	$(BIN)/python examples/ground_event.py --model quickstart/tiny-timechat --video quickstart/shapes.mp4 \
		--query "a red circle crosses the picture"

test: .venv/dev.done
	$(BIN)/python -m pytest -n 2

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/dev.done
	$(BIN)/python -m benchmarks.encoding
	$(BIN)/python -m benchmarks.decoding

clean:
	rm -rf .venv quickstart benchmarks/.cache
