/* One table per program says every option: flags, environment, file and help come from it.
 *
 * Order of precedence: flag (--name value, --name=value, --no-name for booleans), environment
 * (VICINAL_NAME_IN_CAPITALS), file (--config FILE: "name = value" lines, # comments), default.
 * --help and --version are always there.  Unknown flags, values out of bounds and stray arguments
 * are refused with the row that they break. */
#ifndef VICINAL_BASE_OPTIONS_H
#define VICINAL_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/err.h"

enum option_type { OPTION_TEXT, OPTION_U64, OPTION_BOOL };

struct option {
    const char *name; /* "listen"; the table ends with a NULL name */
    enum option_type type;
    const char *fallback; /* default, as text; NULL: none (text: NULL, numbers: 0) */
    uint64_t min, max;    /* of OPTION_U64; max 0: none */
    const char *unit;     /* "ms", "bytes" … or NULL; sizes accept KiB, MiB, GiB */
    const char *help;     /* one sentence */
    size_t offset;        /* of the member: const char *, uint64_t or bool */
    bool required;
};

/* Fill the struct at target.  argv[0] is skipped.  Arguments that are no flags go to
 * operands (room for operand_max, count in *operand_count); operands NULL: none allowed.
 * Texts live as long as the process.
 * Errors: ERR_CONFIG with a message for the user. */
struct options_input {
    const struct option *table;
    int argc;
    char **argv;
    const char **operands;
    size_t operand_max;
    size_t *operand_count;
};
MUST_CHECK enum err_code options_parse(const struct options_input *input, void *target,
                                       bool *wants_help, struct err *err);

/* Usage text of a table; synopsis is the first line, about the second paragraph.  When --version
 * was what set wants_help, prints the version alone. */
void options_help(FILE *out, const char *synopsis, const char *about, const struct option *table);

#endif
