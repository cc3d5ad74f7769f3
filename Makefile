# make lab: JupyterLab at the first notebook. make test: every test. make soak: damage and faults at random, an hour at most. make mutants: does a test notice each small change, hours. make demo: mended cats in demo/. make live: the page that mends, in live/. make site: the course as pages in
# site/. make student: the lessons without solutions in student/; make course: an nbgrader course in course/. All set up .venv first.
PYTHON ?= python3
PORT ?= 8888
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard nbs/*.ipynb nbs/appendix/*.ipynb))
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824  # glibc holds freed tensors for the next: a tenth less time
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
# The versions that all of this was tested with, for the Pythons that have such a list; others, and LOCK=, take the newest.
LOCK = $(wildcard tools/lock/python$(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null).txt)

.PHONY: lab test soak mutants demo live site student course notebooks export readme lock clean

lab: .venv/ready
	@$(BIN)/python -c "import socket; socket.socket().bind(('127.0.0.1', $(PORT)))" 2>/dev/null || { echo "port $(PORT) is busy: make lab PORT=$$(($(PORT) + 1))"; exit 1; }
	@echo "JupyterLab opens at nbs/00_whole_game.ipynb; Ctrl-C twice stops it"
	@$(BIN)/jupyter lab --port $(PORT) --ServerApp.port_retries=0 $(ROOT) nbs/00_whole_game.ipynb

test: .venv/ready
	@echo "every notebook through nbdev_test and all of tests/, a file on each core; then what measures time"
	@$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not alone and not soak"
	@$(BIN)/python -m pytest -m alone $$(grep -l "mark.alone" tests/*.py)
	@$(BIN)/ruff check --quiet .

soak: .venv/ready
	@MASKGIT_NB_SOAK=1 OMP_NUM_THREADS=1 timeout 3600 $(BIN)/python -m pytest tests/test_fuzz.py tests/test_properties.py tests/test_faults.py \
		tests/test_live.py::test_whole_runs_by_webgpu_are_those_of_python tests/test_cli.py::test_the_labs_747_pictures_through_one_command \
		tests/test_fid.py::test_the_same_number_as_pytorch_fids_command_line

mutants: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[mutation]"
	@rm -f build/mutants.jsonl build/mutants_tests.json
	@OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py

demo: .venv/ready
	@$(BIN)/maskgit-nb demo --out demo --refine

live: .venv/ready
	@$(BIN)/python tools/live_page.py

site: .venv/ready
	@$(BIN)/python tools/site/build.py

student: .venv/ready
	@$(BIN)/python tools/student.py --out student $(NOTEBOOKS)

course: .venv/ready
	@$(BIN)/python tools/student.py --out student --course course $(NOTEBOOKS)

# Re-run all notebooks in order and leave them as they are committed: with outputs, without ids and widget state.
notebooks: .venv/ready
	@$(BIN)/maskgit-nb demo --out demo --refine && mkdir -p nbs/figures && cp demo/film.png nbs/figures/mended.png
	@$(BIN)/python tools/draw.py
	@$(BIN)/python tools/run_notebooks.py $(NOTEBOOKS)
	@$(MAKE) --no-print-directory export

export: .venv/ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_export
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_clean
	@$(BIN)/python tools/addresses.py $(NOTEBOOKS)
	@$(BIN)/python tools/tidy_notebooks.py $(NOTEBOOKS)
	@$(MAKE) --no-print-directory readme

readme: .venv/ready
	@$(BIN)/python tools/make_readme.py

# Keep the versions in .venv for this Python. Newer ones: make clean, then make lock LOCK=, then make test.
# What torch's CUDA build brings is left to torch, so that the list serves its CPU build too.
lock: .venv/ready
	@mkdir -p tools/lock
	@$(BIN)/python -m pip freeze --exclude-editable | grep -vE "^(nvidia|cuda|triton)" \
	  > tools/lock/python$$($(BIN)/python -c "import sys; print('%d.%d' % sys.version_info[:2])").txt
	@touch .venv/ready

.venv/ready: settings.ini setup.py pyproject.toml $(wildcard tools/lock/*)
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null || { echo "Python 3.10 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c "import shutil, sys; sys.exit(shutil.disk_usage('.').free < 9e9)" || { echo "9 GB of free disk space are needed for the packages (torch brings its CUDA libraries)"; exit 1; }
	@echo "setting up .venv (once; a few minutes, most of them for torch)"
	@$(PYTHON) -m venv .venv || { echo "cannot make .venv: on Debian, apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" $(addprefix --constraint ,$(LOCK)) || { echo "the packages could not be installed: see the lines above"; exit 1; }
	@touch .venv/ready

clean:
	rm -rf .venv demo site build dist *.egg-info
