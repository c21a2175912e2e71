/* Any bytes as the answer of an embeddings server: read without fault, and what is believed are
 * vectors of unit norm, one for each text. */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "backends/embedder/embedder_http.h"

#define TEXTS 3
#define DIM   2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct embedding_answer answer = {.body = data, .len = len, .count = TEXTS, .dimension = DIM};
    struct http_call call = {.status = 400, .reply = {.data = (uint8_t *)data, .len = len}};
    float out[TEXTS * DIM];
    struct err err = {0};
    bool again;

    if (embedding_answer_read(&answer, out, &err) == ERR_OK) {
        for (size_t i = 0; i < TEXTS; i++) {
            double x = out[i * DIM], y = out[i * DIM + 1];

            assert(fabs(x * x + y * y - 1) < 1e-5);
        }
    } else {
        assert(err.code == ERR_EMBEDDING_FAILED && err.message[0] != '\0');
    }
    assert(embedding_call_judge(&call, &again, &err) == ERR_EMBEDDING_FAILED);
    for (const char *at = err.message; *at != '\0'; at++)
        assert((unsigned char)*at >= 0x20);
    return 0;
}
