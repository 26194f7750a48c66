/* A 64-bit fingerprint of memory: what was prepared from a weight is dropped once the weight's values differ.
 *
 * Every lane is a Horner sum with an odd factor modulo 2^32, so that a change of a single word always changes it, and
 * any other change with a probability of 1 - 2^-32 per lane that it touches. As fast as memory is read.
 */
#include "../selective_scan/vec.h"

enum { LANES = 128 }; /* 512 bytes */
typedef uint32_t words __attribute__((vector_size(4 * LANES / 8)));
typedef uint32_t words_unaligned __attribute__((vector_size(4 * LANES / 8), aligned(1), may_alias));

EXPORT uint64_t vimzoo_fingerprint(const char *data, int64_t bytes) {
    words lanes[8];
    for (int i = 0; i < 8; i++) lanes[i] = (words){0} + (uint32_t)bytes + (uint32_t)i;
    const int64_t block = sizeof lanes, whole = bytes / block * block;
    for (int64_t at = 0; at < whole; at += block)
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            lanes[i] = lanes[i] * 0x9e3779b1u + *(const words_unaligned *)(data + at + i * (int64_t)sizeof(words));
    char rest[sizeof lanes] = {0};
    memcpy(rest, data + whole, bytes - whole);
    uint64_t result = 0;
    for (int i = 0; i < 8; i++) {
        lanes[i] = lanes[i] * 0x9e3779b1u + *(const words_unaligned *)(rest + i * (int64_t)sizeof(words));
        for (int j = 0; j < LANES / 8; j++) {
            result = (result ^ lanes[i][j]) * 0x9e3779b97f4a7c15u;
            result ^= result >> 29;
        }
    }
    return result;
}
