// One team of threads a process: it runs a function on every member at once, and members can wait for each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace resforward {

// Where the members of a running team meet. Waits by spinning for some microseconds, then sleeps.
class Barrier {
 public:
  Barrier(int members, int spins) : members_(members), spins_(spins) {}
  void wait();

 private:
  const int members_, spins_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
};

// Calls work(member, barrier) for member 0 ... threads - 1, member 0 on the calling thread, and returns when all have
// returned. One call at a time: others wait their turn, except that one thread needs no team and no turn. The team is
// made on first use, grows to the largest number asked for, and is made anew in a forked child.
void run_team(int threads, const std::function<void(int, Barrier&)>& work);

// Flush denormals to zero while alive: they are 50 times slower than other numbers and no weight needs them.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();

 private:
  uint64_t saved_;
};

}  // namespace resforward
