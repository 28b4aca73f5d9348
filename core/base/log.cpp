#include "core/base/log.h"

#include "core/base/ids.h"

#include <atomic>
#include <unistd.h>

namespace gantry {
namespace {
std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};
const char *const kNames[] = {"debug", "info", "warn", "error"};
} // namespace

void set_log_level(LogLevel level) noexcept { g_level = static_cast<int>(level); }
bool log_enabled(LogLevel level) noexcept { return static_cast<int>(level) >= g_level; }

void log_line(LogLevel level, const std::string &message) noexcept {
    try {
        std::string line =
            rfc3339(wall_ns() / 1000000 * 1000000) + " " + kNames[static_cast<int>(level)] + " " + message;
        for (char &c : line)
            if (c == '\n' || c == '\r') c = ' ';
        line += '\n';
        if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
    } catch (...) { // a log line is never worth a crash
    }
}

} // namespace gantry
