/* vicinal search: a question in words, the nearest passages with score and place. */
#include "cli/search.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define SEARCH_MS   10000u
#define SHOWN_LINES 4u
#define SHOWN_BYTES 400u
#define LINE_BYTES  100u /* a longer line is broken at a blank */

struct search {
    const char *url, *collection, *filter;
    uint64_t top_k;
    bool fresh, json;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct search, row_member)

static const struct option options[] = {
    CLI_URL_ROW(struct search),
    CLI_COLLECTION_ROW(struct search),
    {ROW("top-k", OPTION_U64, top_k), .fallback = "5", .min = 1, .max = TOP_K_MAX,
     .help = "How many passages."},
    {ROW("filter", OPTION_TEXT, filter),
     .help = "JSON: {\"lang\":\"en\",\"year\":{\"$gte\":2024}}."},
    {ROW("fresh", OPTION_BOOL, fresh), .fallback = "false",
     .help = "Reflect every write that was answered before."},
    {ROW("json", OPTION_BOOL, json), .fallback = "false", .help = "Print the answer as it came."},
    {0},
};

static enum err_code check_filter(const char *filter, struct err *err)
{
    json_t *document = NULL;
    enum err_code rc = json_doc_parse(&document, filter, strlen(filter), err);

    json_decref(document);
    if (rc != ERR_OK)
        return err_set(err, ERR_CONFIG, "--filter is not a JSON object");
    return ERR_OK;
}

static void write_question(const struct search_question *question, struct buffer *body)
{
    struct json_writer w;

    json_writer_init(&w, body);
    json_begin_object(&w);
    json_key(&w, "embed");
    json_text(&w, question->text);
    json_key(&w, "top_k");
    json_u64(&w, question->top_k);
    if (question->filter != NULL) {
        json_key(&w, "filter");
        json_raw(&w, question->filter, strlen(question->filter));
    }
    if (question->fresh) {
        json_key(&w, "fresh");
        json_bool(&w, true);
    }
    json_key(&w, "timeout_ms");
    json_u64(&w, SEARCH_MS);
    json_end_object(&w);
}

enum err_code search_ask(struct http_client *client, const char *base,
                         const struct search_question *question, json_t **out, struct err *err)
{
    struct buffer body = {0};
    struct cli_call ask = {.method = "POST", .timeout_ms = SEARCH_MS + 1000};
    char path[1024];
    enum err_code rc = ERR_OK;

    *out = NULL;
    if (!text_is_utf8(question->text, strlen(question->text)))
        return err_set(err, ERR_CONFIG, "the question is not UTF-8");
    if (question->filter != NULL)
        rc = check_filter(question->filter, err);
    if (rc == ERR_OK)
        rc = cli_path(path, sizeof(path), question->collection, "/search", err);
    if (rc != ERR_OK)
        return rc;
    write_question(question, &body);
    rc = buffer_check(&body, err);
    ask.path = path;
    ask.body = body.data;
    ask.body_len = body.len;
    if (rc == ERR_OK)
        rc = cli_ask(client, base, &ask, out, NULL, err);
    buffer_free(&body);
    if (rc == ERR_OK && *out == NULL)
        rc = err_set(err, ERR_INTERNAL, "the answer is empty");
    return rc;
}

/* --- for people ------------------------------------------------------------------------------ */

/* Length of the next piece that may be shown as it is; 0: the byte at the front may not. */
static size_t plain_sequence(const char *text, size_t len)
{
    size_t size = text_utf8_sequence(text, len);

    if (size == 1 && ((unsigned char)text[0] < 0x20 || text[0] == 0x7f))
        return 0;
    if (size == 2 && (unsigned char)text[0] == 0xc2 && (unsigned char)text[1] < 0xa0)
        return 0; /* C1 control characters */
    return size;
}

static void print_plain(FILE *out, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        size_t size = plain_sequence(text + at, len - at);

        if (size == 0)
            (void)fputc(' ', out);
        else
            (void)fwrite(text + at, 1, size, out);
        at += size == 0 ? 1 : size;
    }
}

/* Bytes of the line at the front: up to its end, or to a blank where it is long. */
static size_t line_length(const char *text, size_t len)
{
    const char *end = memchr(text, '\n', len);
    size_t size = end == NULL ? len : (size_t)(end - text);
    size_t cut;

    if (size <= LINE_BYTES)
        return size;
    for (cut = LINE_BYTES; cut > LINE_BYTES / 2; cut--)
        if (text[cut] == ' ')
            return cut;
    return text_utf8_cut(text, len, LINE_BYTES);
}

/* Behind the line of `size` bytes at `at`: its end, and blanks where it was broken. */
static size_t next_line(const char *text, size_t len, size_t at, size_t size)
{
    at += size;
    while (at < len && (text[at] == ' ' || text[at] == '\r') && size > 0)
        at++;
    if (at < len && text[at] == '\n')
        at++;
    return at;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) != 0 || (unsigned char)c >= 0x80;
}

/* How many words of the question, of three letters or more, stand in the text. */
static unsigned shared_words(const char *question, const char *text, size_t len)
{
    unsigned shared = 0;

    while (*question != '\0') {
        size_t size = 0;

        while (is_word(question[size]))
            size++;
        for (size_t at = 0; size >= 3 && at + size <= len; at++) {
            if (strncasecmp(text + at, question, size) == 0 &&
                (at == 0 || !is_word(text[at - 1]))) {
                shared++;
                break;
            }
        }
        question += size;
        question += *question != '\0' && size == 0;
    }
    return shared;
}

/* Where to begin showing a passage: the first of the lines that share most with the question. */
static size_t best_start(const char *text, size_t len, const char *question)
{
    unsigned best_shared = 0;
    size_t best = 0;

    for (size_t at = 0; at < len;) {
        size_t end = at;
        unsigned shared;

        for (unsigned lines = 0; lines < SHOWN_LINES && end < len && end - at < SHOWN_BYTES;
             lines++)
            end = next_line(text, len, end, line_length(text + end, len - end));
        shared = shared_words(question, text + at, end - at);
        if (shared > best_shared) {
            best_shared = shared;
            best = at;
        }
        if (end == len)
            break;
        at = next_line(text, len, at, line_length(text + at, len - at));
    }
    return best;
}

static void print_text(FILE *out, const char *text, size_t len, const char *question)
{
    size_t start = best_start(text, len, question), at = start, lines = 0;

    if (start > 0)
        (void)fputs("      …\n", out);
    while (at < len && lines < SHOWN_LINES && at - start < SHOWN_BYTES) {
        size_t size = line_length(text + at, len - at);

        if (size > 0) {
            (void)fputs("      ", out);
            print_plain(out, text + at, size);
            (void)fputc('\n', out);
            lines++;
        }
        at = next_line(text, len, at, size);
    }
    if (at < len)
        (void)fputs("      …\n", out);
}

static void print_match(FILE *out, size_t rank, json_t *match, const char *question)
{
    bool is_bold = isatty(fileno(out)) == 1 && getenv("NO_COLOR") == NULL;
    json_t *metadata = json_object_get(match, "metadata");
    json_t *line = json_object_get(metadata, "line");
    json_t *text = json_object_get(match, "text");
    const char *file = cli_text(metadata, "file", NULL);
    const char *place = file != NULL ? file : cli_text(match, "id", "?");
    const char *title = cli_text(metadata, "title", NULL);

    (void)fprintf(out, "%3zu.  %.4f  %s", rank, json_number_value(json_object_get(match, "score")),
                  is_bold ? "\033[1m" : "");
    print_plain(out, place, strlen(place));
    if (file != NULL && json_is_integer(line))
        (void)fprintf(out, ":%lld", (long long)json_integer_value(line));
    (void)fputs(is_bold ? "\033[0m" : "", out);
    if (title != NULL) {
        (void)fputs("  — ", out);
        print_plain(out, title, strlen(title));
    }
    (void)fputc('\n', out);
    if (json_is_string(text))
        print_text(out, json_string_value(text), json_string_length(text), question);
    (void)fputc('\n', out);
}

void search_print(FILE *out, json_t *answer, const char *question)
{
    json_t *matches = json_object_get(answer, "matches"), *match;
    size_t i;

    if (json_array_size(matches) == 0)
        (void)fprintf(out, "nothing found\n");
    json_array_foreach(matches, i, match)
    {
        print_match(out, i + 1, match, question);
    }
}

static void print_json(json_t *answer)
{
    struct buffer text = {0};

    json_doc_dump(answer, &text);
    (void)printf("%.*s\n", (int)text.len, (const char *)text.data);
    buffer_free(&text);
}

static int run_search(void *settings, const struct cli_operands *operands)
{
    const struct search *search = settings;
    struct search_question question = {.collection = search->collection,
                                       .filter = search->filter,
                                       .top_k = search->top_k,
                                       .fresh = search->fresh};
    struct http_client *client = NULL;
    json_t *answer = NULL;
    struct err err = {0};
    char base[512];
    enum err_code rc = cli_base_url(base, sizeof(base), search->url, &err);

    if (rc == ERR_OK && operands->count != 1)
        rc = err_set(&err, ERR_CONFIG, "one question is needed, in quotes");
    if (rc == ERR_OK)
        rc = http_client_open(&client, &(struct http_client_options){.env = env_real()}, &err);
    if (rc == ERR_OK) {
        question.text = operands->items[0];
        rc = search_ask(client, base, &question, &answer, &err);
    }
    if (rc == ERR_OK && search->json)
        print_json(answer);
    else if (rc == ERR_OK)
        search_print(stdout, answer, question.text);
    json_decref(answer);
    http_client_close(client);
    return rc == ERR_OK ? EXIT_SUCCESS : cli_fail("search", &err);
}

const struct verb verb_search = {
    .name = "search",
    .brief = "Ask a question in words; print the nearest passages.",
    .synopsis = "--collection NAME [options] \"QUESTION\"",
    .about =
        "The collection's embedder turns the question into a vector.  Prints score (higher is\n"
        "better), file and line (or the id), and the lines that share most with the question.",
    .options = options,
    .settings_size = sizeof(struct search),
    .operand_max = 1,
    .run = run_search,
};
