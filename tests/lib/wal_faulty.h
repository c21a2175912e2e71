/* A log with faults to order, for tests: passes everything on to another log, except that the n-th
 * append goes wrong in a way that is told. */
#ifndef VICINAL_TESTS_LIB_WAL_FAULTY_H
#define VICINAL_TESTS_LIB_WAL_FAULTY_H

#include "backends/wal/wal.h"

enum wal_fault {
    WAL_FAULT_NONE,
    WAL_FAULT_BEFORE,      /* an error, and nothing lands */
    WAL_FAULT_AFTER,       /* everything lands, and an error */
    WAL_FAULT_HALF,        /* the first half lands, and an error */
    WAL_FAULT_LATE_BEFORE, /* an error; lands just before the next append */
    WAL_FAULT_LATE_BEHIND, /* an error; lands just behind the next append */
    WAL_FAULT_NO_SPACE,    /* ERR_INSUFFICIENT_STORAGE, and nothing lands */
    WAL_FAULT_OTHER_EPOCH, /* another holder's higher epoch record lands before, in all partitions
                            */
    WAL_FAULT_VOID_BEFORE, /* a record of no epoch lands before, in all partitions */
};

/* inner is owned from now on. */
struct wal *wal_faulty_wrap(struct wal *inner);

/* The n-th append from now (1: the next) goes wrong so, and `times` in all. */
void wal_faulty_set(struct wal *wal, enum wal_fault fault, unsigned nth, unsigned times);

/* Once those have gone wrong, so many more do, in another way. */
void wal_faulty_then(struct wal *wal, enum wal_fault fault, unsigned times);

/* Appends so far. */
unsigned wal_faulty_appends(struct wal *wal);

#endif
