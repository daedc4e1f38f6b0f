/* Every product of gates, at ragged sizes and on several threads, against the definition; built
 * under the sanitizers by tests/machine/test_gate_tables.py.  Operands end where their memory
 * ends, so that a read beyond them is seen. */

#define _GNU_SOURCE /* as gates.c, which comes after other headers here */
#include <math.h>
#include <stdio.h>

#include "../../native/gates.c"
#include "numbers.h"

static void *random_array(int wide, int64_t size) {
    void *a = malloc((size_t)size * (wide ? 8 : 4));
    for (int64_t i = 0; i < size; i++) set(a, wide, i, draw());
    return a;
}

static int check(int kind, const char *engine, int wide, int threads, int64_t N, int64_t n,
                 int64_t c, int64_t columns) {
    int64_t stride = (n + 7) / 8, entries = kind == GATES_BACK    ? columns * n * c
                                  : kind == GATES_TIMES           ? N * c
                                                                  : columns * N;
    uint8_t *bits = calloc((size_t)(N * stride), 1);
    for (int64_t i = 0; i < N; i++)
        for (int64_t k = 0; k < n; k++)
            if (draw() > 0) bits[i * stride + k / 8] |= (uint8_t)(128 >> k % 8);
    int plain = kind == GATES_BACK && columns == 1 && N % 2; /* no weights */
    int pulls = kind == GATES_BACK || kind == GATES_GRAM;
    void *factor = plain ? NULL : random_array(wide, columns * (pulls ? N : n * c));
    void *scale = kind == GATES_GRAM ? random_array(wide, n) : NULL;
    void *X = kind == GATES_TIMES ? NULL : random_array(wide, N * c);
    void *out = random_array(wide, entries);
    double *wanted = calloc((size_t)entries, sizeof *wanted), worst = 0;
    double *sums = calloc((size_t)c, sizeof *sums); /* of one gate, for the Gram */
    for (int64_t b = 0; b < columns && kind == GATES_GRAM; b++)
        for (int64_t k = 0; k < n; k++) {
            memset(sums, 0, (size_t)c * sizeof *sums);
            for (int pass = 0; pass < 2; pass++)
                for (int64_t i = 0; i < N; i++) {
                    if (!(bits[i * stride + k / 8] & 128 >> k % 8)) continue;
                    for (int64_t q = 0; q < c; q++)
                        if (!pass)
                            sums[q] += get(factor, wide, b * N + i) * get(X, wide, i * c + q);
                        else
                            wanted[b * N + i] += get(scale, wide, k) * get(scale, wide, k) *
                                                 sums[q] * get(X, wide, i * c + q);
                }
        }
    for (int64_t b = 0; b < columns && kind != GATES_GRAM; b++)
        for (int64_t i = 0; i < N; i++)
            for (int64_t k = 0; k < n; k++) {
                if (!(bits[i * stride + k / 8] & 128 >> k % 8)) continue;
                for (int64_t q = 0; q < c; q++)
                    if (kind == GATES_TIMES)
                        wanted[i * c + q] += get(factor, wide, k * c + q);
                    else if (kind == GATES_DOT)
                        wanted[b * N + i] +=
                            get(factor, wide, (b * n + k) * c + q) * get(X, wide, i * c + q);
                    else
                        wanted[(b * n + k) * c + q] +=
                            (plain ? 1 : get(factor, wide, b * N + i)) * get(X, wide, i * c + q);
            }
    int done = gates_product(kind, engine, wide, threads, N, n, c, columns, bits, factor, X, scale,
                             out);
    for (int64_t i = 0; i < entries; i++) {
        double error = fabs(get(out, wide, i) - wanted[i]);
        if (!(error <= worst) && !isnan(worst)) worst = error;
    }
    double bound = (wide ? 0x1p-52 : 0x1p-23) * (double)(N + n + c) * (double)(N + n + c);
    int wrong = done != GATES_DONE || !(worst <= bound);
    if (wrong)
        printf("kind %d %s wide %d threads %d: %ld x %ld, %ld wide, %ld columns: %g over %g\n", kind,
               engine, wide, threads, (long)N, (long)n, (long)c, (long)columns, worst, bound);
    free(bits);
    free(factor);
    free(X);
    free(scale);
    free(sums);
    free(out);
    free(wanted);
    return wrong;
}

int main(void) {
    static const int64_t shapes[][3] = {
        {1, 1, 1},    {1, 7, 33},  {3, 8, 32},   {63, 65, 5},  {64, 64, 31},  {65, 130, 17},
        {200, 9, 40}, {193, 3, 1}, {4500, 2, 2}, {2, 1030, 3}, {2100, 70, 18}};
    int wrong = 0;
    const char *name;
    for (int e = 0; (name = gates_engine(e)); e++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int wide = 0; wide < 2; wide++)
                for (int threads = 1; threads < 4; threads += 2)
                    for (int kind = GATES_TIMES; kind <= GATES_GRAM; kind++)
                        for (int columns = 1; columns <= (kind == GATES_TIMES ? 1 : 2); columns++)
                            wrong += check(kind, name, wide, threads, shapes[s][0], shapes[s][1],
                                           shapes[s][2], columns);
    for (int wide = 0; wide < 2; wide++) /* so many columns that samples are not split but folded */
        wrong += check(GATES_BACK, gates_engine(0), wide, 3, 8300, 2, 2, 50);
    if (gates_product(GATES_TIMES, "none", 0, 1, 1, 1, 1, 1, NULL, NULL, NULL, NULL,
                      NULL) !=
        GATES_NO_ENGINE)
        wrong++;
    return wrong != 0;
}
