# Vicinal.  `make run` starts the whole suite on this repository's own text and asks it a question;
# `make test` installs what the tests need and runs them; `make help` lists the rest.
#
# One static library per folder; the link lines are the architecture (tests/tidy.py checks who
# includes whom).  BUILD and BIN may be set to keep several builds side by side.
BUILD    ?= build
BIN      ?= bin
CC       ?= gcc
OPT      ?= -O2
SANITIZE ?=
WERROR   ?=
PYTHON   ?= $(BUILD)/venv/bin/python
ifeq ($(origin CC),default)
CC       := gcc
endif

CPPFLAGS += -D_GNU_SOURCE -I. -I$(BUILD) -isystem /usr/include/postgresql
CFLAGS   += -std=c17 $(OPT) -g -fno-omit-frame-pointer -ffp-contract=off -pthread
CFLAGS   += -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS   += $(if $(WERROR),-Werror)
CFLAGS   += $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
LDFLAGS  += -pthread -Wl,--as-needed -Wl,-z,now $(if $(SANITIZE),-fsanitize=$(SANITIZE))
DEPFLAGS  = -MMD -MP

SYSTEM_LIBS := -lcivetweb -lcurl -ljansson -lsqlite3 -llmdb -lrdkafka -lhiredis -lpq -lzstd -lxxhash -lcrypto -lz -lm

SERVICES := router shard ingest replicator
BACKENDS := embedder wal cache meta store blob
LIB_DIRS := common/base common/model common/observe common/http $(BACKENDS:%=backends/%) engine \
            cluster $(SERVICES:%=services/%) cli tests/lib tests/sim

# folder -> library.  A program's main file stays out of its folder's library.
lib  = $(BUILD)/lib$(subst /,_,$(1)).a
objs = $(patsubst %.c,$(BUILD)/%.o,$(filter-out %/main.c %/sim_main.c,$(wildcard $(1)/*.c)))

# Outermost first: every library stands before those that it uses.
COMMON_LIBS  := $(call lib,common/http) $(call lib,common/observe) $(call lib,common/model) \
                $(call lib,common/base)
CLUSTER_LIBS := $(call lib,cluster) $(foreach b,$(BACKENDS),$(call lib,backends/$(b))) $(COMMON_LIBS)
ENGINE_LIBS  := $(call lib,engine) $(call lib,common/base)
TEST_LIBS    := $(call lib,tests/lib) $(foreach s,$(SERVICES),$(call lib,services/$(s))) \
                $(call lib,cli) $(call lib,engine) $(CLUSTER_LIBS)

BINARIES := $(SERVICES:%=$(BIN)/vicinal-%) $(BIN)/vicinal $(BIN)/engine-bench $(BIN)/wal-bench $(BIN)/log-bench

.PHONY: all help deps deps-test run test bench bench-engine bench-distributed bench-imports bench-fresh bench-recovery \
        bench-log format clean
all: $(BINARIES)

help:
	@echo "make            build into bin/"
	@echo "make run        start the suite, import text, ask (DOCS=dir ASK=question ONCE=1 LISTEN=host:port)"
	@echo "make test       install what the tests need, then everything that CI runs"
	@echo "make bench      the table of the README (DATA=folder with docs-100k.npy)"
	@echo "make bench-engine       the engine beside public libraries (SETS='--make 100000x384')"
	@echo "make bench-distributed  writes into Kafka, two regions, the cache in Redis"
	@echo "make bench-fresh        how soon what is written is found, and what it costs searches"
	@echo "make bench-recovery     a killed shard of a million vectors comes back"
	@echo "make bench-imports      imports from a file to durable, beside record by record"
	@echo "make bench-log          ingest's way into the log beside the bare Kafka producer"
	@echo "make nightly    long fuzzing, 100,000 simulation seeds, half an hour of faults, a long kill loop"
	@echo "make format     clang-format over all sources"

define library
$(call lib,$(1)): $(call objs,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	@$$(AR) rcs $$@ $$^
endef
$(foreach d,$(LIB_DIRS),$(eval $(call library,$(d))))

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	@echo "CC $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(DEPFLAGS) -c $< -o $@

define program
@mkdir -p $(@D)
@echo "LINK $@"
@$(CC) $(LDFLAGS) -o $@ $(1) $(SYSTEM_LIBS)
endef

$(BIN)/vicinal-shard: $(BUILD)/services/shard/main.o $(call lib,services/shard) $(call lib,engine) $(CLUSTER_LIBS)
	$(call program,$^)
$(BIN)/vicinal-ingest: $(BUILD)/services/ingest/main.o $(call lib,services/ingest) $(CLUSTER_LIBS)
	$(call program,$^)
$(BIN)/vicinal-router: $(BUILD)/services/router/main.o $(call lib,services/router) $(CLUSTER_LIBS)
	$(call program,$^)
$(BIN)/vicinal-replicator: $(BUILD)/services/replicator/main.o $(call lib,services/replicator) $(CLUSTER_LIBS)
	$(call program,$^)
$(BIN)/vicinal: $(BUILD)/cli/main.o $(call lib,cli) $(call lib,services/shard) $(call lib,services/ingest) \
                $(call lib,engine) $(CLUSTER_LIBS)
	$(call program,$^)
$(BIN)/engine-bench: $(patsubst %,$(BUILD)/bench/%.o,engine_bench engine_filters engine_inserting \
                                                      engine_keep engine_recall bench_ivf) $(ENGINE_LIBS)
	$(call program,$^)
$(BIN)/wal-bench: $(BUILD)/bench/wal_bench.o $(CLUSTER_LIBS)
	$(call program,$^)
$(BIN)/log-bench: $(patsubst %,$(BUILD)/bench/%.o,log_bench log_bare log_ours) $(call lib,services/ingest) $(CLUSTER_LIBS)
	$(call program,$^)

# The public API's description, compiled into the router.
$(BUILD)/openapi_router.h: openapi/router.yaml tools/openapi_embed.py
	@mkdir -p $(@D)
	@/usr/bin/python3 tools/openapi_embed.py $< > $@.part && mv $@.part $@
$(BUILD)/services/router/root.o: $(BUILD)/openapi_router.h

include tests/tests.mk

# --- what must be installed --------------------------------------------------------------------
# Named Debian packages; a machine that has them all is left alone.
APT_BUILD := gcc libc6-dev libjansson-dev libcivetweb-dev libcurl4-openssl-dev liblmdb-dev \
             libsqlite3-dev libzstd-dev libxxhash-dev libssl-dev zlib1g-dev librdkafka-dev \
             libhiredis-dev libpq-dev libopenblas-dev python3 python3-yaml
APT_TEST  := clang-16 clang-format-14 libclang-rt-16-dev llvm-16 libcmocka-dev strace python3-venv curl \
             default-jre-headless maven redis-server postgresql-15 docker-compose prometheus

deps:
	@sh tools/install_packages.sh $(APT_BUILD)

deps-test: deps
	@sh tools/install_packages.sh $(APT_TEST)
	@$(MAKE) -s $(BUILD)/venv/ready $(BUILD)/venv/generator build/kafka/ready build/s3/ready

$(BUILD)/venv/ready: tests/clients/requirements.txt $(wildcard clients/python/pyproject.toml)
	@mkdir -p $(BUILD)
	python3 -m venv $(BUILD)/venv
	$(BUILD)/venv/bin/pip install -q --disable-pip-version-check -r tests/clients/requirements.txt -e clients/python
	touch $@

# The generator of API clients; found by its test in the local Maven repository.
$(BUILD)/venv/generator: tests/clients/requirements.txt
	@mkdir -p $(@D)
	mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get \
	    -Dartifact=org.openapitools:openapi-generator-cli:7.25.0 -Dtransitive=false
	touch $@

# A broker for the tests, in one place for all builds.
build/kafka/ready: tools/kafka/pom.xml
	@mkdir -p $(@D)
	mvn -q -B -f $< org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D))
	touch $@

# Likewise a server of the S3 protocol.
build/s3/ready: tools/s3/requirements.txt
	@mkdir -p $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

# --- the two commands --------------------------------------------------------------------------
DOCS   ?= .
ASK    ?=
ONCE   ?=
LISTEN ?= 127.0.0.1:8080
RUN_DATA ?= $(BUILD)/run-$(if $(ONCE),once,data)

run: deps
	@$(MAKE) -s all
	@$(if $(ONCE),trap 'rm -rf $(RUN_DATA)' EXIT;) $(BIN)/vicinal demo --data $(RUN_DATA) --listen $(if $(ONCE),127.0.0.1:0,$(LISTEN)) --docs '$(DOCS)' \
	    $(if $(ASK),--ask '$(ASK)') $(if $(ONCE),--once)

# DATA: a folder with docs-100k.npy, docs-100k.jsonl.zst, queries-2k.npy, truth-2k.npy (bench/README.md)
DATA  ?= data
BENCH ?=
$(BUILD)/venv-bench/ready: bench/requirements.txt
	@mkdir -p $(BUILD)
	python3 -m venv $(BUILD)/venv-bench
	$(BUILD)/venv-bench/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

bench: all $(BUILD)/venv-bench/ready
	@VICINAL_BIN=$(abspath $(BIN)) $(BUILD)/venv-bench/bin/python bench/service.py --data '$(DATA)' $(BENCH)

# The engine alone beside the libraries that install from PyPI; SETS as bench/engine.py has them.
SETS ?= --make 100000x384
$(BUILD)/venv-engine/ready: bench/engine-requirements.txt
	@mkdir -p $(BUILD)
	python3 -m venv $(BUILD)/venv-engine
	$(BUILD)/venv-engine/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

bench-engine: all $(BUILD)/venv-engine/ready
	@VICINAL_BIN=$(abspath $(BIN)) $(BUILD)/venv-engine/bin/python bench/engine.py $(SETS) $(BENCH)

# The same suite on Kafka, Redis and Postgres, and in two regions; servers of its own, of the tests.
bench-distributed: all build/kafka/ready
	@VICINAL_BIN=$(abspath $(BIN)) python3 bench/distributed.py $(BENCH)

# What is written is found; a killed shard comes back.
bench-fresh: all $(BUILD)/venv-engine/ready
	@VICINAL_BIN=$(abspath $(BIN)) $(BUILD)/venv-engine/bin/python bench/fresh.py $(BENCH)
bench-recovery: all $(BUILD)/venv-engine/ready
	@VICINAL_BIN=$(abspath $(BIN)) $(BUILD)/venv-engine/bin/python bench/recovery.py $(BENCH)

# Imports beside record by record.
bench-imports: all
	@VICINAL_BIN=$(abspath $(BIN)) python3 bench/imports.py $(BENCH)

# Ingest's way into the log, in files and on Kafka, beside librdkafka's producer alone.
bench-log: all build/kafka/ready
	@VICINAL_BIN=$(abspath $(BIN)) python3 bench/log.py $(BENCH)

format:
	clang-format-14 -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(BUILD) $(BIN) build-*

-include $(shell find $(BUILD) -name '*.d' -not -path '*/venv*' 2>/dev/null)
