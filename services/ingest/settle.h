/* The thread that ends what changes of collections have left over. */
#ifndef VICINAL_INGEST_SETTLE_H
#define VICINAL_INGEST_SETTLE_H

#include "services/ingest/catalogue.h"

void settle_thread(void *ingest);
void settle_stop(struct catalogue *catalogue); /* wakes it for its end */

#endif
