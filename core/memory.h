// Large zeroed buffers on 2 MiB boundaries, so that the kernel can back them with huge pages.
#pragma once

#include <cstddef>

namespace resforward {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t floats);  // throws std::bad_alloc
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }

  float* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) noexcept;
  float* data_ = nullptr;
  void* mapping_ = nullptr;
  size_t bytes_ = 0, mapped_ = 0;
};

}  // namespace resforward
