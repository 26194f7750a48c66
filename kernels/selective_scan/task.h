/* Shared by the operators: argument structs, aligned scratch memory, parameter blocks, parallel loops. */
#ifndef VIMZOO_TASK_H
#define VIMZOO_TASK_H

#include <stdlib.h>
#include "../threads/pool.h"
#include "arguments.h"
#include "io.h"
#include "tile.h"

/* The struct of an operator's arguments, and the names of its fields as a symbol that Python reads when it loads this. */
#define FIELD_NAME(type, name) #name " "
#define ARGUMENT_STRUCT(op, FIELDS) typedef struct { FIELDS(STRUCT_FIELD) } op##_args
#define ARGUMENT_NAMES(op, FIELDS) EXPORT const char vimzoo_##op##_fields[] = FIELDS(FIELD_NAME)
#define ARGUMENTS(op, FIELDS) ARGUMENT_STRUCT(op, FIELDS); ARGUMENT_NAMES(op, FIELDS)

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

/* Calls BODY for every vector of a row, whole ones with `lanes` known to the compiler. */
#define EACH_VECTOR(channels, BODY)                             \
    do {                                                        \
        int64_t c = 0;                                          \
        for (; c + VL <= (channels); c += VL) { enum { lanes = VL }; BODY; } \
        if (c < (channels)) { const int lanes = (int)((channels) - c); BODY; } \
    } while (0)

/* A bump allocator over one aligned block, so that a task needs a single malloc and a single free. Without memory `base` is
 * NULL, and the task ends. */
typedef struct {
    char *base, *next;
} arena;

INLINE arena arena_new(size_t bytes) {
    void *block = NULL;
    if (posix_memalign(&block, 64, bytes + 64)) block = NULL, memory_short = 1;
    return (arena){block, block};
}
INLINE void *arena_take(arena *a, size_t bytes) {
    void *block = a->next;
    a->next += (bytes + 63) / 64 * 64;
    return block;
}

/* A parameter as the kernels read it: itself, or widened. */
HELPER const float *as_floats(arena *scratch, const char *p, int64_t dtype, int64_t count) {
    if (!p || dtype == F32) return (const float *)p;
    float *out = arena_take(scratch, count * sizeof(float));
    for (int64_t i = 0; i < count; i += VL) {
        const int lanes = (int)min_of(VL, count - i);
        store_row((char *)(out + i), F32, lanes, load_row(p + i * item_size(dtype), dtype, lanes));
    }
    return out;
}

/* `lanes` rows of `columns` floats, a channel each -> one vector a column: out[column], scaled. */
HELPER void load_columns(vf *out, const float *rows, int64_t columns, int lanes, float scale) {
    for (int64_t c = 0; c < columns; c += VL) {
        const int width = (int)min_of(VL, columns - c);
        vf block[VL];
        for (int i = 0; i < VL; i++)
            block[i] = i < lanes ? load_row((const char *)(rows + i * columns + c), F32, width) : splat(0.0f);
        transpose_vf(block);
        for (int i = 0; i < width; i++) out[c + i] = block[i] * scale;
    }
}
/* Decay rates as factors of exponents of 2, bounded so that the exponents are; see `bounded`. */
HELPER void load_rates(vf *A2, const float *A, int64_t states, int lanes) {
    load_columns(A2, A, states, lanes, LOG2E);
    for (int64_t n = 0; n < states; n++) A2[n] = at_most(splat(1e11f), at_least(splat(-1e11f), A2[n]));
}
/* As load_columns, for the blocks of channels [first, last) of rows + offset; nothing if rows are NULL. */
HELPER void load_blocks(vf *out, const float *rows, int64_t offset, int64_t columns, int64_t first, int64_t last) {
    for (int64_t c = first; rows && c < last; c += VL, out += columns)
        load_columns(out, rows + offset + c * columns, columns, (int)min_of(VL, last - c), 1.0f);
}
/* The reverse, adding: rows[lane][column] += in[column]. */
HELPER void add_columns(float *rows, const vf *in, int64_t columns, int lanes, float scale) {
    for (int64_t c = 0; c < columns; c += VL) {
        const int width = (int)min_of(VL, columns - c);
        vf block[VL];
        for (int i = 0; i < VL; i++) block[i] = i < width ? in[c + i] * scale : splat(0.0f);
        transpose_vf(block);
        for (int i = 0; i < lanes; i++) add_floats(rows + i * columns + c, block[i], width);
    }
}
HELPER void add_blocks(float *rows, int64_t offset, const vf *in, int64_t columns, int64_t first, int64_t last) {
    for (int64_t c = first; rows && c < last; c += VL, in += columns)
        add_columns(rows + offset + c * columns, in, columns, (int)min_of(VL, last - c), 1.0f);
}
#endif
