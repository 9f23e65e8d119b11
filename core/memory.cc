#include "memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace resforward {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kPage = 4096;
// Less would waste more of a huge page than its fewer TLB misses are worth: from a quarter of one on, weights of
// resnet_v2_152 take 80 MiB more and a pass is no faster.
constexpr size_t kLeastHuge = kHugePage / 4 * 3;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
}  // namespace

Buffer::Buffer(size_t floats) {
  if (floats == 0) return;
  if (floats > SIZE_MAX / sizeof(float) - 3 * kHugePage) throw std::bad_alloc();
  bytes_ = floats * sizeof(float);
  const bool huge = bytes_ >= kLeastHuge;
  mapped_ = huge ? round_up(bytes_, kHugePage) + kHugePage : round_up(bytes_, kPage);
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw std::bad_alloc();
  }
  uintptr_t at = reinterpret_cast<uintptr_t>(mapping_);
  if (huge) {
    at = round_up(at, kHugePage);
    madvise(reinterpret_cast<void*>(at), round_up(bytes_, kHugePage),
            MADV_HUGEPAGE);  // a hint: refusal costs speed, not correctness
  }
  data_ = reinterpret_cast<float*>(at);
}

Buffer::~Buffer() {
  if (mapping_) munmap(mapping_, mapped_);
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(mapping_, other.mapping_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
}

}  // namespace resforward
