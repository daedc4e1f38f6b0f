/* Products of packed matrices at ragged sizes, in shares on threads of their own, against the
 * definition; built under the sanitizers by tests/machine/test_gate_tables.py.  Operands end where
 * their memory ends, so that a read beyond them is seen. */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Memory as a product of NaN would leave it. */
static void *used_memory(size_t alignment, size_t size) {
    void *block = aligned_alloc(alignment, size);
    return block ? memset(block, 0xFF, size) : NULL;
}

#define aligned_alloc used_memory
#include "../../native/packed.c"
#include "numbers.h"

typedef struct {
    int wide;
    int64_t n, c, share, shares;
    const void *data, *X;
    void *Y;
    int failed;
} part;

static void *work(void *argument) {
    part *p = argument;
    p->failed = packed_product(p->wide, p->n, p->c, p->share, p->share + 1, p->shares, p->data,
                               p->X, p->Y);
    return NULL;
}

static int check(int wide, int64_t n, int64_t c, int64_t shares) {
    size_t size = wide ? 8 : 4;
    int64_t ld = (n + PACKED_HEIGHT - 1) / PACKED_HEIGHT * PACKED_HEIGHT, at = 0, stored = 0;
    for (int64_t i = 0; i < n; i += PACKED_HEIGHT)
        stored += (n - i < PACKED_HEIGHT ? n - i : PACKED_HEIGHT) * (n - i);
    void *data = malloc((size_t)stored * size), *X = calloc((size_t)(c * ld), size);
    double *A = malloc((size_t)(n * n) * sizeof *A), worst = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) A[i * n + j] = A[j * n + i] = (float)draw();
    for (int64_t i = 0; i < n; i += PACKED_HEIGHT)
        for (int64_t r = i; r < n && r < i + PACKED_HEIGHT; r++)
            for (int64_t j = i; j < n; j++) set(data, wide, at++, A[r * n + j]);
    for (int64_t k = 0; k < c; k++)
        for (int64_t j = 0; j < n; j++) set(X, wide, k * ld + j, draw());
    part parts[3];
    pthread_t threads[3];
    for (int64_t i = 0; i < shares; i++) {
        parts[i] = (part){wide, n, c, i, shares, data, X, calloc((size_t)(c * ld), size), 0};
        pthread_create(&threads[i], NULL, work, &parts[i]);
    }
    for (int64_t i = 0; i < shares; i++) pthread_join(threads[i], NULL);
    for (int64_t k = 0; k < c; k++)
        for (int64_t i = 0; i < n; i++) {
            double error = 0;
            for (int64_t j = 0; j < n; j++) error += A[i * n + j] * get(X, wide, k * ld + j);
            for (int64_t s = 0; s < shares; s++) error -= get(parts[s].Y, wide, k * ld + i);
            if (!(fabs(error) <= worst) && !isnan(worst)) worst = fabs(error);
        }
    int failed = !(worst <= (double)n * (wide ? 1e-15 : 1e-6));
    for (int64_t s = 0; s < shares; s++) {
        failed |= parts[s].failed;
        free(parts[s].Y);
    }
    if (failed) printf("double %d, n %ld, c %ld, %ld shares: %g\n", wide, (long)n, (long)c,
                       (long)shares, worst);
    free(data), free(X), free(A);
    return failed;
}

int main(void) {
    static const int64_t orders[] = {1, 3, 31, 127, 128, 129, 256, 300, 389, 700};
    int failed = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
#else
    return 0;
#endif
    for (int wide = 0; wide < 2; wide++)
        for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
            for (int64_t c = 1; c < 7; c++)
                for (int64_t shares = 1; shares < 4; shares++)
                    failed |= check(wide, orders[i], c, shares);
    return failed;
}
