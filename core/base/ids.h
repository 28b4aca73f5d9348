// Random identifiers and the times that go with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gantry {

/// 2*bytes lower-case hex digits from getrandom(2).
std::string random_hex(size_t bytes);
/// A container, network or endpoint id: 64 hex digits whose first 12 are never all decimal, so that a
/// short id cannot be taken for a number.
std::string new_id();

/// Wall clock, nanoseconds since 1970.
int64_t wall_ns() noexcept;
/// "2026-11-23T22:44:48.968448414Z", trailing zeros cut; 0 gives "0001-01-01T00:00:00Z".
std::string rfc3339(int64_t wall_ns_value);
/// Parses RFC3339 with fraction and offset, or "seconds[.nanoseconds]"; false if neither.
bool parse_time(const std::string &text, int64_t &wall_ns_value) noexcept;

} // namespace gantry
