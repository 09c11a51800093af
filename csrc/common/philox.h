// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): key = seed, counter = (block, sample id), low words first.
#pragma once

#include <cmath>

#include "scalar.h"

namespace fastadv {

// The block that holds a sample's radius; elements never reach it.
constexpr uint64_t kRadiusBlock = (uint64_t{1} << 62) - 1;

// Four words a block for `count` blocks from `block` on.
FASTADV_INLINE void philox(uint64_t seed, uint64_t block, uint64_t id, int64_t count, uint32_t* words) {
  for (int64_t b = 0; b < count; ++b) {
    const uint64_t counter = block + static_cast<uint64_t>(b);
    uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
    uint32_t c2 = static_cast<uint32_t>(id), c3 = static_cast<uint32_t>(id >> 32);
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(p1);
      c3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words[4 * b] = c0;
    words[4 * b + 1] = c1;
    words[4 * b + 2] = c2;
    words[4 * b + 3] = c3;
  }
}

// Uniform in [-1, 1), a multiple of 2^-23, exact in float.
template <class A>
FASTADV_INLINE A symmetric(uint32_t word) {
  return static_cast<A>(static_cast<int32_t>(word >> 8)) * A(0x1p-23) - 1;
}

// Uniform in (0, 1], a multiple of 2^-24, exact in float.
template <class A>
FASTADV_INLINE A positive(uint32_t word) {
  return static_cast<A>(static_cast<int32_t>((word >> 8) + 1)) * A(0x1p-24);
}

// An exponential deviate from a word's upper 24 bits, with the sign that its lowest bit says.
template <class A>
FASTADV_INLINE A signed_exponential(uint32_t word) {
  const A deviate = -std::log(positive<A>(word));
  return word & 1 ? -deviate : deviate;
}

}  // namespace fastadv
