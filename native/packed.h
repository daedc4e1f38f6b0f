#ifndef OPFLOW_PACKED_H
#define OPFLOW_PACKED_H

#include <stdint.h>

enum { PACKED_HEIGHT = 128 }; /* rows of a block, opflow.evaluation.packed.HEIGHT */

/* Y += A X for the share [first, stop) of `shares` of a symmetric A of order n: for every block of
 * rows, one after the other in `data`, the entries from the diagonal on, row by row.  X and Y are
 * transposed, (c, ld) with ld = n rounded up to whole blocks; X is zero in what that adds.
 * Float or double.  0, or 1 if there is no memory. */
int packed_product(int is_double, int64_t n, int64_t c, int64_t first, int64_t stop,
                   int64_t shares, const void *data, const void *X, void *Y);

/* Whether this processor has the instructions, and BLAS is slower. */
int packed_usable(void);

#endif
