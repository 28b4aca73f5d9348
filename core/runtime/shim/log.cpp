// Docker's json-file log, one JSON object per line. Lines longer than 16 KiB are split into records
// without a line end, as Docker does; records collect in one buffer and go out with one write(2) per
// batch of output. Rotation renames path -> path.1 -> path.2 at a record's end.
#include "core/runtime/shim/shim.h"

#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

namespace gantry::shim {
namespace {

constexpr size_t kLine = 16384;
char lines[2][kLine];
size_t line_size[2];
char out[24576];
size_t out_size;
int log_fd = -1;
char log_path[4096];
uint64_t file_size, size_limit;
uint32_t file_limit;

void flush() {
    for (size_t at = 0; at < out_size && log_fd >= 0;) {
        ssize_t n = write(log_fd, out + at, out_size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break; // a full disk must not stop the container
        at += size_t(n);
    }
    out_size = 0;
}

void put(const char *text, size_t n) {
    if (n > sizeof out - out_size) flush();
    memcpy(out + out_size, text, n);
    out_size += n;
    file_size += n;
}

/// Length of the UTF-8 sequence at p, 0 when it is none.
size_t sequence(const unsigned char *p, size_t left) {
    size_t n = *p < 0x80                  ? 1
               : *p >= 0xc2 && *p <= 0xdf ? 2
               : *p >= 0xe0 && *p <= 0xef ? 3
               : *p >= 0xf0 && *p <= 0xf4 ? 4
                                          : 0;
    if (n == 0 || n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (n == 3 && ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f))) return 0;
    if (n == 4 && ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))) return 0;
    return n;
}

void put_escaped(const char *text, size_t size) {
    static const char kHex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)text;
    size_t plain = 0, i = 0;
    while (i < size) {
        unsigned char c = p[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&') {
            i++;
            continue;
        }
        size_t n = c < 0x80 ? 0 : sequence(p + i, size - i);
        if (n && !(n == 3 && p[i] == 0xe2 && p[i + 1] == 0x80 && (p[i + 2] & 0xfe) == 0xa8)) {
            i += n;
            continue;
        }
        put(text + plain, i - plain);
        if (c == '"' || c == '\\') {
            char pair[2] = {'\\', char(c)};
            put(pair, 2);
        } else if (c == '\n' || c == '\r' || c == '\t') {
            put(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", 2);
        } else if (c < 0x80) {
            char code[6] = {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]};
            put(code, 6);
        } else {
            put(n ? (p[i + 2] & 1 ? "\\u2029" : "\\u2028") : "\\ufffd", 6);
        }
        i += n ? n : 1;
        plain = i;
    }
    put(text + plain, size - plain);
}

void put_time() {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    // Civil date from days since 1970, proleptic Gregorian (Hinnant): localtime would load zone files.
    int64_t days = now.tv_sec / 86400, rest = now.tv_sec % 86400, z = days + 719468, era = z / 146097;
    int64_t doe = z - era * 146097, yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    uint64_t day = uint64_t(doy - (153 * mp + 2) / 5 + 1), month = uint64_t(mp < 10 ? mp + 3 : mp - 9);
    TextBuffer<40> text;
    text.number(uint64_t(yoe + era * 400 + (month <= 2))).add("-").number(month, 2).add("-").number(day, 2);
    text.add("T").number(uint64_t(rest / 3600), 2).add(":").number(uint64_t(rest / 60 % 60), 2).add(":");
    text.number(uint64_t(rest % 60), 2);
    if (now.tv_nsec) {
        text.add(".").number(uint64_t(now.tv_nsec), 9);
        while (text.bytes[text.size - 1] == '0')
            text.size--;
    }
    put(text.bytes, text.size);
}

void open_file(bool truncate) {
    log_fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | (truncate ? O_TRUNC : 0), 0640);
    struct stat status;
    file_size = log_fd >= 0 && fstat(log_fd, &status) == 0 ? uint64_t(status.st_size) : 0;
}

Path &numbered(uint32_t n) {
    static Path names[2];
    static int turn;
    Path &name = names[turn ^= 1];
    name = Path();
    name.add(log_path);
    if (n) name.add(".").number(n);
    return name;
}

void rotate() {
    flush();
    close(log_fd);
    for (uint32_t n = file_limit > 1 ? file_limit - 1 : 0; n > 0; n--)
        rename(numbered(n - 1).c(), numbered(n).c());
    open_file(file_limit <= 1);
}

void record(int stream, const char *text, size_t size) {
    put("{\"log\":\"", 8);
    put_escaped(text, size);
    if (stream == 0)
        put("\",\"stream\":\"stdout\",\"time\":\"", 28);
    else
        put("\",\"stream\":\"stderr\",\"time\":\"", 28);
    put_time();
    put("\"}\n", 3);
    if (size_limit && file_size >= size_limit) rotate();
}

} // namespace

void log_open(const char *path, uint64_t max_size, uint32_t max_files) {
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof log_path) return;
    memcpy(log_path, path, n + 1);
    size_limit = max_size;
    file_limit = max_files > 1000 ? 1000 : max_files;
    open_file(false);
}

void log_write(int stream, const char *data, size_t size) {
    if (log_fd < 0) return;
    char *line = lines[stream];
    size_t &have = line_size[stream];
    while (size > 0) {
        const char *end = (const char *)memchr(data, '\n', size);
        size_t n = end ? size_t(end - data) + 1 : size;
        if (have == 0 && end && n <= kLine) {
            record(stream, data, n);
        } else {
            if (n > kLine - have) n = kLine - have, end = nullptr;
            memcpy(line + have, data, n);
            have += n;
            if (line[have - 1] == '\n' || have == kLine) {
                record(stream, line, have);
                have = 0;
            }
        }
        data += n;
        size -= n;
    }
    flush();
}

void log_finish() {
    for (int stream = 0; stream < 2; stream++) {
        if (line_size[stream]) record(stream, lines[stream], line_size[stream]);
        line_size[stream] = 0;
    }
    flush();
}

} // namespace gantry::shim
