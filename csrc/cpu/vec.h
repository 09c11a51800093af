// Loops that the compiler turns into vector code: one source, compiled for AVX-512, AVX2 and the baseline, chosen at run
// time. A function marked FASTADV_CLONES is the loop nest; everything it calls is FASTADV_INLINE, so that the inner loops
// are vectorised for each clone and no call crosses from one instruction set to another.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../common/scalar.h"

#define FASTADV_LAMBDA __attribute__((always_inline))

#if defined(__x86_64__) && defined(__linux__) && !defined(FASTADV_NO_CLONES)
#define FASTADV_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTADV_CLONES
#endif

// Where results are promised to the bit, a multiplication and an addition may not become one instruction.
#if defined(__GNUC__) && !defined(__clang__)
#define FASTADV_EXACT __attribute__((optimize("fp-contract=off")))
#else
#define FASTADV_EXACT
#endif

namespace fastadv {

// The compiler may not reorder a floating-point sum, so sums and maxima run in lanes: one of the widest registers full, or
// where there are many terms four, which hides the latency of an addition.
template <class A>
constexpr int64_t kLanes = 64 / sizeof(A);

// Terms are computed into a buffer of this many, a plain loop that always vectorises, and then added to the lanes.
constexpr int64_t kSumBlock = 512;
// The lanes are added up in double after this many terms, which bounds the rounding error of long sums.
constexpr int64_t kSumRun = 16 * kSumBlock;

struct Add {
  template <class A>
  FASTADV_INLINE A operator()(A a, A b) const {
    return a + b;
  }
};

// A NaN is the largest number only where `a` is it; callers look for NaN in sums.
struct Larger {
  template <class A>
  FASTADV_INLINE A operator()(A a, A b) const {
    return b > a ? b : a;
  }
};

template <class Combine, class A, int64_t kWidth>
FASTADV_INLINE A fold(A (&lane)[kWidth]) {
  for (int64_t width = kWidth / 2; width > 0; width /= 2) {
    for (int64_t k = 0; k < width; ++k) lane[k] = Combine()(lane[k], lane[k + width]);
  }
  return lane[0];
}

template <class A, int64_t kWidth>
struct Lanes {
  A lane[kWidth] = {};

  // Adds `count` terms; the buffer has room to fill its last lanes with zeros.
  FASTADV_INLINE void add(A* terms, int64_t count) {
    int64_t end = count;
    for (; end % kWidth; ++end) terms[end] = 0;
    for (int64_t i = 0; i < end; i += kWidth) {
      for (int64_t k = 0; k < kWidth; ++k) lane[k] += terms[i + k];
    }
  }

  FASTADV_INLINE A total() { return fold<Add>(lane); }
};

FASTADV_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class A, class Term>
FASTADV_INLINE A sum(int64_t count, const Term& term) {
  A terms[kSumBlock];
  if (count <= kSumBlock) {
    for (int64_t i = 0; i < count; ++i) terms[i] = term(i);
    Lanes<A, kLanes<A>> lanes;
    lanes.add(terms, count);
    return lanes.total();
  }
  double total = 0;
  for (int64_t run = 0; run < count; run += kSumRun) {
    const int64_t end = smaller(count, run + kSumRun);
    Lanes<A, 4 * kLanes<A>> lanes;
    for (int64_t begin = run; begin < end; begin += kSumBlock) {
      const int64_t length = smaller(end - begin, kSumBlock);
      for (int64_t i = 0; i < length; ++i) terms[i] = term(begin + i);
      lanes.add(terms, length);
    }
    total += lanes.total();
  }
  return static_cast<A>(total);
}

// Two sums in one pass: `term(i, first, second)` sets what index i adds to each. `kRun` as kSumRun.
template <class A, int64_t kRun = kSumRun, class Term>
FASTADV_INLINE void sum_both(int64_t count, A& first, A& second, const Term& term) {
  A terms[2][kSumBlock];
  double totals[2] = {0, 0};
  for (int64_t run = 0; run < count; run += kRun) {
    const int64_t end = smaller(count, run + kRun);
    Lanes<A, 4 * kLanes<A>> lanes[2];
    for (int64_t begin = run; begin < end; begin += kSumBlock) {
      const int64_t length = smaller(end - begin, kSumBlock);
      for (int64_t i = 0; i < length; ++i) term(begin + i, terms[0][i], terms[1][i]);
      for (int j = 0; j < 2; ++j) lanes[j].add(terms[j], length);
    }
    for (int j = 0; j < 2; ++j) totals[j] += lanes[j].total();
  }
  first = static_cast<A>(totals[0]);
  second = static_cast<A>(totals[1]);
}

template <class A, class Term>
FASTADV_INLINE A maximum(int64_t count, const Term& term) {
  A lane[kLanes<A>];
  for (int64_t k = 0; k < kLanes<A>; ++k) lane[k] = -std::numeric_limits<A>::infinity();
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    for (int64_t k = 0; k < kLanes<A>; ++k) lane[k] = Larger()(lane[k], static_cast<A>(term(i + k)));
  }
  A result = fold<Larger>(lane);
  for (; i < count; ++i) result = Larger()(result, static_cast<A>(term(i)));
  return result;
}

// How many indices satisfy `holds`.
template <class Holds>
FASTADV_INLINE int64_t count(int64_t size, const Holds& holds) {
  int64_t total = 0;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const int64_t length = smaller(size - begin, kSumBlock);
    const auto term = [&](int64_t i) FASTADV_LAMBDA { return holds(begin + i) ? 1 : 0; };
    total += static_cast<int64_t>(sum<float>(length, term));
  }
  return total;
}

// Euclidean norm, given the sum of squares, that neither overflows nor underflows; NaN if any term is.
template <class A, class Term>
FASTADV_INLINE A norm(int64_t count, A squares, const Term& term) {
  constexpr A kSafe = sizeof(A) == 4 ? A(1e-30) : A(1e-280);
  if (squares > kSafe && squares < 1 / kSafe) return std::sqrt(squares);
  if (squares != squares) return squares;
  const A largest = maximum<A>(count, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(term(i)); });
  if (!(largest > 0) || largest == std::numeric_limits<A>::infinity()) return count > 0 ? largest : A(0);
  return largest * std::sqrt(sum<A>(count, [&](int64_t i) FASTADV_LAMBDA {
           const A t = term(i) / largest;
           return t * t;
         }));
}

template <class A, class Term>
FASTADV_INLINE A norm(int64_t count, const Term& term) {
  const A squares = sum<A>(count, [&](int64_t i) FASTADV_LAMBDA {
    const A t = term(i);
    return t * t;
  });
  return norm<A>(count, squares, term);
}

// exp(x) within 1 ulp for x <= 0, which is all that a softmax needs; below the smallest normal number it is 0, NaN stays.
// Range reduction by the trick of adding 1.5 * 2^mantissa: the integer part appears in the low bits of the sum.
FASTADV_INLINE float exp_nonpositive(float x) {
  constexpr float kLowest = -87.33654f;
  const float clamped = x < kLowest ? kLowest : x;
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440054690583e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  const float scale = bits<float>((bits<uint32_t>(shifted) << 23) + 0x3f800000u);
  return x < kLowest ? 0.0f : p * scale;
}

FASTADV_INLINE double exp_nonpositive(double x) {
  constexpr double kLowest = -708.39;
  const double clamped = x < kLowest ? kLowest : x;
  const double shifted = clamped * 1.4426950408889634074 + 6755399441055744.0;
  const double n = shifted - 6755399441055744.0;
  const double r = (clamped - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  double p = 1.6059043836821613e-10;  // 1 / 13!, and so on up to 1 / 2!
  p = p * r + 2.0876756987868099e-9;
  p = p * r + 2.5052108385441719e-8;
  p = p * r + 2.7557319223985891e-7;
  p = p * r + 2.7557319223985893e-6;
  p = p * r + 2.4801587301587302e-5;
  p = p * r + 1.9841269841269841e-4;
  p = p * r + 1.3888888888888889e-3;
  p = p * r + 8.3333333333333332e-3;
  p = p * r + 4.1666666666666664e-2;
  p = p * r + 1.6666666666666666e-1;
  p = p * r + 5.0000000000000000e-1;
  p = (p * (r * r) + r) + 1.0;
  const double scale = bits<double>((bits<uint64_t>(shifted) << 52) + 0x3ff0000000000000ull);
  return x < kLowest ? 0.0 : p * scale;
}

}  // namespace fastadv
