// One walker serves both ways. It tells a tar's bytes apart: those that stay (headers, padding, the data of
// what is no plain file) and the contents of files. Writing the skeleton, it drops the contents; reading
// it, it asks for them where they belong. What it does not understand makes the skeleton unusable; what
// it misunderstood is told by the digest of the result.
#include "core/layer/tar_skeleton.h"

#include "core/base/files.h"
#include "core/layer/rooted.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unordered_set>
#include <zstd.h>

namespace gantry {
namespace {

constexpr char kMagic[] = "gantry tar skeleton 1\n";
constexpr size_t kHeadSize = sizeof kMagic - 1 + sizeof(uint64_t);
constexpr size_t kBlock = 512;
constexpr uint64_t kMaxMeta = 4 << 20;    // PAX records, long names
constexpr uint64_t kMaxKept = 1ull << 30; // headers and inline data, uncompressed
constexpr size_t kMaxPacked = 256u << 20;
constexpr size_t kCompressAt = 256 << 10;
constexpr size_t kCopyBuffer = 1 << 20;

/// Octal text or GNU's big-endian binary.
bool number(const char *at, size_t size, uint64_t &out) {
    const auto *bytes = reinterpret_cast<const unsigned char *>(at);
    out = 0;
    if (bytes[0] & 0x80) {
        if (bytes[0] & 0x40) return false;
        for (size_t i = 0; i < size; ++i) {
            if (out >> 55) return false;
            out = out << 8 | (i == 0 ? bytes[0] & 0x3fu : bytes[i]);
        }
        return true;
    }
    bool begun = false;
    for (size_t i = 0; i < size; ++i) {
        if (bytes[i] == ' ' || bytes[i] == 0) {
            if (begun) break;
            continue;
        }
        begun = true;
        if (bytes[i] < '0' || bytes[i] > '7' || out >> 60) return false;
        out = out * 8 + (bytes[i] - '0');
    }
    return true;
}

std::string field(const char *block, size_t at, size_t size) {
    return {block + at, strnlen(block + at, size)};
}

class Walker {
  public:
    /// A file's content of `size` bytes begins.
    using OnFile = std::function<void(const std::string &path, uint64_t size)>;
    /// `elided`: the contents of files are not in what is fed.
    Walker(bool elided, ByteSink kept, OnFile on_file)
        : elided_(elided), kept_(std::move(kept)), on_file_(std::move(on_file)) {}
    /// False: not understood; nothing more is to be fed.
    bool feed(const char *bytes, size_t size) {
        while (size > 0 && understood_) {
            const size_t n = state_ == State::kEnd ? size : std::min<uint64_t>(size, left_);
            switch (state_) {
            case State::kHeader:
            case State::kSparse:
                std::memcpy(block_ + (kBlock - left_), bytes, n);
                kept_(bytes, n);
                break;
            case State::kMeta:
                meta_.append(bytes, n);
                kept_(bytes, n);
                break;
            case State::kContent: break;
            case State::kInline:
            case State::kPadding:
            case State::kEnd: kept_(bytes, n); break;
            }
            bytes += n;
            size -= n;
            if (state_ == State::kEnd) continue;
            left_ -= n;
            if (left_ == 0) advance();
        }
        return understood_;
    }
    /// Told the name of every entry, before its content.
    std::function<void(const std::string &)> on_name;
    /// Between entries, behind the last, or behind a last file that lacks its padding.
    bool at_end() const {
        return state_ == State::kEnd || (state_ == State::kHeader && left_ == kBlock) ||
               (state_ == State::kPadding && meta_type_ == 0);
    }

  private:
    enum class State { kHeader, kSparse, kMeta, kContent, kInline, kPadding, kEnd };

    void enter(State state, uint64_t size) {
        state_ = state;
        left_ = size;
        if (left_ == 0) advance();
    }
    void advance() {
        switch (state_) {
        case State::kHeader: return header();
        case State::kSparse:
            return block_[504] ? enter(State::kSparse, kBlock) : enter(State::kInline, data_);
        case State::kMeta: return enter(State::kPadding, padding_);
        case State::kContent:
        case State::kInline: return enter(State::kPadding, padding_);
        case State::kPadding:
            if (meta_type_) meta();
            state_ = State::kHeader;
            left_ = kBlock;
            return;
        case State::kEnd: return;
        }
    }
    void header() {
        static const char kZeros[kBlock] = {};
        const char *h = block_;
        if (std::memcmp(h, kZeros, kBlock) == 0) {
            state_ = State::kEnd;
            return;
        }
        uint64_t given = 0, size = 0;
        unsigned sum = 0;
        int signed_sum = 0;
        for (size_t i = 0; i < kBlock; ++i) {
            const char c = i >= 148 && i < 156 ? ' ' : h[i];
            sum += static_cast<unsigned char>(c);
            signed_sum += static_cast<signed char>(c);
        }
        if (!number(h + 148, 8, given) || (given != sum && static_cast<int64_t>(given) != signed_sum) ||
            !number(h + 124, 12, size)) {
            understood_ = false;
            return;
        }
        const char type = h[156];
        if (type == 'x' || type == 'X' || type == 'g' || type == 'L' || type == 'K') {
            if (size > kMaxMeta) {
                understood_ = false;
                return;
            }
            meta_type_ = type;
            meta_.clear();
            padding_ = (kBlock - size % kBlock) % kBlock;
            return enter(State::kMeta, size);
        }
        if (size_) size = *size_;
        std::string name = field(h, 0, 100);
        if (std::memcmp(h + 257, "ustar\0", 6) == 0)
            if (const std::string prefix = field(h, 345, 155); !prefix.empty()) name = prefix + "/" + name;
        if (!long_name_.empty()) name = long_name_;
        if (!path_.empty()) name = path_;
        const bool sparse = sparse_;
        size_.reset();
        path_.clear();
        long_name_.clear();
        sparse_ = false;

        if (type >= '1' && type <= '6') size = 0; // links, devices and directories have no data
        if (on_name) on_name(name);
        padding_ = (kBlock - size % kBlock) % kBlock;
        data_ = size;
        if (type == 'S') return h[482] ? enter(State::kSparse, kBlock) : enter(State::kInline, size);
        const bool plain = (type == '0' || type == 0 || type == '7') && !name.ends_with('/') && !sparse;
        if (!plain || size == 0) return enter(State::kInline, size);
        on_file_(name, size);
        if (elided_) return enter(State::kPadding, padding_);
        enter(State::kContent, size);
    }
    void meta() {
        const char type = std::exchange(meta_type_, char(0));
        if (type == 'L') {
            long_name_ = meta_.substr(0, meta_.find('\0'));
        } else if (type != 'K') {
            for (std::string_view rest = meta_; !rest.empty();) {
                size_t length = 0;
                const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), length);
                const auto digits = static_cast<size_t>(end - rest.data());
                if (error != std::errc() || length <= digits + 1 || length > rest.size()) {
                    understood_ = false;
                    return;
                }
                std::string_view record = rest.substr(digits + 1, length - digits - 1);
                rest.remove_prefix(length);
                if (record.ends_with('\n')) record.remove_suffix(1);
                const size_t equals = record.find('=');
                if (equals == record.npos) continue;
                take(record.substr(0, equals), record.substr(equals + 1), type == 'g');
            }
        }
    }
    void take(std::string_view key, std::string_view value, bool global) {
        if (key == "size") {
            uint64_t size = 0;
            const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), size);
            if (global || error != std::errc() || end != value.data() + value.size()) understood_ = false;
            size_ = size;
        } else if (key == "path") {
            if (global) understood_ = false;
            path_ = value;
        } else if (key.starts_with("GNU.sparse.")) {
            if (global) understood_ = false;
            sparse_ = true;
        }
    }

    bool elided_, understood_ = true, sparse_ = false;
    ByteSink kept_;
    OnFile on_file_;
    State state_ = State::kHeader;
    uint64_t left_ = kBlock, data_ = 0, padding_ = 0;
    char block_[kBlock];
    char meta_type_ = 0;
    std::string meta_, long_name_, path_;
    std::optional<uint64_t> size_;
};

} // namespace

struct TarSkeleton::Impl {
    std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx *)> zstd{ZSTD_createCCtx(), ZSTD_freeCCtx};
    std::string plain, packed;
    uint64_t total = 0, kept = 0;
    bool usable = true;
    std::unordered_set<size_t> files; // hashes of their paths
    Walker walker{false, [this](const void *bytes, size_t size) { keep(bytes, size); },
                  [this](const std::string &name, uint64_t) {
                      files.insert(hash(name));
                      // A whiteout's content is nowhere.
                      if (name.compare(name.rfind('/') + 1, 4, ".wh.") == 0) usable = false;
                  }};

    Impl() {
        if (!zstd) throw std::bad_alloc();
        ZSTD_CCtx_setParameter(zstd.get(), ZSTD_c_compressionLevel, 1);
        ZSTD_CCtx_setParameter(zstd.get(), ZSTD_c_checksumFlag, 1);
        // The content of a file that something later replaces is lost.
        walker.on_name = [this](const std::string &name) {
            if (files.contains(hash(name))) usable = false;
        };
    }
    static size_t hash(const std::string &name) {
        size_t begin = 0, end = name.size();
        while (begin < end && (name[begin] == '/' || name.compare(begin, 2, "./") == 0))
            begin += name[begin] == '/' ? 1 : 2;
        while (end > begin && name[end - 1] == '/')
            --end;
        return std::hash<std::string_view>()(std::string_view(name).substr(begin, end - begin));
    }
    void keep(const void *bytes, size_t size) {
        kept += size;
        plain.append(static_cast<const char *>(bytes), size);
        if (plain.size() >= kCompressAt) compress(ZSTD_e_continue);
    }
    void compress(ZSTD_EndDirective how) {
        ZSTD_inBuffer in{plain.data(), plain.size(), 0};
        for (;;) {
            const size_t at = packed.size();
            packed.resize(at + (64 << 10));
            ZSTD_outBuffer out{packed.data() + at, packed.size() - at, 0};
            const size_t rest = ZSTD_compressStream2(zstd.get(), &out, &in, how);
            packed.resize(at + out.pos);
            if (ZSTD_isError(rest)) throw Error(ErrorClass::kInternal, "compress tar skeleton");
            if (how == ZSTD_e_end ? rest == 0 : in.pos == in.size) break;
        }
        plain.clear();
    }
};

TarSkeleton::TarSkeleton() : impl_(std::make_unique<Impl>()) {}
TarSkeleton::~TarSkeleton() = default;

void TarSkeleton::feed(const void *bytes, size_t size) {
    Impl &s = *impl_;
    s.total += size;
    if (!s.usable) return;
    if (!s.walker.feed(static_cast<const char *>(bytes), size) || s.kept > kMaxKept ||
        s.packed.size() > kMaxPacked)
        s.usable = false;
    if (!s.usable) s.plain = s.packed = std::string();
}

std::string TarSkeleton::end() {
    Impl &s = *impl_;
    if (!s.usable || !s.walker.at_end()) return {};
    s.compress(ZSTD_e_end);
    std::string head(kMagic, sizeof kMagic - 1);
    head.append(reinterpret_cast<const char *>(&s.total), sizeof s.total);
    return head + s.packed;
}

TarSkeletons::TarSkeletons(std::string folder) : folder_(std::move(folder)) {
    if (!folder_.empty()) make_directories(folder_, 0700);
}

std::string TarSkeletons::path_of(const std::string &diff_id) const {
    std::string name = diff_id;
    std::replace(name.begin(), name.end(), ':', '-');
    if (folder_.empty() || name.empty() || name.find('/') != name.npos) return {};
    return folder_ + "/" + name;
}

void TarSkeletons::put(const std::string &diff_id, TarSkeleton &skeleton, bool durable) {
    const std::string path = path_of(diff_id), bytes = path.empty() ? std::string() : skeleton.end();
    if (!bytes.empty()) write_file_atomically(path, bytes, 0600, durable);
}

std::optional<uint64_t> TarSkeletons::tar_size(const std::string &diff_id) const {
    const std::string path = path_of(diff_id);
    const UniqueFd file(path.empty() ? -1 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char head[kHeadSize];
    if (!file || ::pread(file.get(), head, sizeof head, 0) != static_cast<ssize_t>(sizeof head) ||
        std::memcmp(head, kMagic, sizeof kMagic - 1) != 0)
        return std::nullopt;
    uint64_t size = 0;
    std::memcpy(&size, head + sizeof kMagic - 1, sizeof size);
    return size;
}

void TarSkeletons::remove(const std::string &diff_id) {
    if (const std::string path = path_of(diff_id); !path.empty()) ::unlink(path.c_str());
}

void TarSkeletons::keep_only(const std::set<std::string> &diff_ids) {
    if (folder_.empty()) return;
    for (const std::string &name : list_directory(folder_)) {
        std::string diff_id = name;
        if (const size_t dash = diff_id.find('-'); dash != diff_id.npos) diff_id[dash] = ':';
        if (!diff_ids.contains(diff_id)) remove_tree(folder_ + "/" + name);
    }
}

void TarSkeletons::write_tar(const std::string &diff_id, int root_fd, const ByteSink &sink,
                             const Call &call) const {
    const std::string path = path_of(diff_id);
    const UniqueFd file(path.empty() ? -1 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) throw Error(ErrorClass::kNotFound, "make the tar of layer " + diff_id + ": no record of it");
    const auto fail = [&](const std::string &why) {
        throw Error(ErrorClass::kDataLoss, "make the tar of layer " + diff_id + ": " + why,
                    "gantry system check finds damaged layers, a pull makes them anew");
    };
    const auto out = std::make_unique<char[]>(kCopyBuffer);
    size_t used = 0;
    const auto flush = [&] {
        if (used > 0) sink(out.get(), std::exchange(used, 0));
    };
    const ByteSink kept = [&](const void *bytes, size_t size) {
        for (const char *from = static_cast<const char *>(bytes); size > 0;) {
            if (used == kCopyBuffer) flush();
            const size_t n = std::min(size, kCopyBuffer - used);
            std::memcpy(out.get() + used, from, n);
            used += n;
            from += n;
            size -= n;
        }
    };
    const auto content = [&](const std::string &name, uint64_t size) {
        call.check("make layer tar");
        const std::string clean = clean_entry_path(name);
        open_how how{};
        how.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
        how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        const UniqueFd from(
            static_cast<int>(::syscall(SYS_openat2, root_fd, clean.c_str(), &how, sizeof how)));
        struct stat st {};
        if (!from || ::fstat(from.get(), &st) != 0) fail("/" + clean + ": " + std::strerror(errno));
        if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != size)
            fail("/" + clean + " is not of its size");
        while (size > 0) {
            if (used == kCopyBuffer) flush();
            const ssize_t n =
                ::read(from.get(), out.get() + used, std::min<uint64_t>(size, kCopyBuffer - used));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) throw Error::from_errno(errno, "read /" + clean + " of layer " + diff_id);
            if (n == 0) fail("/" + clean + " is cut short");
            used += static_cast<size_t>(n);
            size -= static_cast<uint64_t>(n);
        }
    };
    Walker walker(true, kept, content);
    const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx *)> zstd(ZSTD_createDCtx(), ZSTD_freeDCtx);
    if (!zstd) throw std::bad_alloc();
    const auto packed = std::make_unique<char[]>(kCompressAt), plain = std::make_unique<char[]>(kCompressAt);
    if (::lseek(file.get(), kHeadSize, SEEK_SET) < 0) throw Error::from_errno(errno, "read " + path);
    for (size_t rest = 1; rest != 0;) {
        const ssize_t n = ::read(file.get(), packed.get(), kCompressAt);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("its record is damaged");
        ZSTD_inBuffer in{packed.get(), static_cast<size_t>(n), 0};
        while (in.pos < in.size || rest > 0) {
            ZSTD_outBuffer to{plain.get(), kCompressAt, 0};
            rest = ZSTD_decompressStream(zstd.get(), &to, &in);
            if (ZSTD_isError(rest) || !walker.feed(plain.get(), to.pos)) fail("its record is damaged");
            if (rest == 0 || (in.pos == in.size && to.pos < kCompressAt)) break;
        }
    }
    flush();
}

} // namespace gantry
