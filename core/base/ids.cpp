#include "core/base/ids.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sys/random.h>
#include <time.h>

namespace gantry {

std::string random_hex(size_t bytes) {
    static const char kDigits[] = "0123456789abcdef";
    unsigned char raw[64];
    std::string out;
    out.reserve(bytes * 2);
    while (bytes > 0) {
        const size_t want = bytes < sizeof raw ? bytes : sizeof raw;
        const ssize_t got = ::getrandom(raw, want, 0);
        if (got < 0) {
            if (errno == EINTR) continue;
            throw Error::from_errno(errno, "get random bytes");
        }
        for (ssize_t i = 0; i < got; ++i) {
            out += kDigits[raw[i] >> 4];
            out += kDigits[raw[i] & 15];
        }
        bytes -= static_cast<size_t>(got);
    }
    return out;
}

std::string new_id() {
    for (;;) {
        std::string id = random_hex(32);
        if (id.substr(0, 12).find_first_not_of("0123456789") != std::string::npos) return id;
    }
}

int64_t wall_ns() noexcept {
    timespec t{};
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

std::string rfc3339(int64_t wall_ns_value) {
    if (wall_ns_value == 0) return "0001-01-01T00:00:00Z";
    time_t seconds = wall_ns_value / 1000000000LL;
    long nanos = wall_ns_value % 1000000000LL;
    if (nanos < 0) {
        nanos += 1000000000L;
        --seconds;
    }
    tm parts{};
    gmtime_r(&seconds, &parts);
    char text[64];
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    std::string out(text, n);
    if (nanos != 0) {
        snprintf(text, sizeof text, ".%09ld", nanos);
        out += text;
        while (out.back() == '0')
            out.pop_back();
    }
    return out + "Z";
}

constexpr int64_t kMostSeconds = 9000000000LL; // as nanoseconds they still fit into 63 bits

bool parse_time(const std::string &text, int64_t &wall_ns_value) noexcept {
    const char *p = text.c_str();
    auto fraction = [&p]() {
        int64_t nanos = 0;
        if (*p != '.') return nanos;
        ++p;
        int64_t scale = 100000000;
        for (; *p >= '0' && *p <= '9'; ++p, scale /= 10)
            nanos += (*p - '0') * scale;
        return nanos;
    };
    tm parts{};
    const char *rest = ::strptime(p, "%Y-%m-%dT%H:%M:%S", &parts);
    if (!rest) {
        char *end = nullptr;
        if (*p < '0' || *p > '9') return false;
        const long long seconds = strtoll(p, &end, 10);
        p = end;
        const int64_t nanos = fraction();
        if (*p != 0 || seconds > kMostSeconds) return false;
        wall_ns_value = seconds * 1000000000LL + nanos;
        return true;
    }
    p = rest;
    const int64_t nanos = fraction();
    int64_t offset = 0;
    if (*p == '+' || *p == '-') {
        int hours = 0, minutes = 0, size = 0;
        if (sscanf(p + 1, "%2d:%2d%n", &hours, &minutes, &size) != 2 || size != 5) return false;
        offset = (hours * 3600 + minutes * 60) * (*p == '-' ? -1 : 1);
        p += 6;
    } else if (*p == 'Z' || *p == 'z') {
        ++p;
    }
    const int64_t seconds = static_cast<int64_t>(timegm(&parts)) - offset;
    if (*p != 0 || std::abs(seconds) > kMostSeconds) return false;
    wall_ns_value = seconds * 1000000000LL + nanos;
    return true;
}

} // namespace gantry
