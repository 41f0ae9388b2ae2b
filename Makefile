# Everything runs in .venv, which these targets make themselves. PYTHON names another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported, which most never are.
PIP := --quiet --disable-pip-version-check --no-compile

# Three more than there are processors, since many tests wait for servers.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 3)')

# Tests start many processes, which compile every module again wherever this is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check collected unit redis slow cluster model servers stack node lowest lowest-cluster proxy compat libraries compat-quick redis-suite clients bench fuzz fuzz-parser sessions runs hostile audit format sync \
	golden docs site clean

demo: $(VENV)/.run
	@$(BIN)/keyleash demo

# Tests are compiled meanwhile, once for all workers; the checks keep one processor busy.
test: $(VENV)/.dev
	$(MAKE) --jobs=2 check collected
	$(MAKE) unit

collected: $(VENV)/.dev
	@-$(BIN)/pytest --collect-only -qq > /dev/null

check: $(VENV)/.dev
	$(BIN)/ruff check loader tests benchmarks tools deploy
	$(BIN)/ruff format --check loader tests benchmarks tools deploy
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/lint-imports --no-cache tools/circles.toml
	$(BIN)/python -m tools.check_language
	$(BIN)/python -m tools.async_to_sync --check
	$(BIN)/python -m tools.size_budget --check

unit: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist worksteal
	$(BIN)/keyleash test examples/agents.test.yaml examples/jobs.test.yaml examples/memory.test.yaml --min-coverage 100

# The tests of `make test` that use redis-server, where that was installed later.
redis: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -k "redis-7 or redis-8 or stack or tls or readme"

# Tests that take long and rarely fail; those of Python on the second server; property tests with
# many new examples (`make test` has a third); and the site.
slow: $(VENV)/.dev
	KEYLEASH_THOROUGH=1 $(BIN)/pytest -n auto -m slow
	KEYLEASH_THOROUGH=4 $(BIN)/pytest -n auto tests/proofs/property tests/policy/test_keysets.py
	$(MAKE) site

# The guard's tests on clusters in place of servers: of one node and of three, where each grant has
# one unit, or 100. Prints what was left out, and why.
cluster: $(VENV)/.dev
	for nodes in 1 3; do for lease in 1 100; do \
		KEYLEASH_CLUSTER=$$nodes KEYLEASH_LEASE=$$lease $(BIN)/pytest -n auto tests/guard || exit 1; \
	done; done

# All worlds of the model of leases, and many random walks: a few minutes.
model: $(VENV)/.dev
	$(BIN)/pytest -n auto -m '' tests/proofs/model

# All tests on every redis-server and valkey-server on PATH, and those of modules; `make test` takes
# the first.
servers: $(VENV)/.dev
	KEYLEASH_SERVERS=all $(BIN)/pytest -n auto -m ''

# Tests on redis-server 8.0 with the modules of Redis Stack: Linux, x86-64.
stack: $(VENV)/.dev
	$(BIN)/pytest -n auto -m stack

# Tests with libraries of Node.js, which npm installs.
node: $(VENV)/.dev $(VENV)/.node
	$(BIN)/pytest -n auto -m node

# The client, with the lowest redis-py that pyproject.toml allows: about a minute; with all tests of
# clients of clusters (lowest-cluster) two more.
LOWEST := $(shell sed -n 's/.*"redis\[hiredis\]>=\([0-9.]*\),.*/\1/p' pyproject.toml)
lowest: $(VENV)/.lowest
	$(VENV)/lowest/bin/python -m pytest -n auto tests/client/test_asyncio.py tests/client/test_connection.py \
		tests/client/test_subscriptions.py \
		tests/client/test_connection_kinds.py tests/client/test_pipeline.py tests/client/test_recovery.py \
		tests/client/test_shortcuts.py tests/client/test_sync.py tests/client/test_locks.py \
		tests/cluster/test_client.py::test_calls_go_to_the_nodes_of_their_keys \
		tests/cluster/test_moving_slots.py::test_no_call_is_lost_when_slots_are_read_again -k "not redis-8 and not valkey-8"

lowest-cluster: $(VENV)/.lowest
	$(VENV)/lowest/bin/python -m pytest -n auto $(addprefix tests/cluster/test_,client.py exact_clients.py moving_slots.py once.py) -k "not redis-8 and not valkey-8"

# Guarded connections behind a proxy that loses, delays, cuts and fakes replies, with a new seed,
# which it prints: about five minutes. KEYLEASH_SEED repeats a run.
ROUNDS ?= 1000
proxy: $(VENV)/.dev
	KEYLEASH_ROUNDS=$(ROUNDS) $(BIN)/pytest -s tests/client/test_proxy.py tests/gateway/test_proxy.py

# redis-py's own tests, over guarded connections and by a gateway's URL, and libraries built on it:
# about a quarter of an hour. Those of agent memory need redis-server 8.0 on PATH, on Linux and x86-64.
# Writes docs/reference/compatibility.md.
COMPAT := PYTHONPATH=tests $(VENV)/compat/bin/python -m
# What libraries leave open is no error of these tests.
LIBRARIES := pytest -W default::ResourceWarning tests/compat
compat: $(VENV)/.compat-agents
	$(COMPAT) compat.redis_py.suite
	KEYLEASH_COMPAT_PAGE=docs/reference/compatibility.md $(COMPAT) $(LIBRARIES) -m ''

# Libraries by one scheme of URLs, without those of agents: less than a minute. With redis-py's tests
# over guarded connections alone, for one protocol (compat-quick), two more.
libraries: $(VENV)/.compat
	$(COMPAT) $(LIBRARIES) -n auto

compat-quick: libraries
	$(COMPAT) compat.redis_py.suite --quick

# Redis's own tests, directly and through the gateway: about ten minutes. apt-get downloads them from
# Debian's source package, for the redis-server on PATH; they need tclsh. UNITS are some of them.
# Writes docs/reference/redis-suite.md.
redis-suite: $(VENV)/.compat
	$(COMPAT) compat.redis_suite.suite $(UNITS)

# Clients and libraries of all languages, by a URL alone through the gateway: about two minutes.
# Writes docs/reference/gateway-clients.md.
clients: $(VENV)/.compat $(VENV)/.lowest $(VENV)/.mcp $(VENV)/.node
	KEYLEASH_CLIENTS_PAGE=docs/reference/gateway-clients.md \
		$(COMPAT) pytest -m '' tests/gateway/test_libraries.py

# QUICK=1 takes less than a minute and shows that it works; ARGS passes other options on.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

# Raw calls of guards, for so long. POLICY is everything or example; ARGS passes other options on.
SECONDS ?= 60
POLICY ?= everything
fuzz: $(VENV)/.fuzz
	PYTHONPATH=tests $(BIN)/python -m proofs.fuzz.campaign --seconds $(SECONDS) --policy $(POLICY) $(ARGS)

# The gateway's parsers, for so long.
fuzz-parser: $(VENV)/.fuzz
	PYTHONPATH=tests $(BIN)/python -m proofs.fuzz.parser --seconds $(SECONDS) $(ARGS)

# Random sessions through the gateway, in both protocols, on every server of the default suite, with
# a new seed, which a failure prints: ten minutes. KEYLEASH_SEED repeats a run.
SESSIONS ?= 20000
sessions: $(VENV)/.dev
	KEYLEASH_SESSIONS=$(SESSIONS) $(BIN)/pytest -n auto tests/gateway/test_sessions.py

# Random batches as runs and command by command, which must not differ. ARGS passes other options
# on: --server redis-8.0.2, --seed N.
BATCHES ?= 20000
runs: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m proofs.fuzz.runs --batches $(BATCHES) $(ARGS)

# Calls and batches that ask for as much as they can, on keys of 10 MB, for so long. ARGS passes
# other options on: --server redis-8.0.2, --modules, --memory, --commands HGET,HMGET, --seed N.
hostile: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m proofs.hostile.campaign --seconds $(SECONDS) $(ARGS)

# Known vulnerabilities of what a user of keyleash installs; asks an advisory service. ARGS
# passes other options on, such as --vulnerability-service osv.
audit: $(VENV)/.audit
	$(VENV)/audit/bin/pip-audit --strict $(ARGS) -r $(VENV)/audit/requirements.txt

format: $(VENV)/.dev
	$(BIN)/ruff check --fix loader tests benchmarks tools deploy
	$(BIN)/ruff format loader tests benchmarks tools deploy

# Modules that are generated from their asyncio sources.
sync: $(VENV)/.dev
	$(BIN)/python -m tools.async_to_sync

golden: $(VENV)/.dev
	UPDATE_GOLDEN=1 $(BIN)/pytest tests/compiler tests/pins/face tests/guard/test_footprint.py

docs: $(VENV)/.docs
	PYTHONPATH=tests $(BIN)/python -m tools.command_page docs/reference/commands.md
	$(BIN)/keyleash schema > docs/reference/policy.schema.json
	PYTHONPATH=tests $(BIN)/python -m proofs.redteam.page docs/explanation/threat-model.md
	$(BIN)/python -m tools.demo_picture docs/images/demo.svg
	$(MKDOCS)

# Builds the pages of docs/ as they are, then follows every link of the site.
site: $(VENV)/.docs
	$(MKDOCS)
	KEYLEASH_SITE=site $(BIN)/pytest tests/pins/docs/test_site.py

MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .bench .compat .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "keyleash needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install $(PIP) --editable '.[cli,server]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install $(PIP) --editable '.[dev]'
	@touch $(VENV)/.run $@

# An environment that has what $(VENV) has, but for what is installed over it.
define over-dev
	$(PYTHON) -m venv $(VENV)/$(1)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(VENV)/$(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dev.pth"
	$(VENV)/$(1)/bin/python -m pip install $(PIP) $(2)
	@touch $@
endef

$(VENV)/.lowest: $(VENV)/.dev
	$(call over-dev,lowest,'redis==$(LOWEST)')

# Its libraries need many others, which $(VENV) is not to have.
$(VENV)/.compat: $(VENV)/.dev
	$(call over-dev,compat,--no-build-isolation --editable '.[compat]')

# Two of them name an older redis-py, or RedisVL, with which they were made; they are installed
# without it.
$(VENV)/.compat-agents: $(VENV)/.compat
	$(VENV)/compat/bin/python -m pip install $(PIP) --no-build-isolation --editable '.[compat-agents]'
	$(VENV)/compat/bin/python -m pip install $(PIP) --no-deps 'llama-index-storage-kvstore-redis>=0.6,<1' \
		'llama-index-vector-stores-redis>=0.9,<1'
	@touch $@

# It needs none of keyleash.
$(VENV)/.mcp: $(VENV)/.python
	$(PYTHON) -m venv $(VENV)/mcp
	$(VENV)/mcp/bin/python -m pip install $(PIP) 'redis-mcp-server>=0.5,<1'
	@touch $@

# Libraries of Node.js. Without them their tests are skipped.
$(VENV)/.node: $(VENV)/.python tests/gateway/clients/package.json
	mkdir -p $(VENV)/node
	cp tests/gateway/clients/package.json $(VENV)/node
	npm install --prefix $(VENV)/node --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(BIN)/python -m pip install $(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python -m pip install $(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install $(PIP) --editable '.[fuzz]'
	@touch $@

# In an environment of its own: the tool's own dependencies are not to be audited.
$(VENV)/.audit: $(VENV)/.python
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install $(PIP) 'pip-audit>=2.9,<3'
	echo '.[cli,mcp,server,testing]' > $(VENV)/audit/requirements.txt
	@touch $@
