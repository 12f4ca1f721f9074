# `make bench`: the main job on an embedded default.  `make test`: all that must hold.
# Both set up a virtual environment first; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= .benchmarks/new

.PHONY: bench benchmarks test test-slow test-gpu gpu gpu-kit lint venv ship clean

bench: $(VENV)/ready
	$(BIN)/python bench.py reproduce quick --per-class 30 --reference mini:test:1000 --out runs/quick
	$(BIN)/python bench.py grid quick --classes 0-9 --seeds 0-9 --pair --run runs/quick -o plots/quick-images.png

# Five rounds for `bench.py compare`; OUT=base chooses another folder.
benchmarks: $(VENV)/ready
	mkdir -p $(OUT)
	for i in 1 2 3 4 5; do $(BIN)/python -m pytest benchmarks --quiet \
		--benchmark-min-rounds=12 --benchmark-json=$(OUT)/$$i.json || exit; done

# A file's tests share what they set up, so a worker takes files whole.
test: lint
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/ready
	$(BIN)/python -m pytest -m gpu

# A GPU profiled in MINUTES; again and again with the same PROFILE, it goes on.  PACK=DIR archives.
# In a kit, which has wheels, they go beside the machine's own packages: there is no network.
MINUTES ?= 9
PROFILE ?= runs/profile
IN_KIT := $(wildcard wheels)
gpu: $(if $(IN_KIT),site,$(VENV)/ready)
	$(if $(IN_KIT),PYTHONPATH=$(CURDIR)/site $(PYTHON),$(BIN)/python) bench.py profile \
		--minutes $(MINUTES) --out $(PROFILE) --resume $(if $(PACK),--pack $(PACK)) $(LIMITS)

site: wheels
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $@ wheels/*.whl

# What a GPU machine without network needs, for Python KIT_PYTHON and the torch that is there.
KIT ?= runs/kit
KIT_PYTHON ?= 3.12
gpu-kit: $(VENV)/ready
	$(BIN)/python -m bench.measure.profile.kit $(KIT) $(KIT_PYTHON)

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/md-dead-link-check

venv: $(VENV)/ready

# Debian keeps venv in a package of its own; where it is missing, say so in one line.
$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "make: Python has no venv; run: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# Puts the finished models of a training of the mini world, with their cards, into the package.
RUNS ?= runs/mini-cpu
ship:
	@mkdir -p codevar/mini/weights
	@for run in $(wildcard $(addprefix $(RUNS)/,vqvae classifier large small drafter_? refiner_? \
			variant_d?)); do \
		name=$$(basename $$run); test -f $$run/model.safetensors || continue; \
		cp $$run/model.safetensors codevar/mini/weights/$$name.safetensors && \
		cp $$run/card.json codevar/mini/weights/$$name.json; done
	@du -ch codevar/mini/weights/*.safetensors

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
