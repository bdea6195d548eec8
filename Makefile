# The Neural Tangent Kernel, an executable book.  `make help` lists the targets.

# The Python to use: the one .venv was made with, else the first that is 3.11 or
# 3.12, else any (.ci/environment.py then says what is needed).
RIGHT = import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell \
	for python in "$$(sed -n 's/^executable = //p' .venv/pyvenv.cfg 2>&-)" \
	    python3.11 python3.12 python3 python; do \
	  "$$python" -c '$(RIGHT)' >/dev/null 2>&1 && echo "$$python" && exit; \
	done; \
	for python in python3 python python2; do \
	  "$$python" -c '' >/dev/null 2>&1 && echo "$$python" && exit; \
	done)
PORT ?= 8000
NOTEBOOKS = $(wildcard chapters/*.ipynb)

# The book's numbers are those of two threads, on any machine. A thread that waits
# for the other sleeps: by default it spins, which on a busy machine is many times slower.
OMP_NUM_THREADS ?= 2
OMP_WAIT_POLICY ?= passive
PYTHONHASHSEED = 0
JUPYTER_PREFER_ENV_PATH = 1
PYDEVD_DISABLE_FILE_VALIDATION = 1
export OMP_NUM_THREADS OMP_WAIT_POLICY PYTHONHASHSEED JUPYTER_PREFER_ENV_PATH
export PYDEVD_DISABLE_FILE_VALIDATION
ifneq ($(origin TORCH_INDEX),undefined)
export TORCH_INDEX
endif

PY = .venv/bin/python
# --all: a page that a run before has read would keep its warnings to itself.
BUILD = .venv/bin/jupyter-book build . -W -n --keep-going --all
NBVAL = --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg -n 2 --dist loadscope

.PHONY: help environment book serve pdf test binder links workflows bench beyond execute clean distclean

help:
	@echo "make book         make the environment, execute the chapters, render the book"
	@echo "make serve        show the book on http://127.0.0.1:$(PORT)/  (another: PORT=8001)"
	@echo "make pdf          the whole book as one PDF (needs Chromium)"
	@echo "make test         build the book with warnings as errors, unit tests, and every"
	@echo "                  chapter against its stored outputs"
	@echo "make binder       what Binder does, done here: a fresh environment, a server, every chapter"
	@echo "make links        ask every address that the book links to"
	@echo "make workflows    lint the GitHub workflows (needs actionlint, or docker)"
	@echo "make execute      execute the chapters and store their outputs in them"
	@echo "make bench        time the package against others, and store the table that the book shows"
	@echo "                  (ten minutes on an idle machine; GROUPS='\"MLP\"' measures one group again)"
	@echo "make beyond       measure the large kernels on 1 and 2 workers (half an hour, 6 GB of disk);"
	@echo "                  ROWS=50000:2 measures one of them again, ROWS=complete whole solutions"
	@echo "make environment  make or renew the environment, .venv (the others do it first)"
	@echo "make clean        remove what the build made; make distclean: and .venv"
	@echo
	@echo "PYTHON=python3.12   the Python to make the environment with (3.11 or 3.12)"
	@echo "TORCH_INDEX=cu130   on Linux, the build of torch (cpu by default)"

environment:
	@"$(PYTHON)" -c '' >/dev/null 2>&1 || { echo "There is no working Python" \
	  "$(if $(PYTHON),called $(PYTHON),here). Install Python 3.11 or 3.12, or name the" \
	  "one you have, as in: make book PYTHON=/usr/bin/python3.11" >&2; exit 1; }
	@"$(PYTHON)" .ci/environment.py

book: environment
	@$(BUILD)
	@echo "The book is ready. Open $(CURDIR)/_build/html/index.html, or run: make serve"

serve: environment
	@test -f _build/html/index.html || $(MAKE) --no-print-directory book
	@$(PY) -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null \
	  || { echo "Port $(PORT) is taken. Choose another: make serve PORT=8001" >&2; exit 1; }
	@echo "The book is at http://127.0.0.1:$(PORT)/ (Ctrl-C ends it)"
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

pdf: book
	@$(PY) .ci/pdf.py

# All parts run, and the last lines say which of them failed. The book comes first, as some unit
# tests read its pages; it is made from the stored outputs, which the last part holds to new ones.
# The pages are tested in a browser by themselves, as frames are timed there.
test: environment
	@failed=; \
	echo "== The book, warnings as errors"; \
	STORED_OUTPUTS=1 $(BUILD) || failed="$$failed, book"; \
	echo "== Unit tests"; \
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --cov --cov-report=term:skip-covered \
	  --ignore=tests/browser --ignore=tests/binder || failed="$$failed, unit tests"; \
	echo "== The pages in a browser"; \
	$(PY) -m pytest tests/browser || failed="$$failed, pages"; \
	echo "== Chapters against their stored outputs"; \
	$(PY) -m pytest $(NBVAL) chapters || failed="$$failed, chapters"; \
	if [ -n "$$failed" ]; then echo "FAILED: $${failed#, }" >&2; exit 1; fi; \
	echo "All tests passed."

binder: environment
	@BINDER=1 $(PY) -m pytest -s tests/binder

links: environment
	@STORED_OUTPUTS=1 $(BUILD) --builder linkcheck

workflows:
	@if command -v actionlint >/dev/null; then actionlint; \
	else docker run --rm -v "$(CURDIR):/book:ro" -w /book rhysd/actionlint:1.7.7; fi

# Without OMP_WAIT_POLICY, as most users have it: threads spin a while, which wants an idle machine.
# GROUPS='"MLP" "analytic, float32"' measures these again and keeps the other rows.
bench: environment
	@env -u OMP_WAIT_POLICY PYTHONPATH=. \
	  $(PY) tests/benchmarks/bench_speed.py tests/benchmarks/results.json $(GROUPS)

# In float32, with a store in TMPDIR; each row is stored when it is measured.
beyond: environment
	@OMP_NUM_THREADS=1 PYTHONPATH=. $(PY) tests/benchmarks/beyond.py tests/benchmarks/beyond.json $(ROWS)

execute: environment
	@$(PY) -m jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False $(NOTEBOOKS)

clean:
	rm -rf _build

distclean: clean
	rm -rf .venv build ntkutils.egg-info
