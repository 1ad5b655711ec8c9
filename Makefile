# Every target sets itself up on a machine that has only make and Python 3.11 or newer.
# All paths are relative, so that the repository may stand in a folder with a space in its name.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/ci.txt
TESTS ?= tests utils

PYTHON_IS_NEW_ENOUGH = $(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
  "The course needs Python 3.11 or newer, $(PYTHON) is %d.%d: name another one, as in PYTHON=python3.12" % v[:2])'

# The stamp is named after what the files say: an environment is used again until one of them changes.
INSTALLED = $(VENV)/installed-$(shell cat requirements.txt requirements-dev.txt $(CONSTRAINTS) | cksum | cut -d " " -f 1)

# The site is built in an environment of its own, out of what `make course` left behind.
SITE_VENV ?= .venv-site
COURSE ?= artifacts/course
SITE ?= artifacts/site

.PHONY: help course test site site-environment format badges clean

help:
	@echo "make course [ONLY=05]                   run the notebooks without a GPU or the internet, into artifacts/course"
	@echo "make test [TESTS=tests/data]             run the tests, or some of them"
	@echo "make site                               what make course left behind as pages to read, into artifacts/site"
	@echo "make format                             format and lint code and notebooks"
	@echo "make badges [REPO=owner/name REF=tag]   write your repository into every badge and clone line"
	@echo "make clean                              remove the environments and what the tests and make course wrote"

course: $(INSTALLED)
	$(VENV)/bin/python -m utils.practice.course $(if $(ONLY),--only $(ONLY))

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(TESTS)

site: site-environment
	@test -f "$(COURSE)/report.json" || test "$(COURSE)" != artifacts/course || $(MAKE) course
	@$(SITE_VENV)/bin/python site/build.py --course "$(COURSE)" --output "$(SITE)"

site-environment: $(SITE_VENV)/installed-site.txt

format: $(INSTALLED)
	$(VENV)/bin/python -m ruff format .
	$(VENV)/bin/python -m ruff check --fix .

badges:
	@$(PYTHON_IS_NEW_ENOUGH)
	$(PYTHON) -m tools.badges $(REPO) $(if $(REF),--ref $(REF))

# artifacts/mix, artifacts/run and artifacts/merged stay: they may be hours of training.
clean:
	rm -rf .venv .venv-colab .venv-site .pytest_cache .ruff_cache artifacts/course artifacts/site artifacts/screenshots
	find utils tests tools -name __pycache__ -prune -exec rm -rf {} +

# pip shows what it downloads on a terminal; elsewhere its hundreds of lines would hide all others.
define install
	@echo "Step $(2)"; [ -t 1 ] || quiet=--quiet; began=$$(date +%s); \
	  $(1)/bin/python -m pip install --disable-pip-version-check $$quiet $(3) && \
	  echo "$$(ls -d $(1)/lib/*/site-packages/*.dist-info | wc -l) packages, $$(du -sh $(1) | cut -f 1) on disk," \
	    "after $$(($$(date +%s) - began)) seconds"
endef

# The stamp is written last, so that an install that failed is tried again.
$(INSTALLED):
	@$(PYTHON_IS_NEW_ENOUGH)
	@echo "Installing $(CONSTRAINTS) into $(VENV), once: 2.7 GB with PyTorch for CPUs, in about 3 minutes"
	@$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/installed-*
	$(call install,$(VENV),1 of 2: what the notebooks need,-r requirements.txt -c $(CONSTRAINTS))
	$(call install,$(VENV),2 of 2: what runs and tests them,-r requirements-dev.txt -c $(CONSTRAINTS))
	@touch $@

$(SITE_VENV)/installed-site.txt: constraints/site.txt
	@$(PYTHON_IS_NEW_ENOUGH)
	@echo "Installing $< into $(SITE_VENV), once; about a minute"
	@$(PYTHON) -m venv $(SITE_VENV)
	$(call install,$(SITE_VENV),1 of 1: what builds the site,-r $<)
	@touch $@
