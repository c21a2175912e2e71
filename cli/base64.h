/* Standard base64, appended to a buffer: three bytes become four characters by two look-ups. */
#ifndef VICINAL_CLI_BASE64_H
#define VICINAL_CLI_BASE64_H

#include "common/base/buffer.h"

void base64_append(struct buffer *out, const void *data, size_t len);

#endif
