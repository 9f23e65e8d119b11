#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <deque>
#include <mutex>
#include <thread>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace resforward {

namespace {

inline void relax() {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `word` is no longer `old`: spins, then sleeps in the kernel.
void wait_while(const std::atomic<uint32_t>& word, uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

constexpr int kSpins = 2000;  // 50-100 us on current processors: longer than any step but a small one

// Spinning steals the processor from the thread waited for when there are more members than processors.
int spins_for(int threads) {
  cpu_set_t set;
  const bool known = sched_getaffinity(0, sizeof set, &set) == 0;
  return known && threads > CPU_COUNT(&set) ? 0 : kSpins;
}

struct Worker {
  std::thread thread;
  std::atomic<uint32_t> epoch{0};  // moves when there is work for it
};

struct Team {
  std::mutex turn;  // held for a whole run
  std::deque<Worker> workers;
  // Of the run in progress; written before a worker's epoch moves, read after.
  const std::function<void(int, Barrier&)>* work = nullptr;
  Barrier* barrier = nullptr;
  std::atomic<int> running{0};
  std::atomic<uint32_t> finished{0};

  void serve(int member, const std::atomic<uint32_t>& epoch) {
    for (uint32_t seen = 0;;) {
      wait_while(epoch, seen, kSpins);
      seen = epoch.load(std::memory_order_acquire);
      {
        const FlushDenormals flush;
        (*work)(member, *barrier);
      }
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        finished.fetch_add(1, std::memory_order_release);
        finished.notify_one();
      }
    }
  }

  void run(int threads, const std::function<void(int, Barrier&)>& w) {
    const std::lock_guard<std::mutex> lock(turn);
    while (int(workers.size()) < threads - 1) {
      const int member = int(workers.size()) + 1;
      Worker& worker = workers.emplace_back();
      try {
        worker.thread = std::thread([this, member, &worker] { serve(member, worker.epoch); });
      } catch (...) {
        workers.pop_back();
        throw;
      }
    }
    Barrier meeting(threads, spins_for(threads));
    work = &w, barrier = &meeting;
    running.store(threads - 1, std::memory_order_relaxed);
    const uint32_t before = finished.load(std::memory_order_relaxed);
    for (int i = 0; i < threads - 1; ++i) {
      workers[i].epoch.fetch_add(1, std::memory_order_release);
      workers[i].epoch.notify_one();
    }
    {
      const FlushDenormals flush;
      w(0, meeting);
    }
    wait_while(finished, before, spins_for(threads));
  }
};

// Never destroyed: workers sleep in it until the process ends. A forked child has none of the workers, and perhaps a
// locked mutex, so it starts over with a team of its own.
Team* team = nullptr;
std::once_flag once;

void make_team() {
  team = new Team;
  pthread_atfork(nullptr, nullptr, [] { team = new Team; });
}

}  // namespace

void Barrier::wait() {
  if (members_ == 1) return;
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    round_.notify_all();
  } else {
    wait_while(round_, round, spins_);
  }
}

void run_team(int threads, const std::function<void(int, Barrier&)>& work) {
  if (threads <= 1) {
    const FlushDenormals flush;
    Barrier alone(1, 0);
    work(0, alone);
    return;
  }
  std::call_once(once, make_team);
  team->run(threads, work);
}

#if defined(__SSE__)
FlushDenormals::FlushDenormals() : saved_(_mm_getcsr()) {
  // Not what the caller has, but a fixed mode: its rounding would change bits, its unmasked exceptions would trap.
  constexpr unsigned kExceptionsMasked = 0x1f80, kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
  _mm_setcsr(kExceptionsMasked | kFlushToZero | kDenormalsAreZero);
}
FlushDenormals::~FlushDenormals() { _mm_setcsr(unsigned(saved_)); }
#elif defined(__aarch64__)
FlushDenormals::FlushDenormals() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(uint64_t(1) << 24));
}
FlushDenormals::~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
FlushDenormals::FlushDenormals() : saved_(0) {}
FlushDenormals::~FlushDenormals() {}
#endif

}  // namespace resforward
