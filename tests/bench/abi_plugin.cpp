#include "tests/bench/abi_driver.h"

#include <gantry/plugin.hpp>

GANTRY_STORAGE_PLUGIN("bench", "1", "does nothing", gantry::kNoOptions,
                      [](const gantry::Environment &, const gantry::Config &, const gantry::Call &) {
                          return std::make_unique<BenchDriver>();
                      });
