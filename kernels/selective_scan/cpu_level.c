/* Queries of the processor's instruction set, and the number of OpenMP threads. */
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "vec.h"

/* Sets the number of threads of parallel regions, torch's included, that the calling thread starts; returns the old one. */
EXPORT int vimzoo_set_threads(int threads) {
#ifdef _OPENMP
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    return before;
#else
    (void)threads;
    return 1;
#endif
}

/* The best instruction set, among those that libraries are built for, of this processor. x86-64: 0 base, 1 AVX2, 2 AVX-512,
 * 3 AVX-512 with products of bfloat16, of which older compilers know no name. ARM: 0 base, 1 products of bfloat16 and bytes. */
EXPORT int vimzoo_cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512cd"))
        return 1;
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax >> 5 & 1 ? 3 : 2;
#elif defined(__aarch64__) && defined(__linux__)
    const unsigned long bf16 = 1ul << 14, i8mm = 1ul << 13; /* HWCAP2_BF16, HWCAP2_I8MM: older headers lack them */
    return (~getauxval(AT_HWCAP2) & (bf16 | i8mm)) == 0;
#elif defined(__aarch64__) && defined(__APPLE__)
    int bf16 = 0, i8mm = 0;
    size_t size = sizeof bf16;
    sysctlbyname("hw.optional.arm.FEAT_BF16", &bf16, &size, NULL, 0);
    sysctlbyname("hw.optional.arm.FEAT_I8MM", &i8mm, &size, NULL, 0);
    return bf16 && i8mm;
#else
    return 0;
#endif
}
