/* Tells how far a long job is: see progress.h. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/env.h"

#define BAR_MAX   30u
#define TEXT_ROOM 60u /* columns for what stands beside the bar */

void progress_duration(char *out, size_t size, double seconds)
{
    unsigned long whole = seconds < 0 ? 0 : seconds > 3.6e8 ? 360000000ul : (unsigned long)seconds;

    if (whole >= 3600)
        (void)snprintf(out, size, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
    else
        (void)snprintf(out, size, "%lu:%02lu", whole / 60, whole % 60);
}

static void append_bar(struct buffer *out, double share, unsigned width)
{
    unsigned full = (unsigned)(share * width);

    buffer_append_byte(out, '[');
    for (unsigned i = 0; i < width; i++)
        buffer_append_byte(out, i < full ? '#' : i == full ? '>' : ' ');
    buffer_append_text(out, "] ");
}

void progress_format(struct buffer *out, const struct progress_state *state, unsigned columns)
{
    uint64_t done = MIN_OF(state->done, state->total);
    double share = state->total == 0 ? 0 : (double)done / (double)state->total;
    double seconds = (double)state->elapsed_ns / 1e9;
    double fresh = done > state->skipped ? (double)(done - state->skipped) : 0;
    char eta[32];

    if (columns > TEXT_ROOM + 10 && state->total > 0)
        append_bar(out, share, MIN_OF(columns - TEXT_ROOM, BAR_MAX));
    if (state->total > 0)
        buffer_append_format(out, "%3.0f%%  ", share * 100);
    buffer_append_format(out, "%llu rows", (unsigned long long)state->rows);
    if (seconds > 0.1)
        buffer_append_format(out, "  %.0f rows/s", (double)state->rows / seconds);
    if (fresh > 0 && state->total > 0 && seconds > 0.1) {
        progress_duration(eta, sizeof(eta), (double)(state->total - done) * seconds / fresh);
        buffer_append_format(out, "  ETA %s", eta);
    }
    if (state->waiting[0] != '\0')
        buffer_append_format(out, "  waiting: %.80s", state->waiting);
}

static unsigned columns_of_terminal(void)
{
    struct winsize size = {0};

    if (isatty(STDERR_FILENO) != 1)
        return 0;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

uint64_t progress_every_ns(void)
{
    return columns_of_terminal() > 0 ? 200 * NS_PER_MS : 2 * NS_PER_S;
}

void progress_show(const struct progress_state *state, bool is_last)
{
    unsigned columns = columns_of_terminal();
    struct buffer line = {0};

    progress_format(&line, state, columns);
    if (columns > 0)
        (void)fprintf(stderr, "\r%.*s\033[K%s", (int)MIN_OF(line.len, (size_t)columns - 1),
                      (const char *)line.data, is_last ? "\n" : "");
    else
        (void)fprintf(stderr, "%.*s\n", (int)line.len, (const char *)line.data);
    (void)fflush(stderr);
    buffer_free(&line);
}
