// Which instruction sets this build holds and which of them this processor runs, best first.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace resforward {

struct Isa {
  const Kernels* kernels;
  bool supported;  // by the processor and the operating system
};

const std::vector<Isa>& compiled_isas();
const Kernels* find_kernels(const std::string& isa);  // null: not compiled in, or not supported here

}  // namespace resforward
