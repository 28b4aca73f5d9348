// See log_file.h. A hand-written scan of the three known keys: a log of gigabytes goes through here,
// and a general parser costs several times as much. Rotation renames, so the open file stays readable
// to its end; then the path is opened again when it has become another inode.
#include "core/container/log_file.h"

#include "core/base/files.h"
#include "core/base/ids.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace gantry {

namespace {

constexpr size_t kMaxLine = 4u << 20;
constexpr int kMaxRotated = 1000;

void append_utf8(std::string &out, uint32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xc0 | (code >> 6));
        out += static_cast<char>(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        out += static_cast<char>(0xe0 | (code >> 12));
        out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
        out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
        out += static_cast<char>(0xf0 | (code >> 18));
        out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
        out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
        out += static_cast<char>(0x80 | (code & 0x3f));
    }
}

bool read_hex4(std::string_view text, size_t at, uint32_t &code) {
    if (at + 4 > text.size()) return false;
    code = 0;
    for (size_t i = at; i < at + 4; ++i) {
        const char c = text[i];
        code <<= 4;
        if (c >= '0' && c <= '9')
            code |= static_cast<uint32_t>(c - '0');
        else if (c >= 'a' && c <= 'f')
            code |= static_cast<uint32_t>(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            code |= static_cast<uint32_t>(c - 'A' + 10);
        else
            return false;
    }
    return true;
}

/// A JSON string starting at the quote text[at]; moves `at` behind the closing quote.
bool read_string(std::string_view text, size_t &at, std::string &out) {
    if (at >= text.size() || text[at] != '"') return false;
    out.clear();
    for (++at; at < text.size();) {
        const size_t stop = text.find_first_of("\"\\", at);
        if (stop == text.npos) return false;
        out.append(text.substr(at, stop - at));
        at = stop + 1;
        if (text[stop] == '"') return true;
        if (at >= text.size()) return false;
        const char c = text[at++];
        switch (c) {
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'u': {
            uint32_t code = 0, low = 0;
            if (!read_hex4(text, at, code)) return false;
            at += 4;
            if (code >= 0xd800 && code < 0xdc00 && at + 6 <= text.size() && text[at] == '\\' &&
                text[at + 1] == 'u' && read_hex4(text, at + 2, low) && low >= 0xdc00 && low < 0xe000) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                at += 6;
            }
            append_utf8(out, code);
            break;
        }
        default: out += c;
        }
    }
    return false;
}

/// Reads lines of one open file; keeps a part without line end for later.
class LineReader {
  public:
    explicit LineReader(UniqueFd fd) : fd_(std::move(fd)) {}
    int fd() const { return fd_.get(); }
    /// False at the end of what is there now.
    bool next(std::string_view &line) {
        for (;;) {
            const size_t end = buffer_.find('\n', scanned_);
            if (end != buffer_.npos) {
                line = std::string_view(buffer_).substr(from_, end - from_);
                from_ = scanned_ = end + 1;
                return true;
            }
            buffer_.erase(0, from_);
            from_ = 0;
            scanned_ = buffer_.size();
            if (buffer_.size() > kMaxLine) buffer_.clear(), scanned_ = 0; // no record is that long
            const size_t old = buffer_.size();
            buffer_.resize(old + 65536);
            ssize_t got;
            do
                got = ::read(fd_.get(), buffer_.data() + old, 65536);
            while (got < 0 && errno == EINTR);
            buffer_.resize(old + static_cast<size_t>(std::max<ssize_t>(got, 0)));
            if (got < 0) throw Error::from_errno(errno, "read container log");
            if (got == 0) return false;
        }
    }

  private:
    UniqueFd fd_;
    std::string buffer_;
    size_t from_ = 0, scanned_ = 0;
};

bool same_file(int fd, const std::string &path) {
    struct stat a {
    }, b{};
    return ::fstat(fd, &a) == 0 && ::stat(path.c_str(), &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

} // namespace

bool parse_log_line(std::string_view line, LogRecord &record) {
    bool have_log = false, have_time = false;
    std::string key, value;
    size_t at = 0;
    if (line.empty() || line[at++] != '{') return false;
    for (;;) {
        if (!read_string(line, at, key) || at >= line.size() || line[at++] != ':') return false;
        if (!read_string(line, at, value)) return false;
        if (key == "log") {
            record.text.swap(value);
            have_log = true;
        } else if (key == "stream") {
            record.stream = value == "stderr" ? 2 : 1;
        } else if (key == "time") {
            have_time = parse_time(value, record.time_ns);
        }
        if (at >= line.size()) return false;
        const char c = line[at++];
        if (c == '}') return have_log && have_time;
        if (c != ',') return false;
    }
}

int64_t tail_offset(int fd, int64_t lines, int64_t &found) {
    found = 0;
    const int64_t size = ::lseek(fd, 0, SEEK_END);
    if (size < 0) throw Error::from_errno(errno, "seek container log");
    std::vector<char> block(65536);
    // The newline that ends the last line is not counted, so position size-1 is skipped.
    for (int64_t end = size; end > 0;) {
        const int64_t begin = std::max<int64_t>(0, end - static_cast<int64_t>(block.size()));
        const ssize_t got = ::pread(fd, block.data(), static_cast<size_t>(end - begin), begin);
        if (got != end - begin) throw Error(ErrorClass::kDataLoss, "read container log: it became shorter");
        for (int64_t i = got - 1; i >= 0; --i) {
            if (block[static_cast<size_t>(i)] != '\n') continue;
            if (begin + i == size - 1) continue;
            if (++found == lines) return begin + i + 1;
        }
        end = begin;
    }
    if (size > 0) ++found;
    return 0;
}

void read_log(const std::string &path, const LogQuery &query, const CancelSource &cancel, int end_fd,
              const std::function<bool()> &ended, const std::function<bool(const LogRecord &)> &sink) {
    // The watch comes before the first read, so that no write can fall between them.
    UniqueFd watch;
    if (query.follow) {
        watch.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        if (!watch) throw Error::from_errno(errno, "watch container log");
        const std::string directory = path.substr(0, path.rfind('/'));
        if (::inotify_add_watch(watch.get(), directory.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
            throw Error::from_errno(errno, "watch container log");
        }
    }
    std::vector<LineReader> files;
    auto open_one = [&](const std::string &name) {
        UniqueFd fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
        if (!fd) {
            if (errno == ENOENT) return false;
            throw Error::from_errno(errno, "open container log");
        }
        files.emplace_back(std::move(fd));
        return true;
    };
    // Newest first, then reversed: a rotation meanwhile shows a file twice at worst, and the inode
    // comparison drops it.
    open_one(path);
    for (int i = 1; i < kMaxRotated && open_one(path + "." + std::to_string(i)); ++i) {
        struct stat a {
        }, b{};
        if (files.size() > 1 && ::fstat(files.back().fd(), &a) == 0 &&
            ::fstat(files[files.size() - 2].fd(), &b) == 0 && a.st_ino == b.st_ino) {
            files.pop_back();
        }
    }
    if (query.tail >= 0) {
        int64_t wanted = query.tail;
        size_t kept = 0;
        for (auto &file : files) { // newest first
            ++kept;
            if (wanted == 0) {
                ::lseek(file.fd(), 0, SEEK_END);
                break;
            }
            int64_t found = 0;
            const int64_t offset = tail_offset(file.fd(), wanted, found);
            ::lseek(file.fd(), offset, SEEK_SET);
            wanted -= found;
            if (wanted <= 0) break;
        }
        files.erase(files.begin() + static_cast<ptrdiff_t>(std::min(kept, files.size())), files.end());
    }
    std::reverse(files.begin(), files.end());

    LogRecord record;
    // 0: the end, 1: more may come, -1: the sink has had enough.
    auto drain = [&](LineReader &file) {
        std::string_view line;
        while (file.next(line)) {
            if (cancel.cancelled()) return false;
            if (!parse_log_line(line, record)) continue;
            if (query.until_ns && record.time_ns > query.until_ns) return false;
            if (query.since_ns && record.time_ns < query.since_ns) continue;
            if ((record.stream == 1 && !query.stdout_) || (record.stream == 2 && !query.stderr_)) continue;
            if (!sink(record)) return false;
        }
        return true;
    };
    for (auto &file : files) {
        if (!drain(file)) return;
    }
    if (!query.follow) return;
    for (;;) {
        const bool last = ended(); // asked before the read: what was written before the end is seen
        if (!files.empty() && !drain(files.back())) return;
        if (files.empty() || !same_file(files.back().fd(), path)) {
            // The old file may have got its last lines between the read and the rename.
            if (!files.empty() && !drain(files.back())) return;
            if (open_one(path)) {
                if (files.size() > 1) files.erase(files.begin(), files.end() - 1);
                continue;
            }
        }
        if (last) return;
        int timeout = -1;
        if (query.until_ns) {
            const int64_t left = query.until_ns - wall_ns();
            if (left <= 0) return;
            timeout = static_cast<int>(std::min<int64_t>(left / 1000000 + 1, 1 << 30));
        }
        pollfd fds[3] = {{watch.get(), POLLIN, 0}, {cancel.fd(), POLLIN, 0}, {end_fd, POLLIN, 0}};
        if (::poll(fds, 3, timeout) < 0 && errno != EINTR)
            throw Error::from_errno(errno, "wait for container log");
        if (fds[1].revents) return;
        if (fds[0].revents) {
            char events[4096];
            while (::read(watch.get(), events, sizeof events) > 0) {
            }
        }
        if (fds[2].revents) { // a counter: taken down, or an ended() that says false would make this spin
            uint64_t value;
            if (::read(end_fd, &value, sizeof value) < 0 && errno != EAGAIN) return;
        }
    }
}

} // namespace gantry
