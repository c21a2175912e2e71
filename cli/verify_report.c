/* What vicinal verify says: see verify.h.
 *
 * A line for each thing on stdout, its findings below it; or one JSON document at the end.  What is
 * found is kept with the thing until then, the first of it in full. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/verify.h"
#include "common/base/checked.h"
#include "common/base/json_writer.h"

#define SHOW_EVERY_NS (200 * NS_PER_MS)

static volatile sig_atomic_t is_stopping;

static void stop(int number)
{
    (void)number;
    is_stopping = 1;
}

bool verify_is_stopping(void)
{
    return is_stopping != 0;
}

/* --- progress -------------------------------------------------------------------------------- */

static void show(struct verify_thing *thing)
{
    struct verify *verify = thing->verify;
    uint64_t now_ns = env_boot_ns(verify->env);

    if (!verify->is_terminal || now_ns - verify->shown_ns < SHOW_EVERY_NS)
        return;
    verify->shown_ns = now_ns;
    verify->is_shown = true;
    (void)fprintf(stderr, "\r%.1f MB looked at: %.60s\033[K", (double)verify->looked_at / 1e6,
                  thing->path);
    (void)fflush(stderr);
}

static void hide(struct verify *verify)
{
    if (verify->is_shown)
        (void)fprintf(stderr, "\r\033[K");
    verify->is_shown = false;
}

static bool go_on(void *state, uint64_t bytes)
{
    struct verify_thing *thing = state;

    thing->verify->looked_at += bytes;
    show(thing);
    return !verify_is_stopping();
}

static void find(void *state, const struct scrub_finding *finding)
{
    struct verify_thing *thing = state;
    struct verify_told *told = &thing->told[thing->told_count];

    if (thing->told_count == VERIFY_TOLD_MAX)
        return;
    told->file = strdup(finding->file); /* NULL: it is told without */
    told->byte = finding->byte;
    (void)snprintf(told->text, sizeof(told->text), "%s", finding->text);
    thing->told_count++;
}

/* --- things ---------------------------------------------------------------------------------- */

enum err_code verify_thing_begin(struct verify_thing **out, struct verify *verify, const char *kind,
                                 const char *folder, const char *name, struct err *err)
{
    struct verify_thing *thing = array_alloc(1, sizeof(*thing));
    int len;

    *out = NULL;
    if (thing == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    thing->verify = verify;
    thing->kind = kind;
    thing->scrub = (struct scrub){.find = find, .go_on = go_on, .state = thing};
    len = snprintf(thing->path, sizeof(thing->path), "%s%s%s", folder, name[0] == '\0' ? "" : "/",
                   name);
    if (len < 0 || (size_t)len >= sizeof(thing->path)) {
        free(thing);
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", folder);
    }
    *out = thing;
    return ERR_OK;
}

void verify_count(struct verify_thing *thing, const char *name, uint64_t value)
{
    if (thing->count_count == VERIFY_COUNTS_MAX)
        return;
    thing->counts[thing->count_count].name = name;
    thing->counts[thing->count_count++].value = value;
}

void verify_thing_note(struct verify_thing *thing, enum err_code code, const struct err *err)
{
    if (code == ERR_OK || thing->state != VERIFY_OK)
        return;
    thing->state = code == ERR_NOT_FOUND ? VERIFY_EMPTY : VERIFY_FAILED;
    thing->err = *err;
}

static const char *state_word(const struct verify_thing *thing)
{
    if (thing->scrub.findings > 0)
        return "damaged";
    if (thing->state == VERIFY_FAILED)
        return "unknown";
    return thing->state == VERIFY_EMPTY ? "empty" : "ok";
}

/* --- for people ------------------------------------------------------------------------------ */

/* Names may come from damaged bytes: no control characters reach the terminal. */
static void put_clean(const char *text)
{
    for (; *text != '\0'; text++)
        (void)putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
}

static void print_thing(const struct verify_thing *thing)
{
    (void)printf("%-8s %-8s ", state_word(thing), thing->kind);
    put_clean(thing->path);
    for (size_t i = 0; i < thing->count_count; i++)
        (void)printf("%s %llu %s", i == 0 ? ":" : ",", (unsigned long long)thing->counts[i].value,
                     thing->counts[i].name);
    (void)putchar('\n');
    for (size_t i = 0; i < thing->told_count; i++) {
        const struct verify_told *told = &thing->told[i];

        (void)printf("  ");
        put_clean(told->file == NULL ? "" : told->file);
        if (told->byte != SCRUB_NO_BYTE)
            (void)printf(", byte %llu", (unsigned long long)told->byte);
        (void)printf(": ");
        put_clean(told->text);
        (void)putchar('\n');
    }
    if (thing->scrub.findings > thing->told_count)
        (void)printf("  and %llu more\n",
                     (unsigned long long)(thing->scrub.findings - thing->told_count));
    if (thing->state != VERIFY_OK) {
        (void)printf("  ");
        put_clean(thing->err.message);
        (void)putchar('\n');
    }
    (void)fflush(stdout);
}

/* --- JSON ------------------------------------------------------------------------------------ */

static void write_told(struct json_writer *w, const struct verify_told *told)
{
    json_begin_object(w);
    json_key(w, "file");
    json_text(w, told->file == NULL ? "" : told->file);
    json_key(w, "byte");
    if (told->byte == SCRUB_NO_BYTE)
        json_put_null(w);
    else
        json_u64(w, told->byte);
    json_key(w, "text");
    json_text(w, told->text);
    json_end_object(w);
}

static void write_thing(struct json_writer *w, const struct verify_thing *thing)
{
    json_begin_object(w);
    json_key(w, "kind");
    json_text(w, thing->kind);
    json_key(w, "path");
    json_text(w, thing->path);
    json_key(w, "state");
    json_text(w, state_word(thing));
    json_key(w, "counts");
    json_begin_object(w);
    for (size_t i = 0; i < thing->count_count; i++) {
        json_key_text(w, thing->counts[i].name, strlen(thing->counts[i].name));
        json_u64(w, thing->counts[i].value);
    }
    json_end_object(w);
    json_key(w, "finding_count");
    json_u64(w, thing->scrub.findings);
    json_key(w, "findings");
    json_begin_array(w);
    for (size_t i = 0; i < thing->told_count; i++)
        write_told(w, &thing->told[i]);
    json_end_array(w);
    if (thing->state != VERIFY_OK) {
        json_key(w, "reason");
        json_text(w, thing->err.message);
    }
    json_end_object(w);
}

void verify_thing_end(struct verify_thing *thing)
{
    struct verify *verify = thing->verify;

    hide(verify);
    if (verify->json)
        write_thing(verify->writer, thing);
    else
        print_thing(thing);
    verify->things++;
    verify->findings += thing->scrub.findings;
    verify->failures += thing->state == VERIFY_FAILED;
    for (size_t i = 0; i < thing->told_count; i++)
        free(thing->told[i].file);
    free(thing);
}

/* --- begin and end --------------------------------------------------------------------------- */

void verify_begin(struct verify *verify)
{
    struct sigaction action = {.sa_handler = stop};

    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    verify->is_terminal = isatty(STDERR_FILENO) == 1;
    json_begin_object(verify->writer);
    json_key(verify->writer, "things");
    json_begin_array(verify->writer);
}

void verify_end(struct verify *verify)
{
    struct json_writer *w = verify->writer;

    hide(verify);
    if (!verify->json) {
        (void)printf("%llu looked at, %llu findings\n", (unsigned long long)verify->things,
                     (unsigned long long)verify->findings);
        return;
    }
    json_end_array(w);
    json_key(w, "finding_count");
    json_u64(w, verify->findings);
    json_end_object(w);
    (void)fwrite(verify->report.data, 1, verify->report.len, stdout);
    (void)putchar('\n');
}
