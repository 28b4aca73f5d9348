// Places where the tests end the process as kill -9 would: just after each step that changes state. They
// are in every build, so that what is tested is what is shipped, and cost one load of a constant while off.
//
// GANTRY_FAILPOINT=NAME[:N] kills at the Nth time (1) that NAME is reached; GANTRY_FAILPOINT=?FILE appends
// the names reached to FILE.
#pragma once

#include <atomic>
#include <string>

namespace gantry {

namespace failpoints {
extern std::atomic<bool> armed;
void reached(const char *name) noexcept;
/// As the environment variable; "" disarms. Before there are threads.
void arm(const std::string &what);
} // namespace failpoints

inline void failpoint(const char *name) noexcept {
    if (failpoints::armed.load(std::memory_order_relaxed)) [[unlikely]]
        failpoints::reached(name);
}

} // namespace gantry
