#include "memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace resforward {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kPage = 4096;
}  // namespace

Buffer::Buffer(size_t floats) {
  if (floats == 0) return;
  if (floats > SIZE_MAX / sizeof(float) - 2 * kHugePage) throw std::bad_alloc();
  bytes_ = floats * sizeof(float);
  const bool huge = bytes_ >= kHugePage;
  mapped_ = (bytes_ + kPage - 1) / kPage * kPage + (huge ? kHugePage : 0);
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw std::bad_alloc();
  }
  uintptr_t at = reinterpret_cast<uintptr_t>(mapping_);
  if (huge) {
    at = (at + kHugePage - 1) / kHugePage * kHugePage;
    madvise(reinterpret_cast<void*>(at), bytes_, MADV_HUGEPAGE);  // a hint: refusal costs speed, not correctness
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
