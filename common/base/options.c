/* Program options: see options.h.
 *
 * Each source (flags, file) fills a column of one text per row of the table; then every row takes
 * the first text there is, in the order of precedence, and converts it.  So a wrong value is
 * always reported with the source that it came from, and a value that is overruled is never looked
 * at.
 */
#include "common/base/options.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/base/version.h"

#define NAME_BYTES_MAX     64
#define CONFIG_BYTES_MAX   MIB(1)
#define SOURCE_BYTES_MAX   256
#define HELP_COLUMN        34
#define ENVIRONMENT_PREFIX "VICINAL_"

/* A value as it was given. */
struct given {
    const char *text; /* NULL: not given */
    unsigned line;    /* of the file; 0: a flag */
};

struct parse {
    const struct options_input *input;
    size_t count;        /* rows of the table */
    struct given *flags; /* one per row */
    struct given *file;  /* one per row */
    const char *config;  /* --config, or NULL */
    bool help;
    struct err *err;
};

/* Texts that were not there before the program began: kept until it ends. */
static struct arena kept;

/* What set wants_help last: options_help answers accordingly. */
static bool version_wanted;

static const struct option *find_row(const struct option *table, const char *name, size_t len)
{
    for (const struct option *row = table; row->name != NULL; row++)
        if (strlen(row->name) == len && memcmp(row->name, name, len) == 0)
            return row;
    return NULL;
}

static enum err_code add_operand(struct parse *p, const char *text)
{
    const struct options_input *input = p->input;

    if (input->operands == NULL)
        return err_set(p->err, ERR_CONFIG, "unexpected argument \"%s\"", text);
    if (*input->operand_count == input->operand_max)
        return err_set(p->err, ERR_CONFIG, "too many arguments: \"%s\"", text);
    input->operands[(*input->operand_count)++] = text;
    return ERR_OK;
}

/* One flag at argv[*at]; its value may be the next argument, which is then taken too. */
static enum err_code read_flag(struct parse *p, int *at)
{
    const struct option *table = p->input->table;
    const char *flag = p->input->argv[*at];
    const char *name = flag + 2;
    const char *equals = strchr(name, '=');
    size_t len = equals == NULL ? strlen(name) : (size_t)(equals - name);
    const char *value = equals == NULL ? NULL : equals + 1;
    const struct option *row = find_row(table, name, len);
    bool is_config = row == NULL && len == 6 && memcmp(name, "config", 6) == 0;

    if (row == NULL && equals == NULL && strncmp(name, "no-", 3) == 0) {
        row = find_row(table, name + 3, len - 3);
        if (row != NULL && row->type != OPTION_BOOL)
            return err_set(p->err, ERR_CONFIG, "%s: only switches can be turned off", flag);
        value = "false";
    } else if (row != NULL && row->type == OPTION_BOOL && value == NULL) {
        value = "true";
    }
    if (row == NULL && !is_config)
        return err_set(p->err, ERR_CONFIG, "unknown option %.*s (--help shows all)",
                       (int)MIN_OF(len + 2, (size_t)NAME_BYTES_MAX), flag);
    if (value == NULL) {
        if (*at + 1 >= p->input->argc)
            return err_set(p->err, ERR_CONFIG, "%s needs a value", flag);
        value = p->input->argv[++*at];
    }
    if (is_config)
        p->config = value;
    else
        p->flags[row - table].text = value;
    return ERR_OK;
}

static enum err_code read_flags(struct parse *p)
{
    bool only_operands = false;

    for (int at = 1; at < p->input->argc; at++) {
        const char *arg = p->input->argv[at];
        enum err_code code = ERR_OK;

        if (only_operands || arg[0] != '-' || arg[1] == '\0') {
            code = add_operand(p, arg);
        } else if (strcmp(arg, "--") == 0) {
            only_operands = true;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            p->help = true;
        } else if (strcmp(arg, "--version") == 0) {
            p->help = true;
            version_wanted = true;
        } else if (arg[1] != '-') {
            code = err_set(p->err, ERR_CONFIG, "unknown option %.*s (--help shows all)",
                           NAME_BYTES_MAX, arg);
        } else {
            code = read_flag(p, &at);
        }
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

/* The whole file as a text that is kept.  Errors: ERR_CONFIG, ERR_NO_MEMORY. */
static enum err_code load_file(const char *path, char **out, struct err *err)
{
    FILE *in = fopen(path, "re");
    enum err_code code = ERR_OK;
    char *text = NULL;
    size_t len;

    if (in == NULL)
        return err_set(err, ERR_CONFIG, "--config %s: %s", path, strerror(errno));
    text = malloc(CONFIG_BYTES_MAX + 1);
    if (text == NULL) {
        code = err_set(err, ERR_NO_MEMORY, "no memory for %s", path);
        goto out;
    }
    len = fread(text, 1, CONFIG_BYTES_MAX + 1, in);
    if (ferror(in) != 0)
        code = err_set(err, ERR_CONFIG, "--config %s: %s", path, strerror(errno));
    else if (len > CONFIG_BYTES_MAX)
        code = err_set(err, ERR_CONFIG, "--config %s: longer than %zu bytes", path,
                       (size_t)CONFIG_BYTES_MAX);
    else if (memchr(text, '\0', len) != NULL)
        code = err_set(err, ERR_CONFIG, "--config %s: holds a NUL byte", path);
    if (code != ERR_OK)
        goto out;
    *out = arena_copy_text(&kept, text, len);
    if (*out == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for %s", path);
out:
    free(text);
    (void)fclose(in); /* it was only read */
    return code;
}

/* Cut blanks off both ends, in place. */
static char *trim(char *text)
{
    size_t len;

    while (isspace((unsigned char)*text) != 0)
        text++;
    len = strlen(text);
    while (len > 0 && isspace((unsigned char)text[len - 1]) != 0)
        text[--len] = '\0';
    return text;
}

static enum err_code read_line(struct parse *p, char *line, unsigned number)
{
    const struct option *row;
    char *equals, *name;

    line = trim(line);
    if (line[0] == '\0' || line[0] == '#')
        return ERR_OK;
    equals = strchr(line, '=');
    if (equals == NULL)
        return err_set(p->err, ERR_CONFIG, "%s:%u: not of the form name = value", p->config,
                       number);
    *equals = '\0';
    name = trim(line);
    row = find_row(p->input->table, name, strlen(name));
    if (row == NULL)
        return err_set(p->err, ERR_CONFIG, "%s:%u: unknown option \"%.*s\"", p->config, number,
                       NAME_BYTES_MAX, name);
    p->file[row - p->input->table] = (struct given){.text = trim(equals + 1), .line = number};
    return ERR_OK;
}

static enum err_code read_config(struct parse *p)
{
    enum err_code code = ERR_OK;
    char *text = NULL, *next;
    unsigned number = 1;

    if (p->config == NULL)
        p->config = getenv(ENVIRONMENT_PREFIX "CONFIG");
    if (p->config == NULL || p->config[0] == '\0')
        return ERR_OK;
    code = load_file(p->config, &text, p->err);
    for (; code == ERR_OK && text != NULL; text = next, number++) {
        next = strchr(text, '\n');
        if (next != NULL)
            *next++ = '\0';
        code = read_line(p, text, number);
    }
    return code;
}

/* listen-port -> VICINAL_LISTEN_PORT */
static void environment_name(char *out, size_t size, const char *name)
{
    size_t at = strlen(ENVIRONMENT_PREFIX);

    assert(strlen(name) + at < size);
    memcpy(out, ENVIRONMENT_PREFIX, at);
    for (; *name != '\0'; name++)
        out[at++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    out[at] = '\0';
}

/* "64" or, for a row in bytes, "64MiB", "64 MiB". */
static bool number_of(const struct option *row, const char *text, uint64_t *out)
{
    static const struct {
        const char *name;
        uint64_t factor;
    } units[] = {{"KiB", 1ull << 10}, {"MiB", 1ull << 20}, {"GiB", 1ull << 30}};
    size_t digits = strspn(text, "0123456789");
    const char *unit = text + digits + strspn(text + digits, " ");

    if (!text_to_u64(text, digits, out))
        return false;
    if (text[digits] == '\0')
        return true;
    if (row->unit == NULL || strcmp(row->unit, "bytes") != 0)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++)
        if (strcmp(unit, units[i].name) == 0)
            return checked_mul(*out, units[i].factor, out);
    return false;
}

static bool bool_of(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};

    for (size_t i = 0; i < ARRAY_COUNT(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

/* Convert one text into the member of row.  source names where it came from. */
static enum err_code store(const struct option *row, const char *text, const char *source,
                           void *target, struct err *err)
{
    uint64_t max = row->max == 0 ? UINT64_MAX : row->max;
    void *member = (char *)target + row->offset;
    uint64_t number = 0;
    bool flag = false;

    if (row->type == OPTION_TEXT) {
        memcpy(member, &text, sizeof(text));
        return ERR_OK;
    }
    if (row->type == OPTION_BOOL) {
        if (text != NULL && !bool_of(text, &flag))
            return err_set(err, ERR_CONFIG, "%s: \"%.80s\" is neither true nor false", source,
                           text);
        memcpy(member, &flag, sizeof(flag));
        return ERR_OK;
    }
    assert(row->type == OPTION_U64);
    if (text != NULL && !number_of(row, text, &number))
        return err_set(err, ERR_CONFIG, "%s: \"%.80s\" is not a number%s%s", source, text,
                       row->unit == NULL ? "" : " of ", row->unit == NULL ? "" : row->unit);
    if (text != NULL && (number < row->min || number > max))
        return err_set(err, ERR_CONFIG, "%s: %.80s is not between %llu and %llu", source, text,
                       (unsigned long long)row->min, (unsigned long long)max);
    memcpy(member, &number, sizeof(number));
    return ERR_OK;
}

/* Take the text of row from the first source that has one, and store it. */
static enum err_code settle(const struct parse *p, size_t index, void *target)
{
    const struct option *row = &p->input->table[index];
    char variable[NAME_BYTES_MAX + sizeof(ENVIRONMENT_PREFIX)];
    char source[SOURCE_BYTES_MAX];
    const char *text = p->flags[index].text;
    const char *environment;

    environment_name(variable, sizeof(variable), row->name);
    environment = getenv(variable);
    (void)snprintf(source, sizeof(source), "--%s", row->name);
    if (text == NULL && environment != NULL) {
        text = arena_copy_text(&kept, environment, strlen(environment));
        if (text == NULL)
            return err_set(p->err, ERR_NO_MEMORY, "no memory for %s", variable);
        (void)snprintf(source, sizeof(source), "%s", variable);
    } else if (text == NULL && p->file[index].text != NULL) {
        text = p->file[index].text;
        (void)snprintf(source, sizeof(source), "%s:%u: %s", p->config, p->file[index].line,
                       row->name);
    } else if (text == NULL) {
        if (row->required && row->fallback == NULL)
            return err_set(p->err, ERR_CONFIG, "--%s is required: %s", row->name, row->help);
        text = row->fallback;
    }
    return store(row, text, source, target, p->err);
}

enum err_code options_parse(const struct options_input *input, void *target, bool *wants_help,
                            struct err *err)
{
    struct parse p = {.input = input, .err = err};
    enum err_code code;

    assert(input->operands == NULL || input->operand_count != NULL);
    *wants_help = false;
    version_wanted = false;
    if (input->operands != NULL)
        *input->operand_count = 0;
    while (input->table[p.count].name != NULL)
        p.count++;
    p.flags = array_alloc(p.count, sizeof(*p.flags));
    p.file = array_alloc(p.count, sizeof(*p.file));
    if (p.flags == NULL || p.file == NULL) {
        code = err_set(err, ERR_NO_MEMORY, "no memory for options");
        goto out;
    }
    code = read_flags(&p);
    *wants_help = p.help;
    if (code != ERR_OK || p.help)
        goto out;
    code = read_config(&p);
    for (size_t i = 0; i < p.count && code == ERR_OK; i++)
        code = settle(&p, i, target);
out:
    free(p.file);
    free(p.flags);
    return code;
}

static void help_row(FILE *out, const struct option *row)
{
    static const char *const kinds[] = {
        [OPTION_TEXT] = " TEXT", [OPTION_U64] = " NUMBER", [OPTION_BOOL] = ""};
    char left[HELP_COLUMN * 2];
    const char *unit = row->unit != NULL ? row->unit : "";
    int len = snprintf(left, sizeof(left), "  --%s%s", row->name, kinds[row->type]);

    if (len < HELP_COLUMN)
        (void)fprintf(out, "%-*s%s", HELP_COLUMN, left, row->help);
    else
        (void)fprintf(out, "%s\n%*s%s", left, HELP_COLUMN, "", row->help);
    if (row->type == OPTION_U64 && row->max != 0)
        (void)fprintf(out, " [%llu..%llu%s%s]", (unsigned long long)row->min,
                      (unsigned long long)row->max, *unit != '\0' ? " " : "", unit);
    else if (*unit != '\0')
        (void)fprintf(out, " [%s]", unit);
    if (row->required && row->fallback == NULL)
        (void)fprintf(out, " (required)");
    else if (row->fallback != NULL && row->fallback[0] != '\0')
        (void)fprintf(out, " (default: %s)", row->fallback);
    (void)fputc('\n', out);
}

void options_help(FILE *out, const char *synopsis, const char *about, const struct option *table)
{
    if (version_wanted) {
        (void)fprintf(out, "vicinal %s\n", VICINAL_VERSION);
        return;
    }
    (void)fprintf(out, "Usage: %s\n\n%s\n\nOptions:\n", synopsis, about);
    for (const struct option *row = table; row->name != NULL; row++)
        help_row(out, row);
    (void)fprintf(out, "  %-*s%s\n", HELP_COLUMN - 2, "--config FILE",
                  "Read options from a file of \"name = value\" lines.");
    (void)fprintf(out, "  %-*s%s\n", HELP_COLUMN - 2, "--help", "Show this text.");
    (void)fprintf(out, "  %-*s%s\n", HELP_COLUMN - 2, "--version", "Show the version.");
    (void)fprintf(out,
                  "\nFlags go before environment variables (%sNAME), these before the file.\n"
                  "Switches are turned off by --no-name; sizes may end in KiB, MiB or GiB.\n",
                  ENVIRONMENT_PREFIX);
}
