#ifndef OPFLOW_GATES_H
#define OPFLOW_GATES_H

#include <stdint.h>

/* Θ is N × n, row after row in ⌈n/8⌉ bytes each, the first gate the top bit, padded with zeros.
 * GATES_TIMES  out (N, c) = Θ M,                             factor is M (n, c)
 * GATES_DOT    out (columns, N), entry μ = X_μ · (Θ M)_μ,    factor is M (columns, n, c)
 * GATES_BACK   out (columns, n, c) = Θᵀ diag(r) X,           factor is r (columns, N) or NULL
 * GATES_GRAM   out (columns, N), entry μ = X_μ · (Θ diag(v)² Θᵀ diag(r) X)_μ,  factor is r
 * with X (N, c) and, for the last alone, `scale` v (n); everything contiguous, float or double. */
enum { GATES_TIMES, GATES_DOT, GATES_BACK, GATES_GRAM };
enum { GATES_DONE, GATES_NO_MEMORY, GATES_NO_ENGINE };

/* `name` is an engine, or NULL for the fastest that this processor has. */
int gates_product(int kind, const char *name, int is_double, int threads, int64_t N, int64_t n,
                  int64_t c, int64_t columns, const uint8_t *bits, const void *factor,
                  const void *X, const void *scale, void *out);

/* The engines of this processor, fastest first; NULL after the last. */
const char *gates_engine(int i);

#endif
