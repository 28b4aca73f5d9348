#include "core/layer/tar_writer.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr size_t kBlock = 512, kBuffer = 256 << 10;
constexpr uint64_t kOctal7 = 07777777, kOctal11 = 077777777777;

bool ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c < 128; });
}

bool utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const auto c = static_cast<unsigned char>(text[i]);
        const size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;
        if (c >= 0xf5 || (c >= 0x80 && c < 0xc2) || i + more >= text.size()) return false;
        for (size_t k = 1; k <= more; ++k)
            if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
        i += more + 1;
    }
    return true;
}

void record(std::string &records, const std::string &key, std::string_view value) {
    // The length counts its own digits.
    const size_t rest = key.size() + value.size() + 3;
    size_t size = rest + 1;
    while (std::to_string(size).size() + rest != size)
        size = std::to_string(size).size() + rest;
    records += std::to_string(size) + " " + key + "=";
    records += value;
    records += "\n";
}

std::string decimal_time(const timespec &time) {
    int64_t seconds = time.tv_sec;
    long fraction = time.tv_nsec;
    const bool negative = seconds < 0;
    if (negative && fraction > 0) {
        seconds += 1;
        fraction = 1'000'000'000 - fraction;
    }
    char text[40];
    std::snprintf(text, sizeof text, "%s%lld.%09ld", negative ? "-" : "",
                  static_cast<long long>(negative ? -seconds : seconds), fraction);
    std::string out = text;
    while (out.back() == '0')
        out.pop_back();
    if (out.back() == '.') out.pop_back();
    return out;
}

void octal(char *field, size_t width, uint64_t value) {
    for (size_t i = width - 1; i-- > 0; value >>= 3)
        field[i] = static_cast<char>('0' + (value & 7));
}

} // namespace

TarWriter::TarWriter(ByteSink sink) : sink_(std::move(sink)), buffer_(kBuffer) {}

void TarWriter::begin(const TarEntry &entry) {
    if (left_ > 0) throw Error(ErrorClass::kInternal, "write tar: an entry before this one is not complete");
    pad();
    char type = '0';
    if (entry.hard_link)
        type = '1';
    else if (S_ISDIR(entry.mode))
        type = '5';
    else if (S_ISLNK(entry.mode))
        type = '2';
    else if (S_ISCHR(entry.mode))
        type = '3';
    else if (S_ISBLK(entry.mode))
        type = '4';
    else if (S_ISFIFO(entry.mode))
        type = '6';
    else if (!S_ISREG(entry.mode))
        throw Error(ErrorClass::kInvalidArgument,
                    "write tar: " + entry.name + " is of no type a tar can hold");
    std::string name = entry.name;
    if (type == '5' && !name.ends_with('/')) name += '/';
    const std::string &link = type == '1' || type == '2' ? entry.link : std::string();
    const uint64_t size = type == '0' ? entry.size : 0;

    std::string records;
    const bool odd_name = !ascii(name), odd_link = !ascii(link);
    if ((odd_name && !utf8(name)) || (odd_link && !utf8(link))) record(records, "hdrcharset", "BINARY");
    if (name.size() > 100 || odd_name) record(records, "path", name);
    if (link.size() > 100 || odd_link) record(records, "linkpath", link);
    if (size > kOctal11) record(records, "size", std::to_string(size));
    if (entry.uid > kOctal7) record(records, "uid", std::to_string(entry.uid));
    if (entry.gid > kOctal7) record(records, "gid", std::to_string(entry.gid));
    if (entry.mtime.tv_nsec != 0 || entry.mtime.tv_sec < 0 ||
        static_cast<uint64_t>(entry.mtime.tv_sec) > kOctal11)
        record(records, "mtime", decimal_time(entry.mtime));
    if (type != '1')
        for (const auto &[key, value] : entry.xattrs)
            record(records, "SCHILY.xattr." + key, value);
    if (!records.empty()) {
        TarEntry extra;
        extra.mode = 0644;
        const size_t base = name.find_last_of('/', name.size() - 2);
        header(extra, 'x', "PaxHeaders.0/" + name.substr(base == std::string::npos ? 0 : base + 1, 80), "",
               records.size());
        put(records.data(), records.size());
        offset_ = records.size();
        pad();
    }
    header(entry, type, name, link, size);
    left_ = size;
    offset_ = 0;
}

void TarWriter::header(const TarEntry &e, char type, const std::string &name, const std::string &link,
                       uint64_t size) {
    char h[kBlock] = {};
    std::memcpy(h, name.data(), std::min<size_t>(name.size(), 100));
    octal(h + 100, 8, e.mode & 07777);
    octal(h + 108, 8, std::min<uint64_t>(e.uid, kOctal7));
    octal(h + 116, 8, std::min<uint64_t>(e.gid, kOctal7));
    octal(h + 124, 12, size > kOctal11 ? 0 : size);
    const int64_t seconds = e.mtime.tv_sec;
    octal(h + 136, 12,
          seconds < 0 || static_cast<uint64_t>(seconds) > kOctal11 ? 0 : static_cast<uint64_t>(seconds));
    h[156] = type;
    std::memcpy(h + 157, link.data(), std::min<size_t>(link.size(), 100));
    std::memcpy(h + 257, "ustar\00000", 8);
    if (type == '3' || type == '4') {
        octal(h + 329, 8, major(e.rdev));
        octal(h + 337, 8, minor(e.rdev));
    }
    std::memset(h + 148, ' ', 8);
    unsigned sum = 0;
    for (const char c : h)
        sum += static_cast<unsigned char>(c);
    octal(h + 148, 7, sum);
    h[154] = 0;
    put(h, sizeof h);
}

void TarWriter::data(const void *bytes, size_t size) {
    if (size > left_) throw Error(ErrorClass::kInternal, "write tar: more data than the header says");
    put(bytes, size);
    left_ -= size;
    offset_ += size;
}

uint64_t TarWriter::data_from(int fd, const std::string &shown) {
    while (left_ > 0) {
        if (used_ == kBuffer) flush();
        const size_t room = static_cast<size_t>(std::min<uint64_t>(kBuffer - used_, left_));
        const ssize_t n = ::read(fd, buffer_.data() + used_, room);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "read " + shown);
        if (n == 0) break;
        used_ += static_cast<size_t>(n);
        left_ -= static_cast<uint64_t>(n);
        offset_ += static_cast<uint64_t>(n);
    }
    const uint64_t missing = left_;
    static const char kZeros[4096] = {};
    while (left_ > 0)
        data(kZeros, static_cast<size_t>(std::min<uint64_t>(left_, sizeof kZeros)));
    return missing;
}

void TarWriter::finish() {
    if (left_ > 0) throw Error(ErrorClass::kInternal, "write tar: the last entry is not complete");
    pad();
    static const char kZeros[2 * kBlock] = {};
    put(kZeros, sizeof kZeros);
    flush();
}

void TarWriter::put(const void *bytes, size_t size) {
    const char *from = static_cast<const char *>(bytes);
    while (size > 0) {
        if (used_ == kBuffer) flush();
        const size_t n = std::min(size, kBuffer - used_);
        std::memcpy(buffer_.data() + used_, from, n);
        used_ += n;
        from += n;
        size -= n;
    }
}

void TarWriter::pad() {
    static const char kZeros[kBlock] = {};
    if (offset_ % kBlock) put(kZeros, kBlock - offset_ % kBlock);
    offset_ = 0;
}

void TarWriter::flush() {
    if (used_ > 0) sink_(buffer_.data(), std::exchange(used_, 0));
}

} // namespace gantry
