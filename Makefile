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

# A tiny model with random weights answers about a video that is rendered here: first by a script that imports transformers
# only and takes the model's code from its folder, then by this package's command.
quickstart: .venv/base.done
	$(BIN)/python examples/make_tiny_model.py --preset timechat --output quickstart/tiny-timechat
	$(BIN)/python examples/render_video.py --output quickstart/shapes.mp4
	$(BIN)/python examples/ground_event.py --model quickstart/tiny-timechat --video quickstart/shapes.mp4 \
		--query "a red circle crosses the picture"
	$(BIN)/seq2time ground quickstart/shapes.mp4 "a red circle crosses the picture" --model quickstart/tiny-timechat \
		--top-k 3 --plot quickstart/moments.png

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
	$(BIN)/python -m benchmarks.long_videos
	$(BIN)/python -m benchmarks.image_sequences
	$(BIN)/python -m benchmarks.caption_metrics
	$(BIN)/python -m benchmarks.moment_metrics
	$(BIN)/python -m benchmarks.training_steps

clean:
	rm -rf .venv quickstart benchmarks/.cache
