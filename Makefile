# Two commands are all the set-up: `make demo` and `make test`. Both use ./.venv.

PYTHON ?= python3
HOME_DIR ?= skyfix-data
PORT ?= 8000
BIN := .venv/bin
# The two FAISS wheels install the same folder: one of them per environment.
EXTRA := $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
STAMP := .venv/installed-$(EXTRA)
TOWN := $(HOME_DIR)/demo-town
TOWN_SIZE_M ?= 800
WEIGHTS := model/weights/skyfix-modern.safetensors

.PHONY: demo test soak compose docs lint clean
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Skyfix needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar on --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA),dev]'
	touch $@

$(TOWN)/poses.csv: | $(STAMP)
	$(BIN)/skyfix-train synth $(TOWN) --seed 1 --panoramas 10 --size-m $(TOWN_SIZE_M)

$(HOME_DIR)/index/CURRENT: $(TOWN)/poses.csv $(WEIGHTS)
	$(BIN)/skyfix ingest $(TOWN)/aerial.tif --name demo-town --home $(HOME_DIR)
	$(BIN)/skyfix build --home $(HOME_DIR)

demo: $(STAMP) $(HOME_DIR)/index/CURRENT
	@echo
	@echo "Served by skyfix-modern, which measures better than the paper's method, msae-demo (README.md)."
	@echo "Open http://127.0.0.1:$(PORT)/ or, from another terminal:"
	@echo "  curl -F panorama=@$(firstword $(sort $(wildcard $(TOWN)/panoramas/*.jpg)) $(TOWN)/panoramas/0.jpg) 'http://127.0.0.1:$(PORT)/localize?top_k=3'"
	@echo "True places stand in $(TOWN)/poses.csv. Stop with Ctrl-C."
	@echo
	$(BIN)/skyfix serve --home $(HOME_DIR) --host 127.0.0.1 --port $(PORT)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2

# Longer than anyone waits for: 200 kills of ingest, build, publish and prune; 6,000 mutated images;
# 10,000 panoramas located by a real server while versions are swapped.
# Stopped kills go on where they were; after a whole soak `rm -r $(HOME_DIR)/soak` begins anew.
soak: $(STAMP)
	$(BIN)/python tests/kill_campaign.py --kills 200 --home $(HOME_DIR)/soak
	SOAK=20 $(BIN)/pytest tests/test_api_abuse.py --timeout 3600
	$(BIN)/python -m benchmarks.soak --minutes 16 --requests 10000 --swaps 20 --json /dev/null

# Needs a Docker engine: builds the image, and runs the compose file as a whole.
compose: $(STAMP)
	docker compose build api
	COMPOSE=1 $(BIN)/pytest tests/test_docker_compose.py

# Writes docs/reference/ from the code, then the site: build/site/index.html.
docs: $(STAMP)
	$(BIN)/python docs/generate_reference.py
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv build $(HOME_DIR) .mypy_cache .pytest_cache .ruff_cache
