/* Blocks of a matrix product: some rows of words that are broadcast, times a panel of up to two vectors of columns. */
#ifndef VIMZOO_BLOCK_H
#define VIMZOO_BLOCK_H

#include "../selective_scan/task.h"

#if defined(PAIRS)
enum { PAIRED = BF16 }; /* the dtype that is multiplied in pairs */
#else
enum { PAIRED = -1 };
#endif

#if VL >= 8
/* Columns and words of a panel; the two heights of a block of rows, whose sums fill most of 16 or 32 registers. */
enum { PIECE = 192, PANEL = 2 * VL, LOW = VL == 16 ? 10 : 5, HIGH = VL == 16 ? 12 : 6 };
/* VL rows of `width` words -> `width` vectors of one word of every row; rows from `rows` on are zero. */
INLINE void transpose_words(const char *from, int64_t step, const int dtype, const int rows, const int width, vf *out,
                            int out_step) {
    vf block[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) block[i] = i < rows ? load_row(from + i * step, dtype, width) : splat(0.0f);
    transpose_vf(block);
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (i < width) out[i * out_step] = block[i];
}

/* The cache lines of the next piece of the weight, which are asked for one by one meanwhile: the memory of a processor
 * core answers a few dozen requests at a time. */
typedef struct {
    const char *first;
    uint64_t step, asked, lines; /* bytes from row to row; lines so far and in all: the first of every row, then the second */
} lines_ahead;

INLINE void ask(lines_ahead *ahead) {
    if (ahead->asked == ahead->lines) return;
    __builtin_prefetch(ahead->first + ahead->asked % PANEL * ahead->step + ahead->asked / PANEL * 64, 0, 3);
    ahead->asked++;
}

/* Rows of words, `step` bytes from each other; or packed: the first words of all rows, the second ones, and so on. */
typedef struct {
    const char *first;
    int64_t step;
} words;

/* The word at `p` in every lane; GCC does not see that adding zero changes nothing. */
INLINE vf every_lane(const char *p) {
#if VL == 16
    return (vf)_mm512_set1_ps(load_one(p, F32));
#else
    return (vf)_mm256_set1_ps(load_one(p, F32));
#endif
}

/* sum += x panel over `depth` words: some rows times one or two vectors of output columns. */
INLINE void add_products(vf sum[HIGH][2], const vf *panel, words x, int64_t depth, lines_ahead *ahead, const int rows,
                         const int vectors, const int paired, const int packed) {
    (void)paired; /* which only one instruction set has */
    const int64_t step = packed ? 4 : x.step, next = packed ? rows * 4 : 4;
    const char *at[4] = {x.first, x.first + 3 * step, x.first + 6 * step, x.first + 9 * step};
    vf total[HIGH][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) total[i][j] = sum[i][j];
    lines_ahead soon = *ahead;
    for (; depth > 0; depth -= 2) {
        ask(&soon);
#pragma GCC unroll 2
        for (int word = 0; word < 2; word++) {
            if (word == depth) break;
            vf weight[2];
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) weight[j] = *panel++;
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) {
                const vf v = every_lane(at[i / 3] + i % 3 * step + word * next);
#pragma GCC unroll 2
                for (int j = 0; j < vectors; j++)
#if defined(PAIRS)
                    if (paired) total[i][j] = add_pairs(total[i][j], (vi)v, (vi)weight[j]);
                    else
#endif
                        total[i][j] += v * weight[j];
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) at[i] += 2 * next;
    }
    *ahead = soon;
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = total[i][j];
}

/* Functions of their own, as with 16 registers the compiler keeps sums in memory if it sees anything else around the loop;
 * a table of them by height and vectors. */
typedef void add_block(vf sum[HIGH][2], const vf *panel, words x, int64_t depth, lines_ahead *ahead);
#define BLOCK(table, rows, vectors, paired, packed)                                                                        \
    static __attribute__((noinline)) void table##_##rows##_##vectors(vf sum[HIGH][2], const vf *panel, words x,            \
                                                                     int64_t depth, lines_ahead *ahead) {                  \
        add_products(sum, panel, x, depth, ahead, rows, vectors, paired, packed);                                          \
    }
#define BLOCKS_OF(table, low, high, paired, packed)                                                                        \
    BLOCK(table, 1, 1, paired, packed) BLOCK(table, 1, 2, paired, packed) BLOCK(table, low, 1, paired, packed)             \
    BLOCK(table, low, 2, paired, packed) BLOCK(table, high, 1, paired, packed) BLOCK(table, high, 2, paired, packed)       \
    static add_block *const table[3][2] = {                                                                                \
        {table##_1_1, table##_1_2}, {table##_##low##_1, table##_##low##_2}, {table##_##high##_1, table##_##high##_2}};
#if VL == 16
#define BLOCKS(table, paired, packed) BLOCKS_OF(table, 10, 12, paired, packed)
#else
#define BLOCKS(table, paired, packed) BLOCKS_OF(table, 5, 6, paired, packed)
#endif
#define BLOCK_OF(table, rows, vectors) table[(rows >= LOW) + (rows == HIGH)][vectors - 1]

/* The height of the blocks into which rows are cut; the last block overlaps the one before it. */
INLINE int64_t block_height(int64_t rows) {
    if (rows < LOW) return 1;
    return rows < HIGH || ceil_div(rows, LOW) * LOW < ceil_div(rows, HIGH) * HIGH ? LOW : HIGH;
}
#endif

#endif
