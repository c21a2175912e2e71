# Vicinal.  `make run` starts the suite on this repository's own text; `make test` tests it.
# One static library per folder; the link lines are the architecture (see ARCHITECTURE.md).
BUILD    ?= build
BIN      ?= bin
CC       ?= gcc
SANITIZE ?=
WERROR   ?=
OPT      ?= -O2

CPPFLAGS += -D_GNU_SOURCE -I. -I$(BUILD)
CFLAGS   += -std=c17 $(OPT) -g -fno-omit-frame-pointer -ffp-contract=off -pthread
CFLAGS   += -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS   += $(if $(WERROR),-Werror)
CFLAGS   += $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
LDFLAGS  += -pthread $(if $(SANITIZE),-fsanitize=$(SANITIZE))
DEPFLAGS  = -MMD -MP

# folder -> library; each may use those before it
LIB_DIRS := common/base engine common/model common/observe common/http \
            backends/wal backends/cache backends/meta backends/store backends/embedder cluster
lib      = $(BUILD)/lib$(subst /,_,$(1)).a
srcs     = $(wildcard $(1)/*.c)
objs     = $(patsubst %.c,$(BUILD)/%.o,$(call srcs,$(1)))
LIBS    := $(foreach d,$(LIB_DIRS),$(call lib,$(d)))

SYSTEM_LIBS := -lcivetweb -lcurl -ljansson -lsqlite3 -llmdb -lzstd -lxxhash -lcrypto -lm

# innermost last, so that every library stands before those it uses
CLUSTER_LIBS  := $(call lib,cluster) $(foreach b,embedder store meta cache wal,$(call lib,backends/$(b))) \
                 $(call lib,common/http) $(call lib,common/observe) $(call lib,common/model) \
                 $(call lib,common/base)
ENGINE_LIBS   := $(call lib,engine) $(call lib,common/base)

SERVICES := router shard ingest
BINARIES := $(foreach s,$(SERVICES),$(BIN)/vicinal-$(s)) $(BIN)/vicinal $(BIN)/engine-bench

.PHONY: all deps run test unit service recall fuzz tidy format clean bench
all: $(BINARIES)

define library
$(call lib,$(1)): $(call objs,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(AR) rcs $$@ $$^
endef
$(foreach d,$(LIB_DIRS) services/router services/shard services/ingest tests/sim tests/lib,$(eval $(call library,$(d))))

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(DEPFLAGS) -c $< -o $@

-include Makefile.local

format:
	clang-format-14 -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(BUILD) $(BIN)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
