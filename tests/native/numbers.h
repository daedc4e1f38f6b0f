/* Random numbers, and entries of arrays of either type. */

#include <stdint.h>

static uint64_t state = 1;
static double draw(void) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 33) / (double)(UINT64_C(1) << 30) - 1.0;
}

static double get(const void *a, int wide, int64_t i) {
    return wide ? ((const double *)a)[i] : (double)((const float *)a)[i];
}

static void set(void *a, int wide, int64_t i, double value) {
    if (wide)
        ((double *)a)[i] = value;
    else
        ((float *)a)[i] = (float)value;
}
