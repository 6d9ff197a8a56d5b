# Orbiter Fleet. `make help` lists what there is; `make demo` and `make test` need nothing installed beforehand.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# This checkout as orbiter.fleet, by a link that `make setup` makes. The others come with the ansible package.
# (`make install` installs where ansible looks without that.)
COLLECTIONS_OF_THE_USER := $(ANSIBLE_COLLECTIONS_PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo demo-down: export ANSIBLE_INVENTORY := inventories/demo

.PHONY: demo
demo: ## Bring up a fleet in a box and run 100 agent tasks on it
	@tools/prereqs.sh python redis engine
	ansible-playbook playbooks/demo_up.yml
	ansible-playbook site.yml
	@tools/demo.sh

.PHONY: demo-down
demo-down: ## Remove the fleet in a box
	@tools/prereqs.sh python engine
	ansible-playbook playbooks/demo_down.yml

.PHONY: setup
setup: ## Install what development needs: .venv, redis-server, shellcheck, luacheck
	@tools/prereqs.sh python redis lint

.PHONY: test
test: ## Run every test: lint, unit, integration, molecule
	@tools/verdicts.sh lint test-unit test-integration test-molecule

.PHONY: lint
lint: setup ## Check style, types, shell and Lua scripts, workflows
	ruff check .
	ruff format --check .
	cd worker && mypy src benchmarks chaos
	cd worker && lint-imports
	python tools/picture.py --check
	python tools/rights.py --check
	python tools/monitoring.py --check
	python tools/reference.py --check
	python tools/guide_tests.py --check
	git ls-files '*.sh' .ci/run | xargs shellcheck --external-sources
	@tools/luacheck.sh
	actionlint
	yamllint --strict .
	cd .cache/collections/ansible_collections/orbiter/fleet && ansible-lint --offline
	@tools/ansible_test.sh sanity
	python tools/docs_site.py

.PHONY: test-unit
test-unit: setup ## Test the worker's parts, without a server, and the modules with one of their own
	@tools/prereqs.sh promtool
	@# Ansible in one process each, mostly: two files at once on two cores; tests of one file may build on each other.
	(cd worker && $(CURDIR)/tools/pytest.sh tests/unit -n 2 --dist loadfile); first=$$?; \
	  tools/pytest.sh tests/unit -n 2 --dist loadfile && exit $$first

.PHONY: test-integration
test-integration: setup ## Test the worker against a real Redis of its own
	@tools/prereqs.sh promtool browser tmux
	@# Most of it is waiting: four at once on two cores. What measures time follows alone.
	cd worker && { $(CURDIR)/tools/pytest.sh tests/integration -m "not alone and not nightly" -n 4 --dist worksteal; first=$$?; \
	  $(CURDIR)/tools/pytest.sh tests/integration -m "alone and not nightly" && exit $$first; }

.PHONY: test-molecule
test-molecule: ## Test the roles on hosts of their own, systemd in containers (SCENARIO=drain for one)
	@tools/prereqs.sh python redis engine
	@tools/molecule.sh $(SCENARIO)

.PHONY: test-nightly
test-nightly: ## Test what takes too long for every day: faults of 20 seeds and other topologies, the roles' slow tests, a virtual host
	@tools/prereqs.sh python redis engine vm
	@failed=0; [ -n "$(SCENARIO)" ] || $(MAKE) --no-print-directory chaos SEED=1-20 DURATION=120 || failed=1; \
	  for way in "--topology sentinel" "--topology cluster" "--topology temporal" "--faults 'shift clock,kill worker,reset'"; do \
	    [ -n "$(SCENARIO)" ] || $(MAKE) --no-print-directory chaos SEED=1-2 DURATION=120 CHAOS="$$way" || failed=1; done; \
	  [ -n "$(SCENARIO)" ] || (cd worker && python -m chaos.machine --examples 3000) || failed=1; \
	  [ -n "$(SCENARIO)" ] || $(MAKE) --no-print-directory mutations || failed=1; \
	  [ -n "$(SCENARIO)" ] || pytest tests/unit -m nightly || failed=1; \
	  [ -n "$(SCENARIO)" ] || tools/ansible_test.sh units || failed=1; \
	  [ -n "$(SCENARIO)" ] || (cd worker && pytest tests/integration -m nightly) || failed=1; \
	  [ -n "$(SCENARIO)" ] || $(MAKE) --no-print-directory test-servers || failed=1; \
	  NIGHTLY=1 PYTEST_ADDOPTS="-m ''" tools/molecule.sh $(SCENARIO) || failed=1; \
	  [ -n "$(SCENARIO)" ] || $(MAKE) --no-print-directory test-vm || failed=1; exit $$failed

.PHONY: test-servers
test-servers: setup ## Run the integration tests on Redis 7.0, Redis 8.0 and Valkey 8.1 of Debian (WORDS="tests/integration/test_cli.py" for some)
	@tools/prereqs.sh promtool browser tmux servers
	python tools/servers.py $(WORDS)

.PHONY: test-vm
test-vm: ## Test executor processes in cgroups, on a virtual host with a kernel of its own (emulated: half an hour)
	@tools/prereqs.sh python vm
	pytest tests/vm

.PHONY: bench
bench: setup ## Measure ours beside bare redis-py (BENCH="drain --quick" for a part); JSON in .cache/bench.json
	cd worker && python -m benchmarks --json "$(CURDIR)/.cache/bench.json" $(BENCH)

.PHONY: chaos
chaos: setup ## Throw the faults of a seed at a fleet, and print what held (SEED=1-3 DURATION=60 CHAOS="--faults reset")
	cd worker && python -m chaos --seed "$(or $(SEED),1)" --duration "$(or $(DURATION),60)" \
	  --json "$(CURDIR)/.cache/chaos.json" $(CHAOS)

.PHONY: soak
soak: setup ## The same for hours, seed after seed (SEED=1 HOURS=2): memory, connections and keys stay flat
	cd worker && python -m chaos --seed "$(or $(SEED),1)" --hours "$(or $(HOURS),2)" --duration 1800 \
	  --json "$(CURDIR)/.cache/soak.json" $(CHAOS)

.PHONY: mutations
mutations: setup ## Put faults into the code itself, one at a time, and see that each is found (ONLY=settle for some)
	cd worker && python -m chaos.mutations --only "$(ONLY)"

.PHONY: bench-peers
bench-peers: setup ## Measure ours beside BullMQ, dramatiq, taskiq, huey, streaq and saq (needs Node.js; 20 to 40 minutes)
	tools/peers.sh .cache/peers
	cd worker && python -m benchmarks.peers "$(CURDIR)/.cache/peers" --json "$(CURDIR)/.cache/bench-peers.json" $(BENCH)

.PHONY: build
build: setup ## Build the collection for ansible-galaxy: dist/orbiter-fleet-VERSION.tar.gz
	tools/build.sh

.PHONY: install
install: ## Build the collection and install it where ansible looks for it, over what is there
	@ANSIBLE_COLLECTIONS_PATH='$(COLLECTIONS_OF_THE_USER)' tools/install.sh

.PHONY: release
release: setup ## Make a release, up to the push (VERSION=1.0.0 KEY=~/.ssh/orbiter-releases): commit, tag, dist/VERSION/
	@python tools/release.py release "$(VERSION)" --key "$(KEY)"

.PHONY: dist
dist: setup ## Build what is published of the release that is checked out: dist/VERSION/ (KEY=~/.ssh/orbiter-releases)
	@python tools/release.py dist "$(VERSION)" --key "$(KEY)"

.PHONY: image
image: ## Build the workers' image for this machine: orbiter-worker:TAG (TAG=1.0.0 BASE=python:3.12-slim)
	@tools/prereqs.sh python engine
	ansible-playbook playbooks/image.yml --inventory image, --extra-vars orbiter_worker_hosts=image \
	  --extra-vars '{"image_base": "$(or $(BASE),python:3.12-slim)", "image_extra_tags": ["$(or $(TAG),latest)"]}'

.PHONY: sbom
sbom: setup ## List what releases are made of (EXTRAS="otel openai" for others): CycloneDX, dist/sbom/
	@tools/sbom.sh $(EXTRAS)

.PHONY: rights
rights: setup ## Write what follows from the rights of Redis' users and the scripts: docs/redis-*.md, client_scripts.json
	python tools/rights.py

.PHONY: picture
picture: setup ## Draw the packages of the worker into docs/architecture.md
	python tools/picture.py

.PHONY: monitoring
monitoring: setup ## Write the rules and Grafana's dashboard of the role monitoring, from the worker's metrics
	python tools/monitoring.py

.PHONY: reference
reference: setup ## Write variables of the roles, options of the command and names of Python: docs/reference
	python tools/reference.py

.PHONY: guide-tests
guide-tests: setup ## Write which tests show each row of the guide, from the tests' marks: docs/guide-tests*.md
	python tools/guide_tests.py

.PHONY: docs
docs: setup ## Build the documentation's site, with every link checked: .cache/docs/site
	python tools/docs_site.py

.PHONY: screenshots
screenshots: setup ## Take the pictures of docs/dashboard.md anew, of a fleet under load (needs Chromium; a minute)
	@tools/prereqs.sh redis browser
	cd worker && python -m tests.screenshots "$(CURDIR)/docs/images"

.PHONY: lock
lock: setup ## Pin every dependency anew
	tools/lock.sh
