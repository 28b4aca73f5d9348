// The rules follow Go's tabwriter and Docker's go-units, so that outputs compare equal.
#include "core/cli/format.h"

#include "core/cli/flags.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace gantry::cli {

std::string human_size(double bytes, int precision) {
    static constexpr const char *kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    size_t unit = 0;
    while (bytes >= 1000 && unit + 1 < std::size(kUnits)) {
        bytes /= 1000;
        ++unit;
    }
    char text[64];
    snprintf(text, sizeof text, "%.*g%s", precision, bytes, kUnits[unit]);
    return text;
}

std::string human_duration(int64_t seconds) {
    auto count = [](int64_t number, const char *unit) { return std::to_string(number) + " " + unit; };
    if (seconds < 1) return "Less than a second";
    if (seconds == 1) return "1 second";
    if (seconds < 60) return count(seconds, "seconds");
    int64_t minutes = seconds / 60;
    if (minutes == 1) return "About a minute";
    if (minutes < 60) return count(minutes, "minutes");
    int64_t hours = (seconds + 1800) / 3600;
    if (hours == 1) return "About an hour";
    if (hours < 48) return count(hours, "hours");
    if (hours < 24 * 7 * 2) return count(hours / 24, "days");
    if (hours < 24 * 30 * 2) return count(hours / 24 / 7, "weeks");
    if (hours < 24 * 365 * 2) return count(hours / 24 / 30, "months");
    return count(seconds / 3600 / 24 / 365, "years");
}

int64_t parse_rfc3339(std::string_view text, int32_t *nanoseconds) {
    std::string copy(text.substr(0, 64));
    tm time{};
    char *rest = strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
    if (!rest) return -1;
    int32_t nanos = 0;
    if (*rest == '.') {
        int digits = 0;
        for (++rest; *rest >= '0' && *rest <= '9'; ++rest)
            if (digits < 9) {
                nanos = nanos * 10 + (*rest - '0');
                ++digits;
            }
        for (; digits < 9; ++digits)
            nanos *= 10;
    }
    int64_t offset = 0;
    if (*rest == '+' || *rest == '-') {
        int hours = 0, minutes = 0;
        if (sscanf(rest + 1, "%2d:%2d", &hours, &minutes) != 2) return -1;
        offset = (hours * 3600 + minutes * 60) * (*rest == '-' ? -1 : 1);
    } else if (*rest != 'Z' && *rest != '\0') {
        return -1;
    }
    if (nanoseconds) *nanoseconds = nanos;
    return timegm(&time) - offset;
}

std::string format_utc(int64_t seconds) {
    time_t time = seconds;
    tm parts{};
    gmtime_r(&time, &parts);
    char text[64];
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S +0000 UTC", &parts);
    return text;
}

std::string to_timestamp(const std::string &text, int64_t now) {
    if (text.empty()) return text;
    int32_t nanos = 0;
    std::string full = text;
    if (full.size() == 10 && full[4] == '-') full += "T00:00:00";
    if (int64_t seconds = parse_rfc3339(full, &nanos); seconds >= 0) {
        char result[48];
        snprintf(result, sizeof result, "%lld.%09d", static_cast<long long>(seconds), nanos);
        return result;
    }
    try {
        int64_t back = parse_duration(text);
        return text == "0" ? text : std::to_string(now - back / 1000000000);
    } catch (const FlagError &) {
        return text; // already a timestamp, or for the daemon to refuse
    }
}

std::string short_id(std::string_view id) {
    if (id.starts_with("sha256:")) id.remove_prefix(7);
    return std::string(id.substr(0, 12));
}

size_t display_width(std::string_view text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string ellipsis(std::string_view text, size_t width) {
    if (display_width(text) <= width) return std::string(text);
    size_t bytes = 0;
    for (size_t points = 0; bytes < text.size(); ++bytes)
        if ((text[bytes] & 0xc0) != 0x80 && points++ == width - 1) break;
    return std::string(text.substr(0, bytes)) + "…";
}

std::string align_columns(const std::vector<std::string> &lines) {
    std::vector<std::vector<std::string_view>> rows;
    std::vector<size_t> widths;
    for (const std::string &line : lines) {
        std::vector<std::string_view> cells;
        std::string_view rest = line;
        for (size_t tab; (tab = rest.find('\t')) != std::string_view::npos; rest.remove_prefix(tab + 1))
            cells.push_back(rest.substr(0, tab));
        for (size_t i = 0; i < cells.size(); ++i) {
            if (i == widths.size()) widths.push_back(10);
            widths[i] = std::max(widths[i], display_width(cells[i]) + 3);
        }
        cells.push_back(rest); // the last cell is not padded
        rows.push_back(std::move(cells));
    }
    std::string text;
    for (const auto &cells : rows) {
        for (size_t i = 0; i < cells.size(); ++i) {
            text += cells[i];
            if (i + 1 < cells.size()) text.append(widths[i] - display_width(cells[i]), ' ');
        }
        text += '\n';
    }
    return text;
}

std::string printable(std::string_view text) {
    std::string result(text);
    for (char &c : result)
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) c = '?';
    return result;
}

} // namespace gantry::cli
