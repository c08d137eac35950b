# make demo and make test each work as the only command typed on a fresh clone: python3 with venv, and make.

VENV ?= .venv
PAPER_VENV ?= .venv-paper
WORKSPACE ?= mit-workspace
WORKERS ?= 2
UV ?= uv

# The first interpreter that the locks cover; `make PYTHON=...` takes another.
COVERED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.10; do \
	$$p -c '$(COVERED)' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo quick test test-paper lint types bench bench-gpu bench-ledger bench-scheduling bench-forecast bench-report kills soak nasty sync-matrix cases web-run cluster jobs tune-check docs lock clean

help:
	@echo 'make demo        install into $(VENV) and make a dataset out of the bundled demo video'
	@echo 'make quick       lint, types and the tests that need no programs and no media: a minute and a half'
	@echo 'make test        install into $(VENV) and run all tests, with coverage'
	@echo 'make test-paper  those of them that numpy or torch may change, in $(PAPER_VENV): numpy 2 and torch, no mediapipe'
	@echo 'make lint        ruff, ruff format, codespell'
	@echo 'make types       mypy --strict'
	@echo 'make bench       table of speed and memory'
	@echo 'make bench-gpu   the same for the models of the paper on an NVIDIA GPU, in $(PAPER_VENV)'
	@echo 'make bench-report  time, memory and size of the report of 5,000 synthetic clips'
	@echo 'make bench-ledger      planning and status of a million sources; needs 10 GB of disk'
	@echo 'make bench-scheduling  how well workers are kept busy, with stages that sleep'
	@echo 'make bench-forecast    forecasts against finished runs'
	@echo 'make kills       break runs in every way there is, 149 with fakes and 60 real ones, and compare what comes out'
	@echo 'make soak        half an hour of one run over thousands of videos: memory and open files'
	@echo 'make nasty       tables of what becomes of hostile media files, and of their labels'
	@echo 'make sync-matrix  picture against sound through every container, joined, trimmed and late'
	@echo 'make cases       every file of shared/cases through the program, its labels beside those of the base'
	@echo 'make web-run     run over 300 addresses on loopback that fail in every way, twice, and compare'
	@echo 'make cluster     runs on several nodes of one machine, with a node killed and one added, on a folder and on S3 that fails'
	@echo 'make jobs        submit, follow, stop and resume on a Ray head of its own'
	@echo 'make tune-check  compare what `mit-build tune` foretells with runs, on the finished workspace $(WORKSPACE)'
	@echo 'make docs        the docs site in build/site, to be opened from disk'
	@echo 'make lock        resolve constraints.txt and constraints-paper.txt anew (needs uv)'
	@echo 'make clean       remove both environments'

demo: $(VENV)/.installed
	$(VENV)/bin/mit-build run --stage all --workspace $(WORKSPACE)
	@echo
	@echo 'dataset:  $(WORKSPACE)/dataset   (start with README.md, the dataset card)'
	@echo 'report:   $(WORKSPACE)/report/index.html   (contact sheets and overlay videos lie beside it)'
	@echo 'your own: $(VENV)/bin/mit-build run --stage all --workspace NAME VIDEO...'

quick: lint types
	$(VENV)/bin/pytest -q -n $(WORKERS) --dist loadfile -m 'not slow'

test: $(VENV)/.installed
	$(VENV)/bin/pytest -n $(WORKERS) --dist loadfile --cov

# Not once more where neither numpy nor torch matters: the engine, the driver, storage, commands, the browser, the web.
SAME = faults web e2e/test_terminal.py export/test_rebuild.py $(addprefix test_,$(addsuffix .py, \
	cli damage deploy docs download duplicates engine forecast guardian hints hosts lease ledger_model ledger_scale \
	listing logins memory observe playlists plugins preview program report_page retries review_page runner \
	runner_flow s3 scheduling schema_docs session settings_book source_lists sources submit takedown tombstones \
	waiting why workspace))

test-paper: $(PAPER_VENV)/.installed
	$(PAPER_VENV)/bin/pytest -n $(WORKERS) --dist loadfile $(SAME:%=--ignore tests/%)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell

types: $(VENV)/.installed
	$(VENV)/bin/mypy

bench: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/run.py

bench-ledger: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/ledger_scale.py

bench-scheduling: $(VENV)/.installed
	PYTHONPATH=tests $(VENV)/bin/python benchmarks/scheduling.py pipeline
	PYTHONPATH=tests $(VENV)/bin/python benchmarks/scheduling.py workers
	PYTHONPATH=tests $(VENV)/bin/python benchmarks/scheduling.py small

bench-forecast: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/forecast.py

bench-gpu: $(PAPER_VENV)/.installed
	$(PAPER_VENV)/bin/python benchmarks/gpu.py

bench-report: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/report_scale.py

kills: $(VENV)/.installed
	$(VENV)/bin/python tests/faults/kills.py --fakes --engine serial --kills 110 --seed 1
	$(VENV)/bin/python tests/faults/kills.py --fakes --engine ray --kills 39 --seed 2
	$(VENV)/bin/python tests/faults/kills.py --engine ray --kills 60 --seed 3

soak: $(VENV)/.installed
	$(VENV)/bin/python tests/faults/soak.py

nasty: $(VENV)/.installed
	$(VENV)/bin/python tests/faults/nasty_media.py
	$(VENV)/bin/python tests/faults/nasty_labels.py

sync-matrix: $(VENV)/.installed
	$(VENV)/bin/python tests/sync_matrix.py

cases: $(VENV)/.installed
	PYTHONPATH=. $(VENV)/bin/python tests/case_labels.py

web-run: $(VENV)/.installed
	$(VENV)/bin/python tests/faults/web_run.py

cluster: $(VENV)/.installed
	$(VENV)/bin/python tests/faults/cluster.py
	$(VENV)/bin/python tests/faults/cluster.py --s3
	$(VENV)/bin/python tests/faults/cluster.py --real --s3

jobs: $(VENV)/.installed
	$(VENV)/bin/python tests/faults/jobs.py

tune-check: $(VENV)/.installed
	$(VENV)/bin/python tests/e2e/tune_check.py $(WORKSPACE)

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict -f docs/site/mkdocs.yml

# The locks list everything, so pip must not resolve: mediapipe and scenedetect name builds of OpenCV that need libGL.
$(VENV)/.installed: constraints.txt pyproject.toml
	$(call make-venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet --no-deps -r constraints.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# torch comes in a build per kind of machine; pip takes the one it is set up for. It comes first, as pip would complain
# of what the lock leaves out.
$(PAPER_VENV)/.installed: constraints-paper.txt pyproject.toml
	$(call make-venv,$(PAPER_VENV))
	$(PAPER_VENV)/bin/python -m pip install --quiet -c constraints-paper.txt torch==2.13.0
	$(PAPER_VENV)/bin/python -m pip install --quiet --no-deps -r constraints-paper.txt
	$(PAPER_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# An environment that is there keeps its interpreter; `make clean` is the way to another one.
define make-venv
	@$(or $(PYTHON),false) -c '$(COVERED)' || \
		{ echo 'mit-builder needs Python 3.10, 3.11 or 3.12 here: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@test -x $(1)/bin/pip || $(PYTHON) -m venv $(1) || \
		{ echo 'this Python cannot make environments: install its venv package (Debian: python3-venv)' >&2; exit 1; }
	@echo 'installing into $(1), about a minute or two: 1-3 GB ...'
endef

# uv marks each line with the environments of [tool.uv]; only the marks that tell Pythons apart are kept.
define lock-into
	$(UV) pip compile --quiet --universal --python-version 3.10 --upgrade --no-annotate --no-header \
		--extra $(2) --extra dev --group headless --output-file $(1).uv pyproject.toml
	{ echo '# Every package of the $(2) and dev extras, by `make lock`. Install with: pip install --no-deps -r $(1)'; \
		sed -E -e "s/ and (platform_machine == 'x86_64'|sys_platform == 'linux')//g" \
			-e "s/ and python_full_version < '3.13'//; s/python_full_version < '3.13' and //" \
			-e "s/ ; python_full_version < '3.13'//" $(1).uv; } > $(1)
	rm $(1).uv
endef

lock:
	$(call lock-into,constraints.txt,embedded)
	$(call lock-into,constraints-paper.txt,paper)

clean:
	rm -rf $(VENV) $(PAPER_VENV)
