// The engine's log: one line per event to stderr (and so to the journal), levelled, cheap when off.
#pragma once

#include <fmt/core.h>
#include <string>

namespace gantry {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3 };

void set_log_level(LogLevel level) noexcept;
bool log_enabled(LogLevel level) noexcept;
/// Thread-safe; one write(2) per line: "2026-11-24T00:30:00.123Z level message".
void log_line(LogLevel level, const std::string &message) noexcept;

template <typename... T> void log_debug(fmt::format_string<T...> f, T &&...args) {
    if (log_enabled(LogLevel::kDebug)) log_line(LogLevel::kDebug, fmt::format(f, std::forward<T>(args)...));
}
template <typename... T> void log_info(fmt::format_string<T...> f, T &&...args) {
    if (log_enabled(LogLevel::kInfo)) log_line(LogLevel::kInfo, fmt::format(f, std::forward<T>(args)...));
}
template <typename... T> void log_warn(fmt::format_string<T...> f, T &&...args) {
    if (log_enabled(LogLevel::kWarn)) log_line(LogLevel::kWarn, fmt::format(f, std::forward<T>(args)...));
}
template <typename... T> void log_error(fmt::format_string<T...> f, T &&...args) {
    if (log_enabled(LogLevel::kError)) log_line(LogLevel::kError, fmt::format(f, std::forward<T>(args)...));
}

} // namespace gantry
