// How sizes, times, ids and tables look: Docker's forms, which scripts cut apart by column.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gantry::cli {

/// "1.23MB", units of 1000, at most `precision` significant digits (Docker: 3 for images, 4 for pulls).
std::string human_size(double bytes, int precision = 3);
/// "2 minutes", "About an hour", "Less than a second".
std::string human_duration(int64_t seconds);
/// Seconds since the epoch of an RFC 3339 time; `nanoseconds` may be null. -1 when it is none.
int64_t parse_rfc3339(std::string_view text, int32_t *nanoseconds = nullptr);
/// "2026-01-02 03:04:05 +0000 UTC"
std::string format_utc(int64_t seconds);
/// Seconds since the epoch, or "s.nnnnnnnnn", for --since and --until: durations are counted back from
/// `now`, times are converted, anything else is passed through.
std::string to_timestamp(const std::string &text, int64_t now);

/// Twelve characters of an ID, without "sha256:".
std::string short_id(std::string_view id);
/// At most `width` code points, the last one "…" when something was cut.
std::string ellipsis(std::string_view text, size_t width);
size_t display_width(std::string_view text);
/// Rows with cells separated by tabs become columns at least 10 wide with 3 blanks between them.
std::string align_columns(const std::vector<std::string> &lines);
/// Control characters that could drive the terminal become "?"; for text of the network on a terminal.
std::string printable(std::string_view text);

} // namespace gantry::cli
