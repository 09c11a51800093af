// Runs CUDA kernels on a CPU, block by block: csrc/cuda compiles against this header in place of the CUDA runtime.
//
// The threads of a block are fibers that run one at a time. Between two barriers one warp after the other goes as far
// as it can, in random order, and so do the threads of a warp: the fastest warp is ahead of the slowest by all that the
// barriers allow, and where one is missing, results are wrong. Blocks run in random order too. Shared memory is new for
// each block and holds NaN. A barrier or a warp operation that not all of its threads reach ends the launch with an
// error.
// FASTADV_SIMULATOR_SEED chooses the order.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace simulator {

struct Index {
  unsigned x;
};

inline Index thread_index, block_index, block_size, grid_size;

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kSharedBytes = 48 * 1024;
// With the room that a launch asks for.
constexpr size_t kMostSharedBytes = 227 * 1024;
constexpr size_t kStackBytes = 256 * 1024;

enum class State { kReady, kAtBarrier, kAtClusterBarrier, kAtWarpOperation, kDone };

// 16 bytes on their way to shared memory.
struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  ucontext_t context;
  State state;
  std::vector<Copy> copies;
  // What the thread brings to a warp operation, and who has to take part in it.
  unsigned mask;
  size_t width;
  uint64_t value;
};

class Machine {
 public:
  // How often a kernel was launched since the library was loaded.
  int64_t launches = 0;
  // How often threads of the block that ran last, or of the first one of its cluster, have met at a barrier.
  int64_t barriers = 0;
  // Whether this GPU runs clusters.
  bool clusters = true;

  // `blocks` in clusters of `cluster`, each block with so many bytes of room in shared memory.
  void run(int64_t blocks, int64_t threads, const std::function<void()>& kernel, unsigned cluster = 1,
           int64_t room = 0) {
    if (blocks < 1 || blocks > 0x7fffffff) throw std::runtime_error("simulator: invalid number of blocks");
    if (threads < 1 || threads > kMostThreads || threads % kWarpSize) {
      throw std::runtime_error("simulator: the number of threads is no multiple of 32 up to 1024");
    }
    if (room < 0 || static_cast<size_t>(room) > kMostSharedBytes) {
      throw std::runtime_error("simulator: a block asks for more than 227 KiB of shared memory");
    }
    ++launches;
    kernel_ = &kernel;
    cluster_size_ = cluster;
    room_ = static_cast<size_t>(room);
    arena_.resize(cluster * arena_units());
    grid_size.x = static_cast<unsigned>(blocks);
    block_size.x = static_cast<unsigned>(threads);
    while (stacks_.size() < static_cast<size_t>(cluster * threads)) stacks_.emplace_back(new char[kStackBytes]);
    std::vector<unsigned> order(blocks / cluster);
    for (unsigned c = 0; c < order.size(); ++c) order[c] = c * cluster;
    std::shuffle(order.begin(), order.end(), random_);
    for (const unsigned first : order) run_blocks(first);
  }

  void barrier() { wait(State::kAtBarrier); }
  void cluster_barrier() { wait(State::kAtClusterBarrier); }
  unsigned cluster_size() const { return cluster_size_; }
  unsigned cluster_rank() const { return running_ / block_size.x; }

  void copy_later(void* to, const void* from) { fibers_[running_].copies.push_back({to, from}); }
  void await_copies() {
    for (const Copy& copy : fibers_[running_].copies) std::memcpy(copy.to, copy.from, 16);
    fibers_[running_].copies.clear();
  }

  // The bits of `value` that lane `source` of this warp brings to the same operation.
  uint64_t exchange(unsigned mask, uint64_t value, size_t width, unsigned source) {
    require_in(mask);
    if (!(mask >> source & 1)) fail("a thread reads from a lane that is not in the mask");
    return bring(mask, value, width)[source];
  }

  // The lanes of the mask that bring a true value to the same operation, a bit each.
  unsigned ballot(unsigned mask, bool value) {
    require_in(mask);
    const std::array<uint64_t, kWarpSize>& brought = bring(mask, value, 0);
    unsigned lanes = 0;
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (mask >> lane & 1) lanes |= static_cast<unsigned>(brought[lane]) << lane;
    }
    return lanes;
  }

  // The shared array that belongs to a place in the code.
  void* shared(const void* place, size_t bytes, size_t alignment) {
    auto found = shared_.find(place);
    if (found == shared_.end()) {
      used_ = (used_ + alignment - 1) / alignment * alignment;
      found = shared_.emplace(place, used_).first;
      used_ += bytes;
      if (used_ > kSharedBytes) fail("a block uses more than 48 KiB of shared memory");
      if (used_ + room_ > kMostSharedBytes) fail("a block uses more than 227 KiB of shared memory");
    }
    return arena(cluster_rank()) + found->second;
  }

  // What the launch asked for, after all shared arrays.
  void* room() { return arena(cluster_rank()) + kSharedBytes; }

  // What lies at `shared` of this block in the block of another rank, none of whose threads may have ended.
  void* in_block(const void* shared, unsigned rank) {
    if (rank >= cluster_size_) fail("there is no block of that rank in the cluster");
    const auto first = fibers_.begin() + rank * block_size.x;
    const auto ended = [](const Fiber& fiber) { return fiber.state == State::kDone; };
    if (std::any_of(first, first + block_size.x, ended)) fail("the block whose shared memory is wanted has ended");
    return arena(rank) + (static_cast<const unsigned char*>(shared) - arena(cluster_rank()));
  }

 private:
  struct alignas(16) Unit {
    unsigned char bytes[16];
  };

  size_t arena_units() const { return (kSharedBytes + room_ + sizeof(Unit) - 1) / sizeof(Unit); }
  unsigned char* arena(unsigned rank) { return arena_[rank * arena_units()].bytes; }

  // The blocks of a cluster, of which `first` is the first.
  void run_blocks(unsigned first) {
    shared_.clear();
    used_ = 0;
    barriers = 0;
    std::memset(arena_.data(), 0xff, arena_.size() * sizeof(Unit));
    const unsigned threads = cluster_size_ * block_size.x, warps = threads / kWarpSize;
    fibers_.assign(threads, Fiber());
    brought_.resize(warps);
    ready_.assign(warps, {});
    order_.resize(warps);
    for (unsigned warp = 0; warp < warps; ++warp) order_[warp] = warp;
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& fiber = fibers_[t];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks_[t].get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Machine::enter, 0);
      resume(t);
    }
    std::shuffle(order_.begin(), order_.end(), random_);
    while (next()) {
      thread_index.x = running_ % block_size.x;
      block_index.x = first + cluster_rank();
      swapcontext(&scheduler_, &fibers_[running_].context);
      if (!error_.empty()) throw std::runtime_error("simulator: " + std::exchange(error_, ""));
      if (fibers_[running_].state == State::kAtWarpOperation) finish_warp_operation(running_);
    }
  }

  // Chooses the thread that runs now, any of the first warp that has one; false at the end.
  bool next() {
    const auto ready = [&](unsigned warp) { return !ready_[warp].empty(); };
    auto first = std::find_if(order_.begin(), order_.end(), ready);
    if (first == order_.end()) {
      open_barriers();
      first = std::find_if(order_.begin(), order_.end(), ready);
      if (first == order_.end()) return false;
    }
    std::vector<unsigned>& threads = ready_[*first];
    std::swap(threads[random_() % threads.size()], threads.back());
    running_ = threads.back();
    threads.pop_back();
    return true;
  }

  static void enter();

  void require_in(unsigned mask) {
    if (!(mask >> (running_ % kWarpSize) & 1)) fail("a thread is not in the mask of its own warp operation");
  }

  // What all lanes bring to a warp operation, once they have.
  const std::array<uint64_t, kWarpSize>& bring(unsigned mask, uint64_t value, size_t width) {
    Fiber& fiber = fibers_[running_];
    fiber.mask = mask;
    fiber.value = value;
    fiber.width = width;
    wait(State::kAtWarpOperation);
    return brought_[running_ / kWarpSize];
  }

  void wait(State state) {
    fibers_[running_].state = state;
    swapcontext(&fibers_[running_].context, &scheduler_);
  }

  void resume(unsigned thread) {
    fibers_[thread].state = State::kReady;
    ready_[thread / kWarpSize].push_back(thread);
  }

  // Lets the threads of a warp operation go on once all of them have come.
  void finish_warp_operation(unsigned last) {
    const unsigned first = last / kWarpSize * kWarpSize;
    const Fiber& latest = fibers_[last];
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      const Fiber& other = fibers_[first + lane];
      if (!(latest.mask >> lane & 1)) continue;
      if (other.state != State::kAtWarpOperation) return;
      if (other.mask != latest.mask || other.width != latest.width) {
        throw std::runtime_error("simulator: the threads of a warp meet in different operations");
      }
    }
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (!(latest.mask >> lane & 1)) continue;
      brought_[first / kWarpSize][lane] = fibers_[first + lane].value;
      resume(first + lane);
    }
  }

  // No thread can run: all is done, or all of a block is at its barrier, or all of the cluster is at the cluster's.
  // These go on, the warps in a new order.
  void open_barriers() {
    const auto count = [&](State state, size_t from, size_t to) {
      return static_cast<size_t>(std::count_if(fibers_.begin() + from, fibers_.begin() + to,
                                               [&](const Fiber& f) { return f.state == state; }));
    };
    const size_t all = fibers_.size(), size = block_size.x;
    if (count(State::kDone, 0, all) == all) return;
    bool opened = false;
    const auto open = [&](State barrier, size_t from, size_t to) {
      if (count(barrier, from, to) < to - from) return;
      for (size_t t = from; t < to; ++t) resume(static_cast<unsigned>(t));
      if (from == 0) ++barriers;
      opened = true;
    };
    for (size_t from = 0; from < all; from += size) open(State::kAtBarrier, from, from + size);
    if (!opened) open(State::kAtClusterBarrier, 0, all);
    if (!opened) {
      const auto told = [&](State state) { return std::to_string(count(state, 0, all)); };
      throw std::runtime_error("simulator: threads wait for others: " + told(State::kAtBarrier) + " at a barrier, " +
                               (cluster_size_ > 1 ? told(State::kAtClusterBarrier) + " at that of the cluster, " : "") +
                               told(State::kAtWarpOperation) + " in a warp operation, " + told(State::kDone) + " done");
    }
    std::shuffle(order_.begin(), order_.end(), random_);
  }

  // Ends the launch from inside a thread, which never runs again.
  [[noreturn]] void fail(const char* message) {
    error_ = message;
    setcontext(&scheduler_);
    std::abort();
  }

  const std::function<void()>* kernel_ = nullptr;
  std::minstd_rand random_{[] {
    const char* seed = std::getenv("FASTADV_SIMULATOR_SEED");
    return seed ? static_cast<unsigned>(std::atoi(seed)) : 1u;
  }()};
  ucontext_t scheduler_;
  std::vector<Fiber> fibers_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  // By warp, and the order of the warps.
  std::vector<std::vector<unsigned>> ready_;
  std::vector<unsigned> order_;
  unsigned running_ = 0;
  std::vector<std::array<uint64_t, kWarpSize>> brought_;
  unsigned cluster_size_ = 1;
  // Of each block of a cluster, what its arrays take and after them its room; and where the arrays lie in it.
  std::vector<Unit> arena_;
  size_t room_ = 0;
  std::map<const void*, size_t> shared_;
  size_t used_ = 0;
  std::string error_;
};

inline Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

inline void Machine::enter() {
  (*machine().kernel_)();
  machine().fibers_[machine().running_].state = State::kDone;
}

template <class T>
T exchange(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = machine().exchange(mask, bits, sizeof(T), source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace simulator

#define threadIdx ::simulator::thread_index
#define blockIdx ::simulator::block_index
#define blockDim ::simulator::block_size
#define gridDim ::simulator::grid_size

inline void __syncthreads() { simulator::machine().barrier(); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return simulator::exchange(mask, value, (threadIdx.x % simulator::kWarpSize) ^ static_cast<unsigned>(lanes));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return simulator::exchange(mask, value, static_cast<unsigned>(lane));
}

inline unsigned __ballot_sync(unsigned mask, bool value) { return simulator::machine().ballot(mask, value); }

// Threads run one at a time.
inline unsigned atomicAdd(unsigned* count, unsigned more) {
  const unsigned before = *count;
  *count += more;
  return before;
}

inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}

inline void sincospi(float x, float* sine, float* cosine) {
  double s, c;
  sincospi(static_cast<double>(x), &s, &c);
  *sine = static_cast<float>(s);
  *cosine = static_cast<float>(c);
}

namespace fastadv {

struct Device {
  explicit Device(const Tensor&) {}
};

constexpr bool kHasClusters = true;

struct Cluster {
  static int size() { return static_cast<int>(simulator::machine().cluster_size()); }
  static int rank() { return static_cast<int>(simulator::machine().cluster_rank()); }
  static void barrier() { simulator::machine().cluster_barrier(); }
  template <class T>
  static T* in_block(T* shared, int rank) {
    return static_cast<T*>(simulator::machine().in_block(shared, static_cast<unsigned>(rank)));
  }
};

// As on an sm_90 for kernels of up to 8 KiB of arrays.
template <class... Parameters>
int clusters_at_once(void (*)(Parameters...), const Clusters& clusters, const Device&) {
  constexpr int64_t kArrays = 8 * 1024;
  return simulator::machine().clusters && clusters.blocks <= kMostClusterBlocks &&
         clusters.bytes + kArrays <= static_cast<int64_t>(simulator::kMostSharedBytes);
}

inline void copy_later(void* shared, const void* from) { simulator::machine().copy_later(shared, from); }
inline void await_copies() { simulator::machine().await_copies(); }
// Memory that is none of the kernel's ends the process.
inline void prefetch(const void* from) { static_cast<void>(*static_cast<const volatile char*>(from)); }

template <class Packed>
void write_at_once(Packed* to, const Packed& packed) {
  *to = packed;
}

template <class A>
A computed_anew(A x) {
  return x;
}

}  // namespace fastadv

// A lambda of its own for every place and every instantiation of the kernel around it.
#define SHARED_ARRAY(type, name, count)                                \
  type* const name = static_cast<type*>(::simulator::machine().shared( \
      []() -> const void* {                                            \
        static char place;                                             \
        return &place;                                                 \
      }(),                                                             \
      sizeof(type) * (count), alignof(type)))

#define SHARED_ROOM(type, name) type* const name = static_cast<type*>(::simulator::machine().room())

#define LAUNCH(kernel, blocks, threads, device, ...)                                            \
  do {                                                                                          \
    static_cast<void>(device);                                                                  \
    ::simulator::machine().run(::fastadv::grid(blocks), threads, [&] { kernel(__VA_ARGS__); }); \
  } while (false)

#define LAUNCH_CLUSTERS(kernel, clusters, device, ...)                                                              \
  do {                                                                                                              \
    static_cast<void>(device);                                                                                      \
    ::simulator::machine().run((clusters).count * (clusters).blocks, (clusters).threads,                            \
                               [&] { kernel(__VA_ARGS__); }, (clusters).blocks, (clusters).bytes);                  \
  } while (false)

#define REGISTER_OPS(m) STABLE_TORCH_LIBRARY_IMPL(fastadv_simulated, CPU, m)
