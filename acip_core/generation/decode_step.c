/* A few tokens of each text through a decoder of the Llama kind, as a list of operations that all threads run in step.

   Products read their weights once for all rows and in the order in which they lie in memory, so that their time is that
   of reading. A row's numbers are added up in the same order however many rows and threads there are: a text does not
   depend on its company. native_program.py writes the list, once for a model; the rows' states come with each pass. */

#include <math.h>
#include <sched.h>
#include <stdint.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
extern int omp_get_thread_num(void), omp_get_num_threads(void); /* of the OpenMP that PyTorch has loaded */
#endif

#if defined(__AVX512F__)
#define LANES 16
#define OUTS 4 /* outputs at once, of several rows: as many as there are registers for the sums of four */
#else
#define LANES 8
#define OUTS 3
#endif
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FUSES
#endif
#define AHEAD 8192 /* bytes of a weight that are on their way to the cache while those before them are multiplied */
#define MANY 8         /* outputs at once, of one row */
#define WIDE 2         /* vectors of outputs at once, of a transposed factor */
#define ROWS_AT_ONCE 4
#define READING 8   /* rows whose products take as long as reading the weights from memory */
#define SPINS 2000  /* looks at a barrier, some 40 microseconds, before a thread sleeps there */
#define DEEP 16     /* rows of a transposed factor that are added to the outputs at once */
#define TOKENS 64   /* of a text that attention reads at once */
#define WIDEST 512  /* features of an attention head */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { NORM, COLUMNS, PRODUCT, BACK, ROTATE, ATTEND, GATE };
enum { FLOATS, BYTES, HALVES }; /* how weights lie in memory; halves are bfloat16 */
#define DENSE (-1) /* a state; ranks are above it, codes below */

typedef struct {
    const int8_t *z; /* (m, n) */
    const float *rows, *columns;
} Codes;

/* What a layer can run at; what it does not have is 0. */
typedef struct {
    const float *weight, *bias;       /* (m, n), (m) */
    const void *down, *up;            /* (directions, n), (directions, m), both halves or both floats */
    const Codes *codes;               /* of each level */
    const float *a, *b;               /* (beside, n), (m, beside): runs beside codes */
    int32_t place, adapter, beside;   /* of its states in a pass, -1 for one that is dense always; rows of every rank */
    int32_t halves;                   /* whether the factors are */
} Layer;

typedef struct {
    int32_t kind, sync, n, m, add, block, heads;
    float least;                    /* NORM: what is added to the sum of squares */
    int64_t x_step, y_step, z_step; /* from a row to the next */
    const float *x;                 /* (rows, n) */
    float *y, *z;                   /* (rows, m); what is between two factors */
    const float *w;                 /* NORM: (n); GATE: (rows, n) */
    const float *keys, *values;     /* of the new tokens */
    const Layer *layer;
} Op;

/* A product with weights (m, n), `turned` ones (n, m), for rows that run alike. */
typedef struct {
    int32_t rows, n, m, add, base;
    int64_t x_step, y_step;
    const float *x;
    float *y;
    const void *w;
    const float *a, *b;   /* bias; steps of rows of bytes */
    const int32_t *ranks; /* of factors: of each row less `base`, descending */
} Product;

typedef struct {
    float *const *keys, *const *values; /* of each layer: (heads, room, features) of this text at `offset` */
    int64_t offset, head_step, position;
} Text;

typedef struct {
    int32_t heads, kv_heads, features;
    float scale;
    const float *cos, *sin; /* (positions, features); sines with the sign of the half they are added to */
} Shape;

typedef struct {
    int32_t rows;
    const int32_t *states; /* (layers, rows) */
    const Text *texts;     /* of each row */
    const Shape *shape;
} Pass;

typedef struct {
    int32_t arrived, round, asleep;
} Barrier;

/* A thread that waits for one that has lost its core sleeps, so that the other is moved to the core that is free. */
static void sleep_until_round_is_over(Barrier *barrier, int32_t round) {
#if defined(__linux__)
    __atomic_add_fetch(&barrier->asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&barrier->round, __ATOMIC_SEQ_CST) == round)
        syscall(SYS_futex, &barrier->round, FUTEX_WAIT_PRIVATE, round, 0, 0, 0);
    __atomic_sub_fetch(&barrier->asleep, 1, __ATOMIC_SEQ_CST);
#else
    while (__atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round) sched_yield();
#endif
}

static void meet(Barrier *barrier, int threads) {
    if (threads == 1) return;
    int32_t round = __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_SEQ_CST);
#if defined(__linux__)
        if (__atomic_load_n(&barrier->asleep, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, &barrier->round, FUTEX_WAKE_PRIVATE, INT32_MAX, 0, 0, 0);
#endif
        return;
    }
    for (int spins = 0; __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round; spins++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (spins == SPINS) sleep_until_round_is_over(barrier, round);
    }
}

/* The part [*from, *to) of `count` things that a thread does, in multiples of `unit`. */
static void part(long count, long unit, int thread, int threads, long *from, long *to) {
    long units = (count + unit - 1) / unit;
    *from = units * thread / threads * unit;
    *to = units * (thread + 1) / threads * unit;
    if (*to > count) *to = count;
}

/* a b + c, rounded once where the processor can. It is written out, for a compiler that chooses for each loop, as GCC does
   for AMD, gives a row other numbers beside others than alone. */
static inline float fused(float a, float b, float c) {
#if defined(FUSES)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline vec fused_all(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(FUSES)
    for (int i = 0; i < LANES; i++) c[i] = fused(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* Of a loop over the lanes GCC makes an insert for each: five operations for one. */
static inline vec broadcast(float x) { return x - (vec){0}; }

static inline float total(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#endif
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

static inline vec load_bytes(const int8_t *w) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)w)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)w)));
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = w[i];
    return v;
#endif
}

static inline float half(const uint16_t *w) {
    union { uint32_t i; float f; } number = {(uint32_t)*w << 16};
    return number.f;
}

static inline vec load_halves(const uint16_t *w) {
#if defined(__AVX512F__)
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)w)), 16);
#elif defined(__AVX2__)
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)w)), 16);
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = half(w + i);
    return v;
#endif
}

static inline vec load(const void *w, long i, int type) {
    if (type == BYTES) return load_bytes((const int8_t *)w + i);
    return type == HALVES ? load_halves((const uint16_t *)w + i) : *(const vec *)((const float *)w + i);
}

static inline float one(const void *w, long i, int type) {
    if (type == BYTES) return ((const int8_t *)w)[i];
    return type == HALVES ? half((const uint16_t *)w + i) : ((const float *)w)[i];
}

static inline const void *at(const void *w, long i, int type) {
    return (const char *)w + i * (type == BYTES ? 1 : type == HALVES ? 2 : 4);
}

/* How many of `left` rows are done at once. Weights are decoded anew for each group, so of several rows none is left alone. */
static inline long group(long left) { return left <= 2 ? left : left == ROWS_AT_ONCE || left > 6 ? ROWS_AT_ONCE : 3; }

/* Outputs o to o + OUT of rows r to r + ROWS; both are constants where this is used. */
static inline __attribute__((always_inline)) void dots(const Product *op, long o, long r, int OUT, int ROWS, int type) {
    long n = op->n, i = 0;
    const void *w[MANY];
    const float *x = op->x + r * op->x_step;
    vec sums[MANY][ROWS_AT_ONCE];
    for (int j = 0; j < OUT; j++) w[j] = at(op->w, (o + j) * n, type);
    for (int j = 0; j < OUT; j++)
        for (int k = 0; k < ROWS; k++) sums[j][k] = (vec){0};
    for (; i + LANES <= n; i += LANES) {
        vec weights[MANY];
        for (int j = 0; j < OUT; j++) {
            if (i % (type == BYTES ? 64 : type == HALVES ? 32 : LANES) == 0)
                __builtin_prefetch((const char *)at(w[j], i, type) + AHEAD, 0, 2);
            weights[j] = load(w[j], i, type);
        }
        for (int k = 0; k < ROWS; k++) {
            vec inputs = *(const vec *)(x + k * op->x_step + i);
            for (int j = 0; j < OUT; j++) sums[j][k] = fused_all(weights[j], inputs, sums[j][k]);
        }
    }
    for (int j = 0; j < OUT; j++)
        for (int k = 0; k < ROWS; k++) {
            float sum = total(sums[j][k]);
            for (long rest = i; rest < n; rest++) sum = fused(one(w[j], rest, type), x[k * op->x_step + rest], sum);
            float *y = op->y + (r + k) * op->y_step + o + j;
            if (type == BYTES) sum *= op->b[o + j];
            if (op->a) sum += op->a[o + j];
            *y = op->add ? *y + sum : sum;
        }
}

/* Outputs o to o + OUT of the first `rows` rows. */
static inline __attribute__((always_inline)) void all_dots(const Product *op, long o, long rows, int OUT, int type) {
    for (long r = 0, count; r < rows; r += count)
        switch (count = group(rows - r)) {
        case 4: dots(op, o, r, OUT, 4, type); break;
        case 3: dots(op, o, r, OUT, 3, type); break;
        case 2: dots(op, o, r, OUT, 2, type); break;
        default: dots(op, o, r, OUT, 1, type);
        }
}

/* How many of the first `rows` rows want output o of a factor: those of larger ranks come first. */
static inline long wanting(const Product *op, long o, long rows) {
    while (op->ranks && rows && op->base + op->ranks[rows - 1] <= o) rows--;
    return rows;
}

/* The output of a factor that a thread begins with: as much is read and multiplied before it as threads before it should. */
static long begin(const Product *op, int thread, int threads) {
    if (thread == threads) return op->m;
    long all = READING * (op->base + op->ranks[0]), before = 0, o = 0;
    for (long r = 0; r < op->rows; r++) all += op->base + op->ranks[r];
    for (long rows = op->rows; o < op->m && before * threads < all * thread; o += MANY) {
        rows = wanting(op, o, rows);
        before += MANY * (READING + rows);
    }
    return o;
}

static inline __attribute__((always_inline)) void products(const Product *op, int thread, int threads, int type) {
    long o, to, rows = op->rows;
    if (op->ranks) o = begin(op, thread, threads), to = begin(op, thread + 1, threads);
    else part(op->m, MANY, thread, threads, &o, &to);
    if (to > op->m) to = op->m;
    if (rows == 1)
        for (; o + MANY <= to; o += MANY) dots(op, o, 0, MANY, 1, type);
    for (; o + OUTS <= to; o += OUTS) all_dots(op, o, rows = wanting(op, o, rows), OUTS, type);
    for (; o < to; o++) all_dots(op, o, rows = wanting(op, o, rows), 1, type);
}

/* y += x W for rows r to r + ROWS, VECS vectors of outputs from o on, and rows i to `end` of W. */
static inline __attribute__((always_inline)) void add_tile(
    const Product *op, long i, long end, long r, long o, int ROWS, int VECS, int type) {
    const float *x = op->x + r * op->x_step;
    float *y = op->y + r * op->y_step + o;
    vec sums[ROWS_AT_ONCE][WIDE];
    for (int k = 0; k < ROWS; k++)
        for (int v = 0; v < VECS; v++) sums[k][v] = *(vec *)(y + k * op->y_step + v * LANES);
    for (; i < end; i++) {
        const void *w = at(op->w, i * op->m + o, type);
        vec weights[WIDE];
        if (r == 0) __builtin_prefetch(at(w, DEEP * op->m, type), 0, 2);
        for (int v = 0; v < VECS; v++) weights[v] = load(w, v * LANES, type);
        for (int k = 0; k < ROWS; k++) {
            vec inputs = broadcast(x[k * op->x_step + i]);
            for (int v = 0; v < VECS; v++) sums[k][v] = fused_all(weights[v], inputs, sums[k][v]);
        }
    }
    for (int k = 0; k < ROWS; k++)
        for (int v = 0; v < VECS; v++) *(vec *)(y + k * op->y_step + v * LANES) = sums[k][v];
}

/* Outputs `from` to `to` of it. */
static inline __attribute__((always_inline)) void add_turned(
    const Product *op, long i, long end, long r, long from, long to, int ROWS, int type) {
    long o = from;
    for (; o + WIDE * LANES <= to; o += WIDE * LANES) add_tile(op, i, end, r, o, ROWS, WIDE, type);
    for (; o + LANES <= to; o += LANES) add_tile(op, i, end, r, o, ROWS, 1, type);
    for (; o < to; o++)
        for (long k = r; k < r + ROWS; k++) {
            float *y = op->y + k * op->y_step + o;
            for (long j = i; j < end; j++) *y = fused(one(op->w, j * op->m + o, type), op->x[k * op->x_step + j], *y);
        }
}

/* y (+)= x W + bias of a factor that lies transposed, every row up to its own rank. */
static inline __attribute__((always_inline)) void turned(const Product *op, int thread, int threads, int type) {
    long from, to, live = op->rows;
    part(op->m, LANES, thread, threads, &from, &to);
    for (long r = 0; r < op->rows; r++)
        for (long o = from; o < to; o++) {
            float start = op->a ? op->a[o] : 0, *y = op->y + r * op->y_step + o;
            *y = op->add ? *y + start : start;
        }
    for (long i = 0, end; (live = wanting(op, i, live)); i = end) {
        end = op->base + op->ranks[live - 1];
        if (end > i + DEEP) end = i + DEEP;
        for (long r = 0, count; r < live; r += count)
            switch (count = group(live - r)) {
            case 4: add_turned(op, i, end, r, from, to, 4, type); break;
            case 3: add_turned(op, i, end, r, from, to, 3, type); break;
            case 2: add_turned(op, i, end, r, from, to, 2, type); break;
            default: add_turned(op, i, end, r, from, to, 1, type);
            }
    }
}

static void scale(const Product *op, int thread, int threads) {
    long from, to;
    part(op->n, LANES, thread, threads, &from, &to);
    for (long r = 0; r < op->rows; r++)
        for (long i = from; i < to; i++) op->y[r * op->y_step + i] = op->x[r * op->x_step + i] * op->b[i];
}

/* Rows of a layer that run a rank each: down to their directions, then up from those of its own. */
static int ranked(const Op *op, Product all, float *z, int thread, int threads) {
    const Layer *layer = op->layer;
    long width = layer->adapter + all.ranks[0];
    all.base = layer->adapter;
    if (op->kind == PRODUCT) {
        all.w = layer->down, all.m = width, all.y = z, all.y_step = op->z_step, all.a = 0, all.add = 0;
        if (layer->halves) products(&all, thread, threads, HALVES);
        else products(&all, thread, threads, FLOATS);
    } else if (op->kind == BACK) {
        all.w = layer->up, all.n = width, all.x = z, all.x_step = op->z_step;
        if (layer->halves) turned(&all, thread, threads, HALVES);
        else turned(&all, thread, threads, FLOATS);
    }
    return op->kind != COLUMNS;
}

static int dense(const Op *op, Product all, int thread, int threads) {
    all.w = op->layer->weight;
    if (op->kind == PRODUCT) products(&all, thread, threads, FLOATS);
    return op->kind == PRODUCT;
}

/* Rows of a layer that run codes of one level, and where they are `adapted`, what runs beside them. */
static int coded(const Op *op, Product all, float *z, const Codes *codes, int adapted, int thread, int threads) {
    const Layer *layer = op->layer;
    Product beside = all;
    beside.a = 0;
    if (op->kind == COLUMNS) {
        all.y = z, all.y_step = op->z_step, all.b = codes->columns;
        scale(&all, thread, threads);
        return 1;
    }
    if (op->kind == PRODUCT) {
        all.x = z, all.x_step = op->z_step, all.w = codes->z, all.b = codes->rows;
        products(&all, thread, threads, BYTES);
        beside.w = layer->a, beside.m = layer->beside, beside.y = z + op->n, beside.y_step = op->z_step, beside.add = 0;
    } else {
        beside.w = layer->b, beside.n = layer->beside, beside.x = z + op->n, beside.x_step = op->z_step, beside.add = 1;
    }
    if (adapted) products(&beside, thread, threads, FLOATS);
    return op->kind == PRODUCT || adapted;
}

/* What one of a layer's stages does, neighbouring rows that run alike at once; says whether there is anything to do. */
static int in_runs(const Op *op, const Pass *pass, int thread, int threads) {
    const Layer *layer = op->layer;
    const int32_t *states = layer->place < 0 ? 0 : pass->states + (long)layer->place * pass->rows;
    int works = 0;
    for (long r = 0, end; r < pass->rows; r = end) {
        int32_t state = states ? states[r] : DENSE;
        for (end = r + 1; end < pass->rows && states; end++)
            if (state > DENSE ? states[end] <= DENSE || states[end] > states[end - 1] : states[end] != state) break;
        if (!states) end = pass->rows;
        Product all = {end - r, op->n, op->m, op->add, 0, op->x_step, op->y_step, op->x + r * op->x_step, op->y + r * op->y_step};
        float *z = op->z + r * op->z_step;
        all.a = layer->bias;
        all.ranks = state > DENSE ? states + r : 0;
        if (state > DENSE) works |= ranked(op, all, z, thread, threads);
        else if (state == DENSE) works |= dense(op, all, thread, threads);
        else works |= coded(op, all, z, layer->codes + (DENSE - 1 - state) / 2, (DENSE - 1 - state) % 2, thread, threads);
    }
    return works;
}

static void norm(const Op *op, long rows, int thread, int threads) {
    for (long r = thread; r < rows; r += threads) {
        const float *x = op->x + r * op->x_step, *w = op->w;
        float *y = op->y + r * op->y_step, squares = 0;
        vec sums = {0};
        long i = 0;
        for (; i + LANES <= op->n; i += LANES) sums = fused_all(*(const vec *)(x + i), *(const vec *)(x + i), sums);
        for (; i < op->n; i++) squares = fused(x[i], x[i], squares);
        float by = 1 / sqrtf(total(sums) + squares + op->least);
        for (i = 0; i < op->n; i++) y[i] = x[i] * by * w[i];
    }
}

static void rotate(const float *x, float *y, const Shape *shape, long position) {
    const float *cos = shape->cos + position * shape->features, *sin = shape->sin + position * shape->features;
    long half = shape->features / 2;
    for (long i = 0; i < half; i++) {
        float low = x[i], high = x[i + half];
        y[i] = fused(low, cos[i], high * sin[i]);
        y[i + half] = fused(high, cos[i + half], low * sin[i + half]);
    }
}

/* Queries at their place; keys, too, and values, behind those of their text. */
static void rotate_all(const Op *op, const Pass *pass, int thread, int threads) {
    const Shape *shape = pass->shape;
    long d = shape->features, each = shape->heads + 2 * shape->kv_heads, all_heads = pass->rows * each;
    for (long unit = thread; unit < all_heads; unit += threads) {
        long r = unit / each, head = unit % each;
        const Text *text = pass->texts + r;
        if (head < shape->heads) {
            float *q = op->y + r * op->y_step + head * d;
            rotate(q, q, shape, text->position);
            continue;
        }
        head -= shape->heads;
        int is_value = head >= shape->kv_heads;
        if (is_value) head -= shape->kv_heads;
        const float *from = (is_value ? op->values : op->keys) + r * shape->kv_heads * d + head * d;
        float *to = (is_value ? text->values : text->keys)[op->block] + text->offset + head * text->head_step + text->position * d;
        if (!is_value) rotate(from, to, shape, text->position);
        else for (long i = 0; i < d; i++) to[i] = from[i];
    }
}

/* e^x for x <= 0, to 2 in 10^7. */
static inline float exponential(float x) {
    float n = floorf(fused(x, 1.44269504f, 0.5f)), f;
    if (n < -126) return 0;
    f = fused(n, 2.12194440e-4f, fused(n, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = fused(p, f, 1.3981999507e-3f), p = fused(p, f, 8.3334519073e-3f), p = fused(p, f, 4.1665795894e-2f);
    p = fused(p, f, 1.6666665459e-1f), p = fused(p, f, 5.0000001201e-1f), p = fused(p * f, f, f + 1);
    union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
    return p * power.f;
}

static inline float dot(const float *x, const float *y, long n) {
    vec sums = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES) sums = fused_all(*(const vec *)(x + i), *(const vec *)(y + i), sums);
    float sum = total(sums);
    for (; i < n; i++) sum = fused(x[i], y[i], sum);
    return sum;
}

/* Softmax over a text a few tokens at a time, what came before weighed down as larger scores come. */
static void attend(const Op *op, const Pass *pass, int thread, int threads) {
    const Shape *shape = pass->shape;
    long d = shape->features, groups = shape->heads / shape->kv_heads;
    for (long unit = thread; unit < pass->rows * shape->heads; unit += threads) {
        long r = unit / shape->heads, head = unit % shape->heads;
        const Text *text = pass->texts + r;
        long at = text->offset + head / groups * text->head_step, length = text->position + 1;
        const float *keys = text->keys[op->block] + at, *values = text->values[op->block] + at;
        const float *q = op->x + r * op->x_step + head * d;
        float mixed[WIDEST] = {0}, scores[TOKENS], most = -INFINITY, weight = 0;
        for (long start = 0; start < length; start += TOKENS) {
            long count = length - start < TOKENS ? length - start : TOKENS;
            float before = most;
            for (long t = 0; t < count; t++) {
                scores[t] = shape->scale * dot(q, keys + (start + t) * d, d);
                if (scores[t] > most) most = scores[t];
            }
            float kept = start ? exponential(before - most) : 0;
            weight *= kept;
            for (long i = 0; i < d; i++) mixed[i] *= kept;
            for (long t = 0; t < count; t++) scores[t] = exponential(scores[t] - most);
            for (long t = 0; t < count; t++) {
                weight += scores[t];
                for (long i = 0; i < d; i++) mixed[i] = fused(scores[t], values[(start + t) * d + i], mixed[i]);
            }
        }
        float *y = op->y + r * op->y_step + head * d;
        for (long i = 0; i < d; i++) y[i] = mixed[i] / weight;
    }
}

/* silu(x) · w */
static void gate(const Op *op, long rows, int thread, int threads) {
    long from, to;
    part(op->n, LANES, thread, threads, &from, &to);
    for (long r = 0; r < rows; r++) {
        const float *x = op->x + r * op->x_step, *w = op->w + r * op->x_step;
        float *y = op->y + r * op->y_step;
        for (long i = from; i < to; i++) {
            float e = exponential(-fabsf(x[i]));
            y[i] = x[i] * (x[i] < 0 ? e : 1) / (1 + e) * w[i];
        }
    }
}

static void run(const Op *ops, long count, const Pass *pass, Barrier *barrier, int thread, int threads) {
    int worked = 0; /* since the last meeting, by any thread: all come to the same answer */
    for (const Op *op = ops; op < ops + count; op++) {
        int works = 1;
        switch (op->kind) {
        case NORM: norm(op, pass->rows * op->heads, thread, threads); break;
        case COLUMNS: case PRODUCT: case BACK: works = in_runs(op, pass, thread, threads); break;
        case ROTATE: rotate_all(op, pass, thread, threads); break;
        case ATTEND: attend(op, pass, thread, threads); break;
        case GATE: gate(op, pass->rows, thread, threads); break;
        }
        worked |= works;
        if (op->sync && worked) meet(barrier, threads), worked = 0;
    }
}

void acip_decode(const Op *ops, int64_t count, const Pass *pass, int32_t threads) {
    Barrier barrier = {0, 0};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    run(ops, count, pass, &barrier, omp_get_thread_num(), omp_get_num_threads());
#else
    run(ops, count, pass, &barrier, 0, 1);
#endif
}
