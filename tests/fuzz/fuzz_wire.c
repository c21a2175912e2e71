/* The form between services: decoding stays inside the bytes, and what is decoded is written and
 * read again as the same.  The first byte says which of the two forms. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

/* Numbers may come in longer forms than they are written in: so the second and the third writing
 * are compared. */
static void check_question(const uint8_t *data, size_t size)
{
    struct wire_question question, again;
    struct buffer first = {0}, second = {0};
    struct arena arena = {0};
    struct err err = {0};

    if (wire_question_decode(&question, data, size, &arena, &err) == ERR_OK) {
        must((uintptr_t)question.vector % _Alignof(float) == 0, "the vector is aligned");
        wire_question_encode(&question, &first);
        must(wire_question_decode(&again, first.data, first.len, &arena, &err) == ERR_OK,
             "a question is read again");
        wire_question_encode(&again, &second);
        must(first.len == second.len && memcmp(first.data, second.data, first.len) == 0,
             "a question is as before");
    }
    buffer_free(&first);
    buffer_free(&second);
    arena_free(&arena);
}

static void check_answer(const uint8_t *data, size_t size)
{
    struct wire_answer answer, again;
    struct buffer first = {0}, second = {0};
    struct arena arena = {0};
    struct err err = {0};

    if (wire_answer_decode(&answer, data, size, &arena, &err) == ERR_OK) {
        wire_answer_encode(&answer, &first);
        must(wire_answer_decode(&again, first.data, first.len, &arena, &err) == ERR_OK,
             "an answer is read again");
        wire_answer_encode(&again, &second);
        must(first.len == second.len && memcmp(first.data, second.data, first.len) == 0,
             "an answer is as before");
    }
    buffer_free(&first);
    buffer_free(&second);
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 2 == 0)
        check_question(data + 1, size - 1);
    else
        check_answer(data + 1, size - 1);
    return 0;
}
