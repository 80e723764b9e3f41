# make learn   install, look around, open the first notebook
# make demo    the same without JupyterLab
# make test    every test and every notebook, on this machine's GPU or in Triton's interpreter

PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python
# one thread a test process: they share the cores
PYTEST  = OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto

.PHONY: learn demo test test-full lint bench clean

learn: demo
	@$(VENV)/bin/jupyter lab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/start_here.ipynb \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

demo: $(VENV)/installed
	@$(RUN) -m course doctor
	@$(RUN) -m course demo

test: $(VENV)/installed lint
	$(PYTEST) --dist worksteal tests
	$(PYTEST) --dist loadfile --nbval-lax notebooks

# compiles ahead of time what test leaves out, and every autotuner configuration
test-full: $(VENV)/installed lint
	$(PYTEST) --dist worksteal -m "" tests
	$(PYTEST) --dist loadfile --nbval-lax notebooks

lint: $(VENV)/installed
	$(RUN) -m ruff check .

bench: $(VENV)/installed
	$(RUN) -m course bench kernels
	$(RUN) -m course bench models

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache

# the stamp is written last: an install that was interrupted is taken up again
$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "course needs Python 3.11 or later, got $$($(PYTHON) --version): make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "python3 -m venv failed: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): about 5 GB with PyTorch's CUDA libraries, a few minutes."
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@
