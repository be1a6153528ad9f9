/* Compiles the file BODY once for each instruction set, with vectors of float32.

   The body has LANES, the numbers of a vector; TARGET, which each of its functions begins with;
   NAME(x), a name of its own in each set; Floats and Ints; and the functions below. Behind it
   AT_LEVEL(x, level) is the x of a level that longctx_level() admits. BODY may be the file that
   includes this one: with LANES it is the body. */

#ifndef LANES

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)
#define NAME(a) NAMED(a, ISA)

#ifdef X86
#define ISA avx512
#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "levels.h"
#define ISA avx2
#define LANES 8
#define TARGET __attribute__((target("avx2,fma")))
#include "levels.h"
#endif
#define ISA plain
#define LANES 4
#define TARGET
#include "levels.h"

#ifdef X86
#define AT_LEVEL(x, level) ((level) >= 2 ? x##_avx512 : (level) == 1 ? x##_avx2 : x##_plain)
#else
#define AT_LEVEL(x, level) ((void)(level), x##_plain)
#endif

EXPORT int longctx_level(void) { return level_here(); }

#else /* one instruction set */

typedef float NAME(Floats) __attribute__((vector_size(4 * LANES)));
typedef float NAME(FloatsAt) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Ints) __attribute__((vector_size(4 * LANES)));
#define Floats NAME(Floats)
#define FloatsAt NAME(FloatsAt)
#define Ints NAME(Ints)
#if LANES == 4
typedef uint16_t HalvesAt __attribute__((vector_size(8), aligned(2), may_alias));
typedef int8_t BytesAt __attribute__((vector_size(4), aligned(1), may_alias));
typedef uint32_t Words __attribute__((vector_size(16)));
#endif

TARGET ALWAYS Floats NAME(floats)(const float *from) { return *(const FloatsAt *)from; }
TARGET ALWAYS void NAME(store)(float *into, Floats x) { *(FloatsAt *)into = x; }
TARGET ALWAYS Floats NAME(all)(float number) { return number - (Floats){0}; }

/* A vector of the numbers from `at` on. */
TARGET ALWAYS Floats NAME(widened)(const char *from, int64_t at, int type) {
    if (type == F32) return *(const FloatsAt *)((const float *)from + at);
    if (type == I8) {
#if LANES == 16
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + at))));
#elif LANES == 8
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(from + at))));
#else
        return __builtin_convertvector(*(const BytesAt *)(from + at), Floats);
#endif
    }
    const uint16_t *halves = (const uint16_t *)from + at;
#if LANES == 16
    return (Floats)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)halves)), 16);
#elif LANES == 8
    return (Floats)_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)halves)), 16);
#else
    return (Floats)(__builtin_convertvector(*(const HalvesAt *)halves, Words) << 16);
#endif
}

/* The larger one, lane by lane; b where either is not a number. */
TARGET ALWAYS Floats NAME(larger)(Floats a, Floats b) {
#if LANES == 16
    return _mm512_max_ps(a, b);
#elif LANES == 8
    return _mm256_max_ps(a, b);
#else
    Ints more = (Ints)(a > b);
    return (Floats)((more & (Ints)a) | (~more & (Ints)b));
#endif
}

TARGET ALWAYS float NAME(largest)(Floats x) {
#if LANES == 16
    return _mm512_reduce_max_ps(x);
#elif LANES == 8
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
#else
    float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
#endif
}

#include BODY

#undef Floats
#undef FloatsAt
#undef Ints
#undef ISA
#undef LANES
#undef TARGET

#endif
