#include "core/layer/tar_reader.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace gantry {
namespace {

constexpr size_t kBlock = 512;
constexpr uint64_t kMaxRecords = 4 << 20;

[[noreturn]] void bad(uint64_t entry, const std::string &what) {
    throw Error(ErrorClass::kInvalidArgument, "read tar: entry " + std::to_string(entry) + ": " + what);
}

std::string field(const char *block, size_t at, size_t size) {
    return {block + at, strnlen(block + at, size)};
}

/// Octal text, or GNU's big-endian binary when the first bit is set.
bool number(const char *block, size_t at, size_t size, int64_t &out) {
    const auto *bytes = reinterpret_cast<const unsigned char *>(block + at);
    out = 0;
    if (bytes[0] & 0x80) {
        const bool negative = bytes[0] & 0x40;
        uint64_t value = negative ? ~uint64_t{0} : 0;
        for (size_t i = 0; i < size; ++i) {
            const uint64_t byte = i == 0 ? (negative ? bytes[0] : bytes[0] & 0x3f) : bytes[i];
            if (!negative && value >> 55) return false;
            value = value << 8 | byte;
        }
        out = static_cast<int64_t>(value);
        return true;
    }
    for (size_t i = 0; i < size; ++i) {
        const unsigned char c = bytes[i];
        if (c == ' ' || c == 0) {
            if (out) break;
            continue;
        }
        if (c < '0' || c > '7' || out >> 59) return false;
        out = out * 8 + (c - '0');
    }
    return true;
}

template <typename T> bool whole(const std::string &text, T &out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

bool decimal_time(const std::string &text, timespec &out) {
    const size_t dot = text.find('.');
    int64_t seconds = 0;
    if (!whole(text.substr(0, dot), seconds)) return false;
    long fraction = 0;
    if (dot != std::string::npos) {
        std::string digits = text.substr(dot + 1).substr(0, 9);
        digits.resize(9, '0');
        if (!whole(digits, fraction) || fraction < 0) return false;
    }
    if (text.starts_with('-') && fraction > 0) {
        --seconds;
        fraction = 1'000'000'000 - fraction;
    }
    out = {seconds, fraction};
    return true;
}

} // namespace

TarReader::TarReader(std::function<size_t(void *, size_t)> source) : source_(std::move(source)) {}

bool TarReader::read_block(char *block) {
    size_t have = 0;
    while (have < kBlock) {
        const size_t n = source_(block + have, kBlock - have);
        if (n == 0) break;
        have += n;
    }
    if (have != 0 && have != kBlock) bad(count_ + 1, "the archive is cut short");
    return have == kBlock;
}

void TarReader::fill(void *bytes, size_t size) {
    for (char *at = static_cast<char *>(bytes); size > 0;) {
        const size_t n = source_(at, size);
        if (n == 0) bad(count_, "the archive is cut short");
        at += n;
        size -= n;
    }
}

std::string TarReader::text(uint64_t size, const char *what) {
    if (size > kMaxRecords) bad(count_, std::string(what) + " is larger than 4 MiB");
    std::string out(static_cast<size_t>((size + kBlock - 1) / kBlock * kBlock), 0);
    fill(out.data(), out.size());
    out.resize(static_cast<size_t>(size));
    return out;
}

void TarReader::skip() {
    char waste[16 << 10];
    for (uint64_t rest = std::exchange(left_, 0) + std::exchange(padding_, 0); rest > 0;) {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(rest, sizeof waste));
        fill(waste, n);
        rest -= n;
    }
}

size_t TarReader::read(void *bytes, size_t size) {
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(size, left_));
    if (wanted == 0) return 0;
    const size_t n = source_(bytes, wanted);
    if (n == 0) bad(count_, "the archive is cut short");
    left_ -= n;
    return n;
}

bool TarReader::next(TarEntry &entry) {
    skip();
    std::map<std::string, std::string> records;
    std::string long_name, long_link;
    char h[kBlock];
    for (;;) {
        static const char kZeros[kBlock] = {};
        if (!read_block(h) || std::memcmp(h, kZeros, kBlock) == 0) {
            char rest[16 << 10];
            while (source_(rest, sizeof rest) > 0) { // padding: whoever writes it must not be cut off
            }
            return false;
        }
        ++count_;
        int64_t sum = 0, size = 0, given = 0;
        for (size_t i = 0; i < kBlock; ++i)
            sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>(h[i]);
        if (!number(h, 148, 8, given) || given != sum)
            bad(count_, count_ == 1 ? "this is no tar archive" : "its header is damaged");
        if (!number(h, 124, 12, size) || size < 0) bad(count_, "its size is nonsense");
        const char type = h[156];
        if (type == 'x' || type == 'g') {
            const std::string all = text(static_cast<uint64_t>(size), "its PAX header");
            if (type == 'g') continue; // comments of the archive's maker
            for (size_t at = 0; at < all.size();) {
                const size_t blank = all.find(' ', at);
                uint64_t length = 0;
                if (blank == std::string::npos || !whole(all.substr(at, blank - at), length) ||
                    length > all.size() - at || length < blank - at + 3 || all[at + length - 1] != '\n')
                    bad(count_, "its PAX header is damaged");
                const std::string record = all.substr(blank + 1, length - (blank - at) - 2);
                const size_t equals = record.find('=');
                if (equals == std::string::npos) bad(count_, "its PAX header is damaged");
                records[record.substr(0, equals)] = record.substr(equals + 1);
                at += length;
            }
            continue;
        }
        if (type == 'L' || type == 'K') {
            std::string value = text(static_cast<uint64_t>(size), "its name");
            value.resize(strnlen(value.data(), value.size()));
            (type == 'L' ? long_name : long_link) = std::move(value);
            continue;
        }
        if (type == 'V') { // a volume's label
            text(static_cast<uint64_t>(size), "its label");
            continue;
        }

        entry = {};
        const bool ustar = std::memcmp(h + 257, "ustar", 5) == 0;
        const bool posix = ustar && h[262] == 0;
        const std::string prefix = posix ? field(h, 345, 155) : "";
        entry.name = (prefix.empty() ? "" : prefix + "/") + field(h, 0, 100);
        entry.link = field(h, 157, 100);
        if (!long_name.empty()) entry.name = long_name;
        if (!long_link.empty()) entry.link = long_link;
        int64_t mode = 0, uid = 0, gid = 0, time = 0, high = 0, low = 0;
        if (!number(h, 100, 8, mode) || !number(h, 108, 8, uid) || !number(h, 116, 8, gid) ||
            !number(h, 136, 12, time) || (ustar && (!number(h, 329, 8, high) || !number(h, 337, 8, low))))
            bad(count_, "its header holds nonsense");
        entry.mtime.tv_sec = time;
        for (const auto &[key, value] : records) {
            bool good = true;
            if (key == "path")
                entry.name = value;
            else if (key == "linkpath")
                entry.link = value;
            else if (key == "size")
                good = whole(value, size) && size >= 0;
            else if (key == "uid")
                good = whole(value, uid);
            else if (key == "gid")
                good = whole(value, gid);
            else if (key == "mtime")
                good = decimal_time(value, entry.mtime);
            else if (key.starts_with("SCHILY.xattr."))
                entry.xattrs.emplace_back(key.substr(13), value);
            else if (key.starts_with("GNU.sparse."))
                throw Error(ErrorClass::kUnsupported,
                            "read tar: " + entry.name + " is stored as a sparse file",
                            "make the archive without --sparse");
            if (!good) bad(count_, "its PAX header has a bad " + key);
        }
        if (entry.name.find('\0') != std::string::npos || entry.link.find('\0') != std::string::npos)
            bad(count_, "its name holds a zero byte");
        if (uid < 0 || uid >= 0xffffffff || gid < 0 || gid >= 0xffffffff)
            bad(count_, "its owner is out of range");
        entry.uid = static_cast<uid_t>(uid);
        entry.gid = static_cast<gid_t>(gid);
        entry.mode = static_cast<mode_t>(mode & 07777);
        switch (type) {
        case '0':
        case 0:
        case '7': entry.mode |= entry.name.ends_with('/') ? S_IFDIR : S_IFREG; break; // v7's directories
        case '1': entry.hard_link = true; break;
        case '2': entry.mode |= S_IFLNK; break;
        case '3': entry.mode |= S_IFCHR; break;
        case '4': entry.mode |= S_IFBLK; break;
        case '5': entry.mode |= S_IFDIR; break;
        case '6': entry.mode |= S_IFIFO; break;
        case 'S':
            throw Error(ErrorClass::kUnsupported, "read tar: " + entry.name + " is stored as a sparse file",
                        "make the archive without --sparse");
        default: bad(count_, std::string("its type '") + type + "' is not known");
        }
        entry.rdev = makedev(static_cast<unsigned>(high), static_cast<unsigned>(low));
        // Links and devices sometimes carry a size; only regular files have data (and old hard links).
        const bool data = S_ISREG(entry.mode) || entry.hard_link;
        left_ = data ? static_cast<uint64_t>(size) : 0;
        padding_ = (kBlock - left_ % kBlock) % kBlock;
        entry.size = S_ISREG(entry.mode) ? left_ : 0;
        return true;
    }
}

} // namespace gantry
