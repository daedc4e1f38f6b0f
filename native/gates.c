/* Products of a matrix of bits with matrices of numbers, by the method of the four Russians.
 *
 * For every four gates (or samples) the 16 sums that their rows can make are tabulated over a strip
 * of columns; a row of the product then adds one entry of each table, where a matrix product
 * multiplies and adds four times.  No Python here: module.c wraps it, tests/native drives it.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sched_getcpu and pthread_attr_setaffinity_np */
#endif
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gates.h"

/* So that the address sanitizer sees writes beyond a part of a larger block. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1 /* clang's name for it */
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define UNTOUCHED(start, size)                 \
    (ASAN_UNPOISON_MEMORY_REGION(start, size), \
     ASAN_POISON_MEMORY_REGION((char *)(start) + (size), PAGE))
#else
#define UNTOUCHED(start, size) ((void)0)
#endif

enum {
    ROWS = 192,         /* rows whose accumulators pass through L1 together */
    RANGE = 2048,       /* rows a task visits with the tables it built */
    PANEL = 512,        /* gates whose tables fit L2 together */
    BACK_PANEL = 1024,  /* gates whose accumulators fit L2 together */
    FOLD = 64,          /* words of samples summed before they join the total */
    TASKS = 48,         /* worth having of them: few strips are split over samples */
    REDUCE = 8192,      /* entries of a result that one task sums */
    GATHER = 1024,      /* rows whose bits one task lays out */
    MAX_THREADS = 256,
    PAGE = 4096,
    KEPT = 16 << 20,    /* bytes of memory that are kept between calls, at most */
    SPINS = 50000 /* looks for the others, about a millisecond, before a thread sleeps */
};

typedef struct {
    /* Θ is N × n; X is N × c; `factor` is M, columns × n × c, or r, columns × N; `scale` is v, n */
    int64_t N, n, c, columns;
    const uint8_t *bits;
    const void *factor, *X, *scale;
    void *out;
    /* the bits by words of 64: [word of gates][row], or [word of samples][gate] */
    uint64_t *gates;
    int64_t words, laid, strips, ranges, panels, extent;
    /* results before they are summed: `terms` of them, `block_step` entries apart, `summed` in all */
    void *partial;
    int64_t reduced, block, hop, block_step, terms, summed;
} job;

typedef struct {
    void (*forward)(const job *, int64_t, void *);
    void (*backward)(const job *, int64_t, void *);
    void (*reduce)(const job *, int64_t, void *);
    int64_t strip, tables;
} engine;

/* Edges of nearly equal ranges: of the shapes alone, so that no result depends on threads. */
static int64_t range_edge(const job *j, int64_t i) { return j->extent * i / j->ranges; }

#define T float
#define NAME(x) x##_float_portable
#define TARGET
#define VECTOR 16
#define STRIP 128
#define TABLES 8 /* 16 KiB at a time */
#include "gates_kernel.h"
#define T double
#define NAME(x) x##_double_portable
#include "gates_kernel.h"
#undef TARGET
#undef VECTOR

#if defined(__x86_64__)
/* Vectors of 64 bytes were slower on a processor that has them. */
#define TARGET __attribute__((target("avx2")))
#define VECTOR 32
#define T float
#define NAME(x) x##_float_avx2
#include "gates_kernel.h"
#define T double
#define NAME(x) x##_double_avx2
#include "gates_kernel.h"
#endif

static const struct {
    const char *name;
    const engine *engines[2];
} ENGINES[] = {
#if defined(__x86_64__)
    {"avx2", {&engine_float_avx2, &engine_double_avx2}},
#endif
    {"portable", {&engine_float_portable, &engine_double_portable}},
};

static int usable(size_t i) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (i == 0) return __builtin_cpu_supports("avx2") != 0;
#endif
    return i < sizeof ENGINES / sizeof *ENGINES;
}

const char *gates_engine(int i) {
    for (size_t k = 0; k < sizeof ENGINES / sizeof *ENGINES; k++)
        if (usable(k) && i-- == 0) return ENGINES[k].name;
    return NULL;
}

/* -- the bits, by words ------------------------------------------------------------------------ */

static uint64_t load_word(const uint8_t *bytes, int64_t count) {
    uint64_t word = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (count >= 8) {
        memcpy(&word, bytes, 8);
        return word;
    }
#endif
    for (int64_t k = 0; k < count && k < 8; k++) word |= (uint64_t)bytes[k] << 8 * k;
    return word;
}

static void words_of_gates(const job *j, int64_t task, void *scratch) {
    (void)scratch;
    int64_t stride = (j->n + 7) / 8, stop = (task + 1) * GATHER < j->N ? (task + 1) * GATHER : j->N;
    for (int64_t g = 0; g < j->words; g++)
        for (int64_t i = task * GATHER; i < stop; i++)
            j->gates[g * j->N + i] = load_word(j->bits + i * stride + 8 * g, stride - 8 * g);
}

/* One step of the transpose of 64 × 64 bits: in every square of 2 j × 2 j, the two j × j squares off
 * the diagonal change places.  `low` has the lower j of every 2 j bits. */
static inline __attribute__((always_inline)) void swap_squares(uint64_t *a, int j, uint64_t low) {
    for (int square = 0; square < 64; square += 2 * j)
        for (int i = square; i < square + j; i++) {
            uint64_t t = (a[i] >> j ^ a[i + j]) & low;
            a[i] ^= t << j;
            a[i + j] ^= t;
        }
}

static void words_of_samples(const job *j, int64_t task, void *scratch) {
    (void)scratch;
    int64_t stride = (j->n + 7) / 8, rows = j->N - 64 * task < 64 ? j->N - 64 * task : 64;
    for (int64_t g = 0; g < j->n; g += 64) {
        /* in a word, gate or sample i is bit i ^ 7: the first is the high bit of the first byte */
        uint64_t square[64] = {0};
        for (int64_t i = 0; i < rows; i++)
            square[i ^ 7] = load_word(j->bits + (64 * task + i) * stride + g / 8, stride - g / 8);
        swap_squares(square, 32, UINT64_C(0x00000000FFFFFFFF));
        swap_squares(square, 16, UINT64_C(0x0000FFFF0000FFFF));
        swap_squares(square, 8, UINT64_C(0x00FF00FF00FF00FF));
        swap_squares(square, 4, UINT64_C(0x0F0F0F0F0F0F0F0F));
        swap_squares(square, 2, UINT64_C(0x3333333333333333));
        swap_squares(square, 1, UINT64_C(0x5555555555555555));
        for (int64_t i = 0; i < 64 && g + i < j->n; i++)
            j->gates[task * j->n + g + i] = square[i ^ 7];
    }
}

/* -- threads: made for one call, so that nothing is left to fork, to spin or to shut down ------- */

typedef struct {
    void (*work)(const job *, int64_t, void *);
    const job *job;
    int64_t tasks, next;
} phase;

typedef struct {
    phase phases[6]; /* all meet between one and the next */
    int count;
    int64_t widest; /* tasks of a phase */
    char *scratch;
    size_t scratch_size;
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    int size, joined, here, rounds, spins;
#if defined(__GLIBC__)
    cpu_set_t cores; /* those it may use */
    int home;        /* where its maker is */
#endif
} team;

static void meet(team *t) {
    pthread_mutex_lock(&t->lock);
    int round = t->rounds;
    if (++t->here == t->size) {
        t->here = 0;
        __atomic_store_n(&t->rounds, round + 1, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&t->all_here);
        pthread_mutex_unlock(&t->lock);
        return;
    }
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->spins; i++) {
        if (__atomic_load_n(&t->rounds, __ATOMIC_ACQUIRE) != round) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&t->lock);
    while (round == t->rounds) pthread_cond_wait(&t->all_here, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

/* Where thread number i begins: on another core than its maker's.  Left to the system it may be put
 * beside its maker, and not run before that one waits for it. */
static void place(const team *t, int threads, int i, pthread_attr_t *where) {
#if defined(__GLIBC__)
    int cores = CPU_COUNT(&t->cores), seen = 0, home = 0;
    if (cores < threads || t->home < 0 || !CPU_ISSET(t->home, &t->cores)) return;
    for (int cpu = 0; cpu < t->home; cpu++) home += CPU_ISSET(cpu, &t->cores) ? 1 : 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &t->cores) && seen++ == (home + i) % cores) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_attr_setaffinity_np(where, sizeof one, &one);
            return;
        }
#else
    (void)t, (void)threads, (void)i, (void)where;
#endif
}

static void *member(void *argument) {
    team *t = argument;
    int joined = __atomic_fetch_add(&t->joined, 1, __ATOMIC_RELAXED);
    char *scratch = t->scratch + t->scratch_size * (size_t)joined;
    for (int i = 0; i < t->count; i++) {
        phase *p = &t->phases[i];
        int64_t task;
        if (i && t->size > 1) meet(t);
        while ((task = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED)) < p->tasks)
            p->work(p->job, task, scratch);
    }
    return NULL;
}

static void *other(void *argument) {
    team *t = argument;
    pthread_mutex_lock(&t->lock); /* held until it is known how many there are */
    pthread_mutex_unlock(&t->lock);
#if defined(__GLIBC__)
    /* free to move only from here: woken by its maker, it would be put beside that one */
    if (t->home >= 0) sched_setaffinity(0, sizeof t->cores, &t->cores);
#endif
    return member(argument);
}

static void run(team *t, int threads) {
    pthread_t others[MAX_THREADS];
#if defined(__GLIBC__)
    t->home = -1;
    if (threads > 1 && !sched_getaffinity(0, sizeof t->cores, &t->cores)) t->home = sched_getcpu();
    t->spins = t->home < 0 || CPU_COUNT(&t->cores) >= threads ? SPINS : 0; /* else in others' way */
#else
    t->spins = SPINS;
#endif
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->all_here, NULL);
    pthread_mutex_lock(&t->lock);
    for (t->size = 1; t->size < threads; t->size++) {
        pthread_attr_t where;
        if (pthread_attr_init(&where)) break;
        place(t, threads, t->size, &where);
        int failed = pthread_create(&others[t->size], &where, other, t) &&
                     pthread_create(&others[t->size], NULL, other, t); /* wherever it may */
        pthread_attr_destroy(&where);
        if (failed) break; /* with those there are */
    }
    pthread_mutex_unlock(&t->lock);
    member(t);
    for (int i = 1; i < t->size; i++) pthread_join(others[i], NULL);
    pthread_cond_destroy(&t->all_here);
    pthread_mutex_destroy(&t->lock);
}

/* -- the products ------------------------------------------------------------------------------ */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static size_t pages(size_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

/* Memory that the last call to end has left for the next one, its size in its first page: to be
 * given fresh pages takes as long as a small product. */
static size_t *kept;

static size_t *take(size_t size) {
    size_t *block = __atomic_exchange_n(&kept, NULL, __ATOMIC_ACQ_REL);
    if (block && *block >= size) return block;
    free(block);
    block = aligned_alloc(PAGE, size);
    if (block) *block = size;
    return block;
}

/* `size` bytes, of whole pages, of what is left from `next` on; then a page that nobody touches. */
static void *part(char **next, size_t size) {
    char *start = *next;
    UNTOUCHED(start, size);
    *next = start + size + PAGE;
    return start;
}

static void leave(size_t *block) {
    free(*block > KEPT ? block : __atomic_exchange_n(&kept, block, __ATOMIC_ACQ_REL));
}

static void add(team *t, void (*work)(const job *, int64_t, void *), const job *j, int64_t tasks) {
    if (tasks > 0) t->phases[t->count++] = (phase){work, j, tasks, 0};
    if (tasks > t->widest) t->widest = tasks;
}

static void need_scratch(team *t, int64_t bytes) {
    if (pages((size_t)bytes) > t->scratch_size) t->scratch_size = pages((size_t)bytes);
}

static void add_back(team *t, job *j, const engine *e) {
    j->words = j->extent = ceil_div(j->N, 64);
    j->laid = j->words * j->n;
    j->panels = ceil_div(j->n, BACK_PANEL);
    int64_t tasks = j->strips * j->panels * j->columns;
    j->ranges = ceil_div(TASKS, tasks);
    if (j->ranges > ceil_div(j->words, FOLD)) j->ranges = ceil_div(j->words, FOLD);
    if (j->ranges > 1) {
        j->terms = j->ranges;
        j->reduced = j->block = j->block_step = j->columns * j->n * j->c;
        j->summed = j->ranges * j->block_step;
    }
    add(t, words_of_samples, j, j->words);
    add(t, e->backward, j, tasks * j->ranges);
    add(t, e->reduce, j, ceil_div(j->reduced, REDUCE));
    need_scratch(t, e->strip * (e->tables * 16 + 2 * BACK_PANEL));
}

static void add_forward(team *t, job *j, const engine *e) {
    j->words = ceil_div(j->n, 64);
    j->laid = j->words * j->N;
    j->extent = j->N;
    j->ranges = ceil_div(j->N, RANGE);
    if (j->X) {
        j->terms = j->strips;
        j->reduced = j->columns * j->N;
        j->block = j->block_step = j->N;
        j->hop = j->strips * j->N;
        j->summed = j->columns * j->hop;
    }
    add(t, words_of_gates, j, ceil_div(j->N, GATHER));
    add(t, e->forward, j, j->strips * j->ranges * j->columns);
    add(t, e->reduce, j, ceil_div(j->reduced, REDUCE));
    need_scratch(t, e->strip * (PANEL / 4 * 16 + RANGE + 1));
}

int gates_product(int kind, const char *name, int is_double, int threads, int64_t N, int64_t n,
                  int64_t c, int64_t columns, const uint8_t *bits, const void *factor,
                  const void *X, const void *scale, void *out) {
    const engine *e = NULL;
    for (size_t k = 0; k < sizeof ENGINES / sizeof *ENGINES && !e; k++)
        if (usable(k) && (!name || !strcmp(name, ENGINES[k].name)))
            e = ENGINES[k].engines[is_double ? 1 : 0];
    if (!e) return GATES_NO_ENGINE;
    size_t size = is_double ? 8 : 4;
    int64_t both = columns * n * c;
    if (N <= 0 || n <= 0 || c <= 0 || columns <= 0) {
        int64_t entries = kind == GATES_BACK ? both : columns * N * (kind == GATES_TIMES ? c : 1);
        if (entries > 0) memset(out, 0, (size_t)entries * size);
        return GATES_DONE;
    }
    job back = {.N = N, .n = n, .c = c, .columns = columns, .bits = bits, .factor = factor, .X = X,
                .scale = scale, .out = out, .strips = ceil_div(c * (int64_t)size, e->strip)};
    job forward = back;
    team t = {0};
    if (kind == GATES_BACK || kind == GATES_GRAM) add_back(&t, &back, e);
    if (kind != GATES_BACK) add_forward(&t, &forward, e);
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > t.widest) threads = (int)t.widest;
    if (threads < 1) threads = 1;

    size_t scratch = t.scratch_size * (size_t)threads, total = scratch + 7 * PAGE;
    size_t middle = kind == GATES_GRAM ? pages((size_t)both * size) : 0;
    job *jobs[] = {&back, &forward};
    for (int i = 0; i < 2; i++)
        total += pages((size_t)jobs[i]->laid * 8) + pages((size_t)jobs[i]->summed * size);
    size_t *block = take(total + middle);
    if (!block) return GATES_NO_MEMORY;
    char *next = (char *)block + PAGE;
    for (int i = 0; i < 2; i++) {
        jobs[i]->gates = part(&next, pages((size_t)jobs[i]->laid * 8));
        void *sums = part(&next, pages((size_t)jobs[i]->summed * size));
        jobs[i]->partial = jobs[i]->summed ? sums : NULL;
    }
    if (middle) forward.factor = back.out = part(&next, middle);
    t.scratch = part(&next, scratch);
    run(&t, threads);
    leave(block);
    return GATES_DONE;
}
