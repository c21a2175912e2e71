/* RFC 3339 date-times and ISO dates: see text.h.  Leap seconds count as the second after. */
#include "common/base/text.h"

#define FRACTION_DIGITS_MAX 18

struct cursor {
    const char *p;
    const char *end;
};

/* Exactly count digits. */
static bool take_digits(struct cursor *c, unsigned count, unsigned *out)
{
    unsigned value = 0;

    if ((size_t)(c->end - c->p) < count)
        return false;
    for (unsigned i = 0; i < count; i++, c->p++) {
        if (*c->p < '0' || *c->p > '9')
            return false;
        value = value * 10 + (unsigned)(*c->p - '0');
    }
    *out = value;
    return true;
}

static bool take(struct cursor *c, char expected)
{
    if (c->p == c->end || *c->p != expected)
        return false;
    c->p++;
    return true;
}

static bool is_leap(unsigned year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* Days from 1970-01-01 to that date of the Gregorian calendar. */
static int64_t days_of(unsigned year, unsigned month, unsigned day)
{
    static const unsigned before[12] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t past = (int64_t)year - 1; /* whole years since the year 1 */
    int64_t days = past * 365 + (year == 0 ? -1 : past / 4 - past / 100 + past / 400);

    days += before[month - 1] + (month > 2 && is_leap(year) ? 1 : 0) + day - 1;
    return days - 719162; /* 0001-01-01 to 1970-01-01 */
}

static bool take_date(struct cursor *c, int64_t *days)
{
    static const unsigned lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    unsigned year, month, day;

    if (!take_digits(c, 4, &year) || !take(c, '-') || !take_digits(c, 2, &month) || !take(c, '-') ||
        !take_digits(c, 2, &day))
        return false;
    if (month < 1 || month > 12 || day < 1)
        return false;
    if (day > lengths[month - 1] + (month == 2 && is_leap(year) ? 1 : 0))
        return false;
    *days = days_of(year, month, day);
    return true;
}

/* hh:mm:ss with an optional fraction, as seconds of the day. */
static bool take_time(struct cursor *c, double *seconds)
{
    unsigned hour, minute, second;
    double fraction = 0;

    if (!take_digits(c, 2, &hour) || !take(c, ':') || !take_digits(c, 2, &minute) ||
        !take(c, ':') || !take_digits(c, 2, &second))
        return false;
    if (hour > 23 || minute > 59 || second > 60)
        return false;
    if (take(c, '.')) {
        unsigned digits = 0, digit;
        uint64_t value = 0, scale = 1;

        for (; digits < FRACTION_DIGITS_MAX && take_digits(c, 1, &digit); digits++) {
            value = value * 10 + digit;
            scale *= 10;
        }
        if (digits == 0)
            return false;
        fraction = (double)value / (double)scale;
    }
    *seconds = hour * 3600.0 + minute * 60.0 + second + fraction;
    return true;
}

/* Z, +hh:mm, -hh:mm, or nothing: the seconds that local time is ahead of UTC. */
static bool take_zone(struct cursor *c, int64_t *ahead)
{
    unsigned hour, minute;
    bool is_west;

    *ahead = 0;
    if (c->p == c->end || take(c, 'Z') || take(c, 'z'))
        return true;
    is_west = take(c, '-');
    if (!is_west && !take(c, '+'))
        return false;
    if (!take_digits(c, 2, &hour) || !take(c, ':') || !take_digits(c, 2, &minute))
        return false;
    if (hour > 23 || minute > 59)
        return false;
    *ahead = (int64_t)hour * 3600 + (int64_t)minute * 60;
    if (is_west)
        *ahead = -*ahead;
    return true;
}

bool text_to_datetime(const char *in, size_t len, double *seconds)
{
    struct cursor c = {.p = in, .end = in + len};
    int64_t days, ahead = 0;
    double of_day = 0;

    if (!take_date(&c, &days))
        return false;
    if (c.p != c.end) {
        if (!take(&c, 'T') && !take(&c, 't') && !take(&c, ' '))
            return false;
        if (!take_time(&c, &of_day) || !take_zone(&c, &ahead))
            return false;
    }
    if (c.p != c.end)
        return false;
    *seconds = (double)(days * 86400 - ahead) + of_day;
    return true;
}
