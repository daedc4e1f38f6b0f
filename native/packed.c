/* Products of a symmetric matrix, of which only the blocks on and above the diagonal are stored.
 *
 * Each tile is laid out once in the cache and used twice, T X_j and Tᵀ X_i.  BLAS would lay it out
 * anew for either, at the price of the product itself where there are few vectors.
 */

#include "packed.h"

#include <stdlib.h>
#include <string.h>

enum {
    TILE_ROW = 1024, /* bytes of a row of a tile: a tile takes 128 KiB, and stays in L2 */
    PLAIN = 3        /* vectors up to which a tile is used where it lies */
};

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR 32
#define T float
#define NAME(x) x##_float
#include "packed_kernel.h"
#define T double
#define NAME(x) x##_double
#include "packed_kernel.h"

/* With AVX-512, OpenBLAS multiplies tiles as small as these without laying them out. */
int packed_usable(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           !__builtin_cpu_supports("avx512f");
}

int packed_product(int is_double, int64_t n, int64_t c, int64_t first, int64_t stop,
                   int64_t shares, const void *data, const void *X, void *Y) {
    size_t size = (size_t)(PACKED_HEIGHT * (c * VECTOR + TILE_ROW)); /* sums of rows, and a tile */
    void *scratch = aligned_alloc(VECTOR, size);
    if (!scratch) return 1;
    if (is_double)
        product_double(n, c, first, stop, shares, data, X, Y, scratch);
    else
        product_float(n, c, first, stop, shares, data, X, Y, scratch);
    free(scratch);
    return 0;
}
#else
/* Whether this is faster than BLAS on other processors was never measured. */
int packed_usable(void) { return 0; }

int packed_product(int is_double, int64_t n, int64_t c, int64_t first, int64_t stop,
                   int64_t shares, const void *data, const void *X, void *Y) {
    (void)is_double, (void)n, (void)c, (void)first, (void)stop, (void)shares;
    (void)data, (void)X, (void)Y;
    return 1;
}
#endif
