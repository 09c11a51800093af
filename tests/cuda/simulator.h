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
constexpr size_t kStackBytes = 256 * 1024;

enum class State { kReady, kAtBarrier, kAtWarpOperation, kDone };

struct Fiber {
  ucontext_t context;
  State state;
  // What the thread brings to a warp operation, and who has to take part in it.
  unsigned mask;
  size_t width;
  uint64_t value;
};

class Machine {
 public:
  // How often a kernel was launched since the library was loaded.
  int64_t launches = 0;

  void run(int64_t blocks, int64_t threads, const std::function<void()>& kernel) {
    if (blocks < 1 || blocks > 0x7fffffff) throw std::runtime_error("simulator: invalid number of blocks");
    if (threads < 1 || threads > kMostThreads || threads % kWarpSize) {
      throw std::runtime_error("simulator: the number of threads is no multiple of 32 up to 1024");
    }
    ++launches;
    kernel_ = &kernel;
    grid_size.x = static_cast<unsigned>(blocks);
    block_size.x = static_cast<unsigned>(threads);
    while (stacks_.size() < static_cast<size_t>(threads)) stacks_.emplace_back(new char[kStackBytes]);
    std::vector<unsigned> order(blocks);
    for (unsigned b = 0; b < order.size(); ++b) order[b] = b;
    std::shuffle(order.begin(), order.end(), random_);
    for (const unsigned block : order) {
      block_index.x = block;
      run_block();
    }
  }

  void barrier() { wait(State::kAtBarrier); }

  // The bits of `value` that lane `source` of this warp brings to the same operation.
  uint64_t exchange(unsigned mask, uint64_t value, size_t width, unsigned source) {
    Fiber& fiber = fibers_[running_];
    if (!(mask >> (running_ % kWarpSize) & 1)) fail("a thread is not in the mask of its own warp operation");
    if (!(mask >> source & 1)) fail("a thread reads from a lane that is not in the mask");
    fiber.mask = mask;
    fiber.value = value;
    fiber.width = width;
    wait(State::kAtWarpOperation);
    return brought_[running_ / kWarpSize][source];
  }

  // The shared array that belongs to a place in the code.
  void* shared(const void* place, size_t bytes, size_t alignment) {
    const auto found = shared_.find(place);
    if (found != shared_.end()) return found->second;
    used_ = (used_ + alignment - 1) / alignment * alignment;
    void* const memory = arena_.data() + used_;
    used_ += bytes;
    if (used_ > kSharedBytes) fail("a block uses more than 48 KiB of shared memory");
    return shared_[place] = memory;
  }

 private:
  void run_block() {
    shared_.clear();
    used_ = 0;
    arena_.fill(0xff);
    fibers_.assign(block_size.x, Fiber());
    const unsigned warps = block_size.x / kWarpSize;
    ready_.assign(warps, {});
    order_.resize(warps);
    for (unsigned warp = 0; warp < warps; ++warp) order_[warp] = warp;
    for (unsigned t = 0; t < block_size.x; ++t) {
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
      thread_index.x = running_;
      swapcontext(&scheduler_, &fibers_[running_].context);
      if (!error_.empty()) throw std::runtime_error("simulator: " + std::exchange(error_, ""));
      if (fibers_[running_].state == State::kAtWarpOperation) finish_warp_operation(running_);
    }
  }

  // Chooses the thread that runs now, any of the first warp that has one; false at the end of the block.
  bool next() {
    const auto ready = [&](unsigned warp) { return !ready_[warp].empty(); };
    auto first = std::find_if(order_.begin(), order_.end(), ready);
    if (first == order_.end()) {
      open_barrier();
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

  // No thread can run: either the block is done, or all of it is at the barrier and goes on, the warps in a new order.
  void open_barrier() {
    const auto count = [&](State state) {
      return std::count_if(fibers_.begin(), fibers_.end(), [&](const Fiber& f) { return f.state == state; });
    };
    if (count(State::kDone) == static_cast<int64_t>(fibers_.size())) return;
    if (count(State::kAtBarrier) != static_cast<int64_t>(fibers_.size())) {
      throw std::runtime_error("simulator: threads wait for others: " +
                               std::to_string(count(State::kAtBarrier)) + " at a barrier, " +
                               std::to_string(count(State::kAtWarpOperation)) + " in a warp operation, " +
                               std::to_string(count(State::kDone)) + " done");
    }
    for (unsigned t = 0; t < fibers_.size(); ++t) resume(t);
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
  std::array<std::array<uint64_t, kWarpSize>, kMostThreads / kWarpSize> brought_;
  alignas(16) std::array<unsigned char, kSharedBytes> arena_;
  std::map<const void*, void*> shared_;
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

}  // namespace fastadv

// A lambda of its own for every place and every instantiation of the kernel around it.
#define SHARED_ARRAY(type, name, count)                                \
  type* const name = static_cast<type*>(::simulator::machine().shared( \
      []() -> const void* {                                            \
        static char place;                                             \
        return &place;                                                 \
      }(),                                                             \
      sizeof(type) * (count), alignof(type)))

#define LAUNCH(kernel, blocks, threads, device, ...)                                            \
  do {                                                                                          \
    static_cast<void>(device);                                                                  \
    ::simulator::machine().run(::fastadv::grid(blocks), threads, [&] { kernel(__VA_ARGS__); }); \
  } while (false)

#define REGISTER_OPS(m) STABLE_TORCH_LIBRARY_IMPL(fastadv_simulated, CPU, m)
