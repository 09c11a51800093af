// Loops that the compiler turns into vector code: one source, compiled for AVX-512, AVX2 and the baseline, chosen at
// run time. A function marked FASTADV_CLONES is the loop nest; everything it calls is FASTADV_INLINE, so that the inner
// loops are vectorised for each clone and no call crosses from one instruction set to another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../common/scalar.h"

#define FASTADV_LAMBDA __attribute__((always_inline))

#if defined(__x86_64__) && defined(__linux__) && !defined(FASTADV_NO_CLONES)
#define FASTADV_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTADV_CLONES
#endif

// Where results are promised to the bit, a multiplication and an addition may not become one instruction. With Clang
// they never do: ../common/scalar.h.
#if defined(__GNUC__) && !defined(__clang__)
#define FASTADV_EXACT __attribute__((optimize("fp-contract=off")))
#else
#define FASTADV_EXACT
#endif

namespace fastadv {

// The compiler may not reorder a floating-point sum or maximum, so they run in lanes: vectors of 16 bytes, which every
// instruction set keeps in registers where an array of lanes would be in memory, enough of them to hide an addition's
// latency.
template <class A>
struct Vector;
template <>
struct Vector<float> {
  typedef float Type __attribute__((vector_size(16)));
};
template <>
struct Vector<double> {
  typedef double Type __attribute__((vector_size(16)));
};

// Lanes take their numbers this many at a time.
template <class A>
constexpr int64_t kLanes = 64 / sizeof(A);

struct Add {
  template <class V>
  FASTADV_INLINE void operator()(V& a, const V& b) const {
    a += b;
  }
};

// A NaN is the largest number only where `a` is it; callers look for NaN in sums.
struct Larger {
  template <class V>
  FASTADV_INLINE void operator()(V& a, const V& b) const {
    a = b > a ? b : a;
  }
};

struct Smaller {
  template <class V>
  FASTADV_INLINE void operator()(V& a, const V& b) const {
    a = b < a ? b : a;
  }
};

// A vector's numbers exchanged with those `kDistance` away.
template <int kDistance, class V>
FASTADV_INLINE V exchanged(const V& v) {
  if constexpr (sizeof(v[0]) == 8) {
    return __builtin_shufflevector(v, v, 1, 0);
  } else if constexpr (kDistance == 2) {
    return __builtin_shufflevector(v, v, 2, 3, 0, 1);
  } else {
    return __builtin_shufflevector(v, v, 1, 0, 3, 2);
  }
}

// One number of a power of two of vectors, or of numbers.
template <class A, class Combine, size_t kCount>
FASTADV_INLINE A fold_vectors(const typename Vector<A>::Type (&vectors)[kCount]) {
  typename Vector<A>::Type v[kCount];
  std::memcpy(v, vectors, sizeof(v));
  for (size_t half = kCount / 2; half > 0; half /= 2) {
    for (size_t k = 0; k < half; ++k) Combine()(v[k], v[k + half]);
  }
  if constexpr (sizeof(A) == 4) Combine()(v[0], exchanged<2>(v[0]));
  Combine()(v[0], exchanged<1>(v[0]));
  return v[0][0];
}

template <class Combine, class A, size_t kCount>
FASTADV_INLINE A fold(const A (&numbers)[kCount]) {
  typename Vector<A>::Type v[sizeof(numbers) / 16];
  std::memcpy(v, numbers, sizeof(v));
  return fold_vectors<A, Combine>(v);
}

template <class A, class Combine>
class Lanes {
 public:
  FASTADV_INLINE explicit Lanes(A identity) {
    for (V& lane : lanes_) lane = identity - V{};
  }

  // Takes `count` numbers, a multiple of kLanes.
  FASTADV_INLINE void take(const A* numbers, int64_t count) {
    int64_t i = 0;
    for (; i + 2 * kLanes<A> <= count; i += 2 * kLanes<A>) {
      for (int64_t k = 0; k < 8; ++k) combine(lanes_[k], numbers + i + k * kWidth);
    }
    if (i < count) {
      for (int64_t k = 0; k < 4; ++k) combine(lanes_[k], numbers + i + k * kWidth);
    }
  }

  FASTADV_INLINE A fold() const { return fold_vectors<A, Combine>(lanes_); }

 private:
  using V = typename Vector<A>::Type;
  static constexpr int64_t kWidth = 16 / sizeof(A);

  FASTADV_INLINE static void combine(V& lane, const A* numbers) {
    V v;
    std::memcpy(&v, numbers, sizeof(v));
    Combine()(lane, v);
  }

  V lanes_[8];
};

FASTADV_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Terms are computed into a buffer of this many, a plain loop that always vectorises, and then given to the lanes.
constexpr int64_t kBlock = 512;
// The lanes are added up in double after this many terms, which bounds the rounding error of long sums.
constexpr int64_t kSumRun = 16 * kBlock;

// Computes `count` terms, at most kBlock, and fills up to a multiple of kLanes with `identity`; returns that multiple.
template <class A, class Term>
FASTADV_INLINE int64_t fill(A* terms, int64_t begin, int64_t count, A identity, const Term& term) {
  for (int64_t i = 0; i < count; ++i) terms[i] = term(begin + i);
  for (; count % kLanes<A>; ++count) terms[count] = identity;
  return count;
}

// The sum, and below the maximum, of `term(i)` for i from 0 to any count.
template <class A, class Term>
FASTADV_INLINE A sum(int64_t count, const Term& term) {
  A terms[kBlock];
  double total = 0;
  for (int64_t run = 0; run < count; run += kSumRun) {
    const int64_t end = smaller(count, run + kSumRun);
    Lanes<A, Add> lanes(0);
    for (int64_t begin = run; begin < end; begin += kBlock) {
      lanes.take(terms, fill<A>(terms, begin, smaller(end - begin, kBlock), A(0), term));
    }
    total += lanes.fold();
  }
  return static_cast<A>(total);
}

// Several sums in one pass without the buffer: `term(i, terms)` sets what index i adds to each, and may write what no
// other index reads. For terms of a few operations alone; the compiler gives up on vectorising more of them around the
// lanes. Each sum runs in `kLines` times kLanes: two hide an addition's latency, where there are many sums one does.
// `kRun` as kSumRun.
template <int kSums, class A, int kLines = 2, int64_t kRun = kSumRun, class Term>
FASTADV_INLINE void sum_all(int64_t count, A (&sums)[kSums], const Term& term) {
  constexpr int64_t kWidth = kLines * kLanes<A>;
  double totals[kSums] = {};
  for (int64_t run = 0; run < count; run += kRun) {
    const int64_t end = smaller(count, run + kRun);
    A lanes[kSums][kWidth] = {};
    int64_t i = run;
    for (; i + kWidth <= end; i += kWidth) {
      // Else a write would send the lanes to memory and back.
#pragma GCC ivdep
      for (int64_t k = 0; k < kWidth; ++k) {
        A terms[kSums];
        term(i + k, terms);
        for (int j = 0; j < kSums; ++j) lanes[j][k] += terms[j];
      }
    }
    for (; i < end; ++i) {
      A terms[kSums];
      term(i, terms);
      for (int j = 0; j < kSums; ++j) lanes[j][i % kWidth] += terms[j];
    }
    for (int j = 0; j < kSums; ++j) totals[j] += fold<Add>(lanes[j]);
  }
  for (int j = 0; j < kSums; ++j) sums[j] = static_cast<A>(totals[j]);
}

// Two sums in one pass: `term(i, first, second)` sets what index i adds to each.
template <class A, class Term>
FASTADV_INLINE void sum_both(int64_t count, A& first, A& second, const Term& term) {
  A terms[2][kBlock];
  double totals[2] = {0, 0};
  for (int64_t run = 0; run < count; run += kSumRun) {
    const int64_t end = smaller(count, run + kSumRun);
    Lanes<A, Add> one(0), other(0);
    for (int64_t begin = run; begin < end; begin += kBlock) {
      const int64_t length = smaller(end - begin, kBlock);
      for (int64_t i = 0; i < length; ++i) term(begin + i, terms[0][i], terms[1][i]);
      int64_t full = length;
      for (; full % kLanes<A>; ++full) terms[0][full] = terms[1][full] = 0;
      one.take(terms[0], full);
      other.take(terms[1], full);
    }
    totals[0] += one.fold();
    totals[1] += other.fold();
  }
  first = static_cast<A>(totals[0]);
  second = static_cast<A>(totals[1]);
}

template <class A, class Term>
FASTADV_INLINE A maximum(int64_t count, const Term& term) {
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  A terms[kBlock];
  Lanes<A, Larger> lanes(kLowest);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    lanes.take(terms, fill<A>(terms, begin, smaller(count - begin, kBlock), kLowest, term));
  }
  return lanes.fold();
}

// The integers as wide as A, of which the compiler may reorder sums and maxima.
template <class A>
using Word = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;

// The largest number, none being NaN, or zero where none is larger: numbers above zero are ordered as their bits are.
template <class A, class Number>
FASTADV_INLINE A largest_positive(int64_t size, const Number& number) {
  Word<A> largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const Word<A> word = bits<Word<A>>(number(i));
    largest = word > largest ? word : largest;
  }
  return bits<A>(largest);
}

// How many indices satisfy `holds`, a comparison of numbers A.
template <class A, class Holds>
FASTADV_INLINE int64_t count(int64_t size, const Holds& holds) {
  int64_t total = 0;
  for (int64_t begin = 0; begin < size; begin += kSumRun) {
    const int64_t end = smaller(size, begin + kSumRun);
    Word<A> held = 0;
    for (int64_t i = begin; i < end; ++i) held += holds(i) ? 1 : 0;
    total += held;
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
  A squares[1];
  sum_all(count, squares, [&](int64_t i, A (&terms)[1]) FASTADV_LAMBDA {
    const A t = term(i);
    terms[0] = t * t;
  });
  return norm<A>(count, squares[0], term);
}

// x where `holds`, else 0. There is no branch into which the compiler could move loads and arithmetic, which would then
// need masks.
FASTADV_INLINE float only_if(bool holds, float x) { return bits<float>(bits<uint32_t>(x) & -uint32_t{holds}); }

FASTADV_INLINE double only_if(bool holds, double x) { return bits<double>(bits<uint64_t>(x) & -uint64_t{holds}); }

// exp(x) within 1 ulp for x <= 0, which is all that a softmax needs, down to the smallest subnormal number; NaN stays.
// Range reduction by the trick of adding 1.5 * 2^mantissa: the integer part appears in the low bits of the sum, and with
// the exponent's bias added it becomes a power of two, here 2^64 times too large, so that it is a normal number where the
// result is none. The polynomial is taken in pairs, which halves the chain of operations.
FASTADV_INLINE float exp_nonpositive(float x) {
  constexpr float kLowest = -104.0f, kShift = 12582912.0f + 127 + 64;
  const float shifted = x * 1.44269504088896341f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693359375f) + n * 2.12194440054690583e-4f;
  const float square = r * r;
  float p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * square + (8.3334519073e-3f * r + 4.1665795894e-2f);
  p = p * square + (1.6666665459e-1f * r + 5.0000001201e-1f);
  p = (p * square + r) + 1.0f;
  const float scale = bits<float>(bits<uint32_t>(shifted) << 23);
  return only_if(!(x < kLowest), (p * scale) * 0x1p-64f);
}

FASTADV_INLINE double exp_nonpositive(double x) {
  constexpr double kLowest = -745.2, kShift = 6755399441055744.0 + 1023 + 64;
  const double shifted = x * 1.4426950408889634074 + kShift;
  const double n = shifted - kShift;
  const double r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  const double square = r * r;
  // 1 / 13!, 1 / 12!, and so on up to 1 / 2!
  double p = 1.6059043836821613e-10 * r + 2.0876756987868099e-9;
  p = p * square + (2.5052108385441719e-8 * r + 2.7557319223985891e-7);
  p = p * square + (2.7557319223985893e-6 * r + 2.4801587301587302e-5);
  p = p * square + (1.9841269841269841e-4 * r + 1.3888888888888889e-3);
  p = p * square + (8.3333333333333332e-3 * r + 4.1666666666666664e-2);
  p = p * square + (1.6666666666666666e-1 * r + 5.0000000000000000e-1);
  p = (p * square + r) + 1.0;
  const double scale = bits<double>(bits<uint64_t>(shifted) << 52);
  return only_if(!(x < kLowest), (p * scale) * 0x1p-64);
}

// log(x) within 1 ulp for normal x > 0; infinity and NaN stay. x = 2^n m with m within a factor sqrt(2) of 1.
FASTADV_INLINE float log_positive(float x) {
  const int32_t n = (bits<int32_t>(x) - 0x3f3504f3) >> 23;
  const float f = bits<float>(bits<int32_t>(x) - n * (1 << 23)) - 1.0f, e = static_cast<float>(n);
  const float square = f * f;
  float p = 7.0376836292e-2f * square + (1.1676998740e-1f - 1.1514610310e-1f * f);
  p = p * square + (1.4249322787e-1f - 1.2420140846e-1f * f);
  p = p * square + (2.0000714765e-1f - 1.6668057665e-1f * f);
  p = p * square + (3.3333331174e-1f - 2.4999993993e-1f * f);
  const float tail = (p * f * square - e * 2.12194440e-4f) - 0.5f * square;
  const float result = (f + tail) + e * 0.693359375f;
  return x < std::numeric_limits<float>::infinity() ? result : x;
}

FASTADV_INLINE double log_positive(double x) {
  const int64_t n = (bits<int64_t>(x) - 0x3fe6a09e667f3bcdll) >> 52;
  const double f = bits<double>(bits<int64_t>(x) - n * (1ll << 52)) - 1.0, e = static_cast<double>(n);
  const double s = f / (2.0 + f), square = s * s, half = 0.5 * f * f;
  double p = 1.479819860511658591e-1;
  p = p * square + 1.531383769920937332e-1;
  p = p * square + 1.818357216161805012e-1;
  p = p * square + 2.222219843214978396e-1;
  p = p * square + 2.857142874366239149e-1;
  p = p * square + 3.999999999940941908e-1;
  p = p * square + 6.666666666666735130e-1;
  const double result = e * 6.93147180369123816490e-1 -
                        ((half - (s * (half + square * p) + e * 1.90821492927058770002e-10)) - f);
  return x < std::numeric_limits<double>::infinity() ? result : x;
}

// log(1 + x) for 0 <= x <= 1, small x to full relative precision.
template <class A>
FASTADV_INLINE A log_one_plus(A x) {
  const A sum = 1 + x, lost = x - (sum - 1);
  // What the sum has lost is worth lost / sum, for which a straight line between sum = 1 and sum = 2 will do.
  return log_positive(sum) + lost * (A(1.5) - A(0.5) * sum);
}

}  // namespace fastadv
