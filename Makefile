# Every target is one command on a bare machine with Python >= 3.10 and make: it makes its own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Extras of the package to install. `EXTRAS=dev,torchcodec` adds torchcodec, which needs the system's FFmpeg libraries.
EXTRAS ?= dev
export TOKENIZERS_PARALLELISM := false
# How long PyTorch's threads spin while they wait, before they sleep. By default they spin so long that one other busy
# process makes small models ten times slower.
export GOMP_SPINCOUNT := 10000

.PHONY: help install demo demo-detection demo-images study test test-slow test-kill test-library test-export test-quantisation stress check api format clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make the virtual environment and install the package with all it needs

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $@

demo: install ## The main job on rendered videos: distil, fine-tune, test and use a small model (minutes, no GPU)
	$(BIN)/python examples/demo.py --output_dir demo_output

demo-detection: install ## Action detection on rendered films: fine-tune, test, draw (a few minutes, no GPU)
	$(BIN)/python examples/demo_detection.py --output_dir demo_detection_output

demo-images: install ## The same on rendered images (no GPU)
	$(BIN)/python examples/demo_images.py --output_dir demo_images_output

study: install ## All tables of docs/evidence.md (hours; started again it goes on where it was)
	for grid in main parts teacher_ratio layers targets teacher_size length labels; do \
	    $(BIN)/python studies/ablate.py --grid configs/ablations/$$grid.yaml --output_dir ablation_output || exit 1; \
	done

test: install ## Run the tests (under 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

test-slow: install ## Run the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow or not slow"

test-kill: install ## `kill -9` at random moments, 24 times and more: resumed runs leave the same bytes (3 to 12 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m slow tests/training/test_kill.py tests/studies/test_ablate.py

test-library: install ## The common tests of Transformers itself over our classes, VideoMAE beside them (5 minutes)
	$(BIN)/python -m pip install --quiet parameterized
	OMP_NUM_THREADS=1 $(BIN)/python tools/library_tests.py

test-export: install ## Export to ONNX and OpenVINO, in int8 too (installs them; 3 minutes)
	$(BIN)/python -m pip install --quiet --editable ".[export]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow or not slow" tests/export tests/docs/test_commands.py

# Beside the environment, not in it: Transformers imports torchao wherever it finds it, which costs every program seconds.
QUANTISERS := build/quantisers
test-quantisation: install ## Quantisers of others (quanto, torchao, bitsandbytes) and PEFT on our classifier (a minute)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(QUANTISERS) \
	    "optimum-quanto>=0.2.7" "ninja>=1.13" "torchao>=0.18" "bitsandbytes>=0.50"
	PYTHONPATH=$(QUANTISERS) AMD_REQUIRE_QUANTISERS=1 OMP_NUM_THREADS=1 \
	    $(BIN)/python -m pytest -q tests/test_quantisation.py tests/test_modeling_adapters.py

stress: install ## 1,000 damaged videos through each decoder; memory of a worker over 2,000 videos (about 10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m slow tests/data/video/test_damaged_videos.py tests/data/test_loaders_memory.py

check: install ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

api: install ## Write docs/api/ from the docstrings
	$(BIN)/python tools/make_api_reference.py

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and everything made; folders of the demos only as the demos left them
	$(PYTHON) amd_hf/outputs/folders.py demo_output demo_images_output demo_detection_output
	[ ! -e $(VENV)/.installed ] || rm -rf $(VENV)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
