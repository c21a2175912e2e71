/* What a URL of a log on Kafka says:
 *
 *   kafka://host:port[,host:port…]/prefix[?option=value&…]
 *
 *   linger_ms=N         let entries wait for company (default 0)
 *   compression=NAME    none, gzip, snappy, lz4 or zstd (default none)
 *   allow_unsafe=true   take a topic whose settings can lose what was acknowledged
 *   config=FILE         librdkafka's properties, "name=value" lines: passwords are in no URL
 *
 * A wrong one is refused with what a right one looks like. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define SCHEME             "kafka://"
#define PREFIX_MAX         200
#define BROKERS_MAX        2000
#define OPTIONS_MAX        2000
#define CONFIG_BYTES_MAX   KIB(64)
#define CONFIG_ENTRIES_MAX 200

static const char EXAMPLE[] = "write kafka://host:port[,host:port]/prefix";

static bool only(const char *text, size_t len, const char *others)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              (c != '\0' && strchr(others, c) != NULL)))
            return false;
    }
    return true;
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for the log's URL");
}

/* --- the file of properties ------------------------------------------------------------------ */

static char *trim(char *text)
{
    size_t len;

    text += strspn(text, " \t\r");
    len = strlen(text);
    while (len > 0 && strchr(" \t\r", text[len - 1]) != NULL)
        text[--len] = '\0';
    return text;
}

static enum err_code add_property(struct kafka_place *place, char *line, unsigned number,
                                  struct err *err)
{
    struct kafka_property *property = &place->properties[place->property_count];
    char *equals;

    line = trim(line);
    if (line[0] == '\0' || line[0] == '#')
        return ERR_OK;
    equals = strchr(line, '=');
    if (equals == NULL || place->property_count == CONFIG_ENTRIES_MAX)
        return err_set(err, ERR_CONFIG, "line %u of the properties is not name=value", number);
    *equals = '\0';
    property->name = strdup(trim(line));
    property->value = strdup(trim(equals + 1));
    place->property_count++;
    return property->name == NULL || property->value == NULL ? no_memory(err) : ERR_OK;
}

static enum err_code read_properties(struct kafka_place *place, FILE *file, struct err *err)
{
    char *text = calloc(1, CONFIG_BYTES_MAX + 1), *rest = text, *line;
    enum err_code code = ERR_OK;
    unsigned number = 0;
    size_t len;

    place->properties = array_alloc(CONFIG_ENTRIES_MAX, sizeof(*place->properties));
    if (text == NULL || place->properties == NULL) {
        free(text);
        return no_memory(err);
    }
    len = fread(text, 1, CONFIG_BYTES_MAX + 1, file);
    if (ferror(file))
        code = err_set(err, ERR_CONFIG, "the file of properties cannot be read");
    else if (len > CONFIG_BYTES_MAX || memchr(text, '\0', len) != NULL)
        code = err_set(err, ERR_CONFIG, "the file of properties is too long, or no text");
    while (code == ERR_OK && (line = strsep(&rest, "\n")) != NULL)
        code = add_property(place, line, ++number, err);
    explicit_bzero(text, CONFIG_BYTES_MAX + 1);
    free(text);
    return code;
}

static enum err_code load_properties(struct kafka_place *place, const char *path, struct err *err)
{
    FILE *file = fopen(path, "re");
    enum err_code code;

    if (file == NULL)
        return err_set(err, ERR_CONFIG, "the file of properties %.100s: %s", path, strerror(errno));
    code = read_properties(place, file, err);
    (void)fclose(file);
    return code;
}

/* --- options --------------------------------------------------------------------------------- */

static enum err_code set_linger(struct kafka_place *place, const char *value, struct err *err)
{
    uint64_t ms;

    if (!text_to_u64(value, strlen(value), &ms) || ms > 1000)
        return err_set(err, ERR_CONFIG, "linger_ms is 0 to 1000");
    (void)snprintf(place->linger_ms, sizeof(place->linger_ms), "%llu", (unsigned long long)ms);
    return ERR_OK;
}

static enum err_code set_compression(struct kafka_place *place, const char *value, struct err *err)
{
    static const char *const known[] = {"none", "gzip", "snappy", "lz4", "zstd"};

    for (size_t i = 0; i < ARRAY_COUNT(known); i++)
        if (strcmp(value, known[i]) == 0) {
            (void)snprintf(place->compression, sizeof(place->compression), "%s", value);
            return ERR_OK;
        }
    return err_set(err, ERR_CONFIG, "compression is none, gzip, snappy, lz4 or zstd");
}

static enum err_code set_option(struct kafka_place *place, char *option, bool properties,
                                struct err *err)
{
    char *value = strchr(option, '=');
    size_t len;

    if (value == NULL)
        return err_set(err, ERR_CONFIG, "\"%.40s\" is not option=value", option);
    *value++ = '\0';
    len = text_percent_decode(value, strlen(value));
    if (len == SIZE_MAX || memchr(value, '\0', len) != NULL)
        return err_set(err, ERR_CONFIG, "the value of %.40s is not well escaped", option);
    value[len] = '\0';
    if (strcmp(option, "linger_ms") == 0)
        return set_linger(place, value, err);
    if (strcmp(option, "compression") == 0)
        return set_compression(place, value, err);
    if (strcmp(option, "config") == 0)
        return properties ? load_properties(place, value, err) : ERR_OK;
    if (strcmp(option, "allow_unsafe") == 0 &&
        (strcmp(value, "true") == 0 || strcmp(value, "false") == 0)) {
        place->allow_unsafe = value[0] == 't';
        return ERR_OK;
    }
    return err_set(err, ERR_CONFIG,
                   "unknown option or value \"%.40s\"; known: linger_ms, compression, "
                   "allow_unsafe=true, config=FILE",
                   option);
}

static enum err_code set_options(struct kafka_place *place, const char *text, bool properties,
                                 struct err *err)
{
    char copy[OPTIONS_MAX + 1], *rest = copy, *option;
    enum err_code code = ERR_OK;

    if (strlen(text) > OPTIONS_MAX)
        return err_set(err, ERR_CONFIG, "the options are too long");
    memcpy(copy, text, strlen(text) + 1);
    while (code == ERR_OK && (option = strsep(&rest, "&")) != NULL)
        if (option[0] != '\0')
            code = set_option(place, option, properties, err);
    return code;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum err_code parse(struct kafka_place *place, const char *url, bool properties,
                           struct err *err)
{
    const char *brokers = url + strlen(SCHEME), *prefix, *options;
    size_t brokers_len, prefix_len;

    if (strncmp(url, SCHEME, strlen(SCHEME)) != 0)
        return err_set(err, ERR_CONFIG, "%s", EXAMPLE);
    brokers_len = strcspn(brokers, "/?");
    if (brokers_len == 0 || brokers_len > BROKERS_MAX || !only(brokers, brokers_len, ".-_:,[]"))
        return err_set(err, ERR_CONFIG, "no brokers: %s (user and password go into config=FILE)",
                       EXAMPLE);
    if (brokers[brokers_len] != '/')
        return err_set(err, ERR_CONFIG, "no prefix: %s", EXAMPLE);
    prefix = brokers + brokers_len + 1;
    prefix_len = strcspn(prefix, "?");
    if (prefix_len == 0 || prefix_len > PREFIX_MAX || !only(prefix, prefix_len, ".-_"))
        return err_set(err, ERR_CONFIG,
                       "the prefix is 1 to %d letters, digits, dots, dashes, underscores",
                       PREFIX_MAX);
    options = prefix + prefix_len;
    (void)snprintf(place->topic, sizeof(place->topic), "%.*s.log", (int)prefix_len, prefix);
    place->brokers = strndup(brokers, brokers_len);
    if (place->brokers == NULL)
        return no_memory(err);
    return options[0] == '?' ? set_options(place, options + 1, properties, err) : ERR_OK;
}

enum err_code kafka_place_parse(struct kafka_place *place, const char *url, bool properties,
                                struct err *err)
{
    enum err_code code;

    *place = (struct kafka_place){.linger_ms = "0", .compression = "none"};
    code = parse(place, url, properties, err);
    if (code != ERR_OK)
        kafka_place_free(place);
    return code;
}

void kafka_place_free(struct kafka_place *place)
{
    for (size_t i = 0; i < place->property_count; i++) {
        free(place->properties[i].name);
        if (place->properties[i].value != NULL)
            explicit_bzero(place->properties[i].value, strlen(place->properties[i].value));
        free(place->properties[i].value);
    }
    free(place->properties);
    free(place->brokers);
    *place = (struct kafka_place){0};
}
