// A layer's tar becomes a tree. Two threads: the caller's reads, inflates and hashes; a second parses
// with libarchive and creates files, which is the limit (about 55 us a file on ext4). That thread has
// its own fs_struct (CLONE_FS) with umask 0, so that open(2) and mkdir(2) set the final mode and most
// files cost open, write, utimensat, close and nothing else.
#include "core/base/failpoint.h"
#include "core/layer/byte_pipe.h"
#include "core/layer/decompress.h"
#include "core/layer/layers.h"
#include "core/layer/record.h"
#include "core/layer/rooted.h"
#include "core/layer/tar_skeleton.h"

#include "core/content/content.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <locale.h>
#include <map>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <thread>
#include <unistd.h>
#include <unordered_set>

namespace gantry {
namespace {

constexpr uint64_t kRatioFloor = 64ull << 20;
constexpr size_t kMaxXattrs = 256, kMaxXattrValue = 64 << 10;
constexpr std::string_view kWhiteoutPrefix = ".wh.", kMetaPrefix = ".wh..wh.", kOpaqueName = ".wh..wh..opq";

struct Meta {
    mode_t mode = 0;
    uid_t uid = 0;
    gid_t gid = 0;
    timespec mtime{};
};

[[noreturn]] void refuse(const std::string &entry, const std::string &why) {
    throw Error(ErrorClass::kInvalidArgument, "unpack entry " + entry.substr(0, 200) + ": " + why);
}
[[noreturn]] void fail(const std::string &entry, int error) {
    throw Error::from_errno(error, "unpack entry " + entry.substr(0, 200));
}

class TreeWriter {
  public:
    TreeWriter(int root_fd, gantry_whiteout whiteout, const UnpackLimits &limits, archive *reader,
               LayerRecord *record, const bool &source_ended)
        : root_(root_fd), tree_(root_fd), whiteout_(whiteout), limits_(limits), reader_(reader),
          record_(record), source_ended_(source_ended) {}

    void entry(archive_entry *e) {
        const char *raw = archive_entry_pathname(e);
        if (!raw || !*raw) refuse("#" + std::to_string(entries_ + 1), "it has no readable path");
        name_ = raw;
        if (++entries_ > limits_.max_entries)
            refuse(name_, "the layer has more than " + std::to_string(limits_.max_entries) + " entries");
        try {
            path_ = clean_entry_path(name_);
            const size_t slash = path_.rfind('/');
            const std::string_view base =
                std::string_view(path_).substr(slash == std::string::npos ? 0 : slash + 1);
            if (base.starts_with(kWhiteoutPrefix)) return whiteout(base);
            if (whiteout_ == GANTRY_WHITEOUT_AUFS && ("/" + path_).find("/.wh.") != std::string::npos)
                refuse(name_, "aufs takes names that begin with .wh. for its own");
            write(e);
            if (whiteout_ == GANTRY_WHITEOUT_NONE) remember(path_);
        } catch (const Error &error) {
            if (error.message().starts_with("unpack entry")) throw;
            throw error.with_context("unpack entry " + name_.substr(0, 200));
        }
    }

    /// Last, because every file made in a directory moves its time.
    void finish() {
        for (const auto &[path, time] : directory_times_) {
            const timespec times[2] = {time, time};
            int result = 0;
            if (path.empty()) {
                result = ::futimens(root_dir(), times);
            } else {
                const auto at = tree_.find(path);
                if (at.parent < 0) continue;
                result = ::utimensat(at.parent, at.name, times, AT_SYMLINK_NOFOLLOW);
            }
            if (result != 0 && errno != ENOENT) fail(path, errno);
        }
    }
    uint64_t entries() const { return entries_; }
    /// The archive ended with the last byte of a file, without the padding behind it. Some makers of layers
    /// write that (umoci insert), and others read it; nothing is lost.
    bool cut() const { return cut_; }

  private:
    using Place = RootedTree::Place;

    static Meta meta_of(archive_entry *e, const std::string &name) {
        Meta m;
        const int64_t uid = archive_entry_uid(e), gid = archive_entry_gid(e);
        if (uid < 0 || gid < 0 || uid >= 0xffffffff || gid >= 0xffffffff)
            refuse(name, "its owner is out of range");
        m.mode = archive_entry_perm(e) & 07777;
        m.uid = static_cast<uid_t>(uid);
        m.gid = static_cast<gid_t>(gid);
        m.mtime = {archive_entry_mtime(e), archive_entry_mtime_nsec(e)};
        return m;
    }

    void write(archive_entry *e) {
        const Meta m = meta_of(e, name_);
        attributes_.clear();
        if (archive_entry_hardlink(e)) return hard_link(e);
        const auto type = archive_entry_filetype(e);
        make(e, m, type);
        if (type != AE_IFSOCK) note(e, m, type);
    }
    void make(archive_entry *e, const Meta &m, mode_t type) {
        if (path_.empty()) {
            if (type != AE_IFDIR) refuse(name_, "it would replace the root of the layer");
            return finish_directory(UniqueFd(::fcntl(root_dir(), F_DUPFD_CLOEXEC, 3)), e, m);
        }
        switch (type) {
        case AE_IFREG: return file(e, m);
        case AE_IFDIR: return directory(e, m);
        case AE_IFLNK: return symlink(e, m);
        case AE_IFCHR:
        case AE_IFBLK:
        case AE_IFIFO: return node(e, m, type);
        case AE_IFSOCK: return; // tar cannot carry one; nothing could connect to it either
        default: refuse(name_, "it has an unknown type");
        }
    }

    void note(archive_entry *e, const Meta &m, mode_t type) {
        if (!record_) return;
        using Kind = RecordedEntry::Kind;
        RecordedEntry r;
        r.kind = type == AE_IFREG   ? Kind::kFile
                 : type == AE_IFDIR ? Kind::kDirectory
                 : type == AE_IFLNK ? Kind::kSymlink
                                    : Kind::kNode;
        r.path = path_;
        if (type == AE_IFLNK) r.target = archive_entry_symlink(e);
        r.mode = m.mode | (r.kind == Kind::kNode ? type : 0);
        r.uid = m.uid;
        r.gid = m.gid;
        r.mtime = m.mtime.tv_sec;
        if (type == AE_IFREG) {
            r.size = static_cast<uint64_t>(archive_entry_size(e));
            r.content = sum_.end(r.size);
        }
        if (type == AE_IFCHR || type == AE_IFBLK)
            r.rdev = makedev(archive_entry_rdevmajor(e), archive_entry_rdevminor(e));
        if (!attributes_.empty()) r.attributes = attributes_sum(attributes_);
        record_->add(r);
    }
    void note(RecordedEntry::Kind kind, const std::string &path, const std::string &target = {}) {
        if (!record_) return;
        RecordedEntry r;
        r.kind = kind;
        r.path = path;
        r.target = target;
        record_->add(r);
    }

    /// Runs `make` (errno on failure), clearing what is in the way once.
    template <typename Make> Place make_entry(Make make) {
        Place at = tree_.place(path_);
        unmark(at);
        if (make(at) == 0) return at;
        if (errno != EEXIST) fail(name_, errno);
        clear_the_way();
        at = tree_.place(path_);
        if (make(at) != 0) fail(name_, errno);
        return at;
    }
    void clear_the_way() {
        const Place at = tree_.place(path_);
        struct stat st {};
        if (::fstatat(at.parent, at.name, &st, AT_SYMLINK_NOFOLLOW) != 0) fail(name_, errno);
        if (S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode)) {
            forget_times(path_);
            tree_.remove(path_);
        } else if (::unlinkat(at.parent, at.name, 0) != 0) {
            fail(name_, errno);
        }
    }

    void file(archive_entry *e, const Meta &m) {
        UniqueFd fd;
        const bool special = (m.mode & 06000) != 0;
        const Place at = make_entry([&](const Place &p) {
            fd.reset(::openat(p.parent, p.name,
                              O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE,
                              special ? m.mode & 0777 : m.mode));
            return fd ? 0 : -1;
        });
        copy_data(fd.get(), e);
        if ((m.uid != 0 || m.gid != 0 || at.setgid) && ::fchown(fd.get(), m.uid, m.gid) != 0)
            fail(name_, errno);
        if (special && ::fchmod(fd.get(), m.mode) != 0)
            fail(name_, errno); // after chown, which clears setuid
        xattrs(fd.get(), e);
        const timespec times[2] = {m.mtime, m.mtime};
        if (::futimens(fd.get(), times) != 0) fail(name_, errno);
    }

    void copy_data(int fd, archive_entry *e) {
        const int64_t size = archive_entry_size(e);
        int64_t end = 0, got = 0;
        sum_.begin();
        for (;;) {
            const void *data = nullptr;
            size_t length = 0;
            la_int64_t offset = 0;
            const int result = archive_read_data_block(reader_, &data, &length, &offset);
            if (result == ARCHIVE_EOF) break;
            if (result != ARCHIVE_OK && got == size && source_ended_) {
                cut_ = true;
                break;
            }
            if (result != ARCHIVE_OK)
                throw Error(ErrorClass::kDataLoss,
                            "unpack entry " + name_.substr(0, 200) + ": " + reader_error());
            if (length > 0 && (offset < 0 || offset + static_cast<int64_t>(length) > size))
                refuse(name_, "its sparse map goes beyond its size");
            if (record_) sum_.add(static_cast<uint64_t>(offset), data, length);
            got += static_cast<int64_t>(length);
            const char *bytes = static_cast<const char *>(data);
            while (length > 0) {
                const ssize_t n = ::pwrite(fd, bytes, length, offset);
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) fail(name_, errno);
                bytes += n;
                length -= static_cast<size_t>(n);
                offset += n;
            }
            end = std::max<int64_t>(end, offset);
        }
        if (end < size && ::ftruncate(fd, size) != 0) fail(name_, errno); // a hole at the end
    }

    void directory(archive_entry *e, const Meta &m) {
        Place at = tree_.place(path_);
        bool opaque = unmark(at);
        bool fresh = ::mkdirat(at.parent, at.name, m.mode & 01777) == 0;
        if (!fresh) {
            if (errno != EEXIST) fail(name_, errno);
            struct stat st {};
            if (::fstatat(at.parent, at.name, &st, AT_SYMLINK_NOFOLLOW) != 0) fail(name_, errno);
            if (!S_ISDIR(st.st_mode)) {
                // A whiteout and then the name again: the new directory shows nothing from below.
                opaque = opaque ||
                         (whiteout_ == GANTRY_WHITEOUT_OVERLAY && S_ISCHR(st.st_mode) && st.st_rdev == 0);
                clear_the_way();
                at = tree_.place(path_);
                if (::mkdirat(at.parent, at.name, m.mode & 01777) != 0) fail(name_, errno);
                fresh = true;
            }
        }
        const bool plain = fresh && !opaque && (m.mode & 06000) == 0 && m.uid == 0 && m.gid == 0 &&
                           !at.setgid && archive_entry_xattr_count(e) == 0;
        if (plain) {
            directory_times_[path_] = m.mtime;
            return;
        }
        UniqueFd dir(::openat(at.parent, at.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!dir) fail(name_, errno);
        if (opaque) make_opaque(dir.get());
        finish_directory(std::move(dir), e, m);
        if (m.mode & S_ISGID) tree_.refresh(); // cached parents know the bit
    }

    void finish_directory(UniqueFd dir, archive_entry *e, const Meta &m) {
        if (::fchown(dir.get(), m.uid, m.gid) != 0 || ::fchmod(dir.get(), m.mode) != 0) fail(name_, errno);
        xattrs(dir.get(), e);
        directory_times_[path_] = m.mtime;
    }

    void symlink(archive_entry *e, const Meta &m) {
        const char *target = archive_entry_symlink(e);
        if (!target || !*target) refuse(name_, "the symlink has no target");
        const Place at = make_entry([&](const Place &p) { return ::symlinkat(target, p.parent, p.name); });
        own_and_date(at, m);
        link_xattrs(e);
    }

    void node(archive_entry *e, const Meta &m, mode_t type) {
        dev_t device = 0;
        if (type != AE_IFIFO) device = makedev(archive_entry_rdevmajor(e), archive_entry_rdevminor(e));
        const Place at = make_entry(
            [&](const Place &p) { return ::mknodat(p.parent, p.name, type | (m.mode & 0777), device); });
        own_and_date(at, m);
        // The name is a device or fifo made here, no symlink: fchmodat follows nothing.
        if ((m.mode & 07000) != 0 && ::fchmodat(at.parent, at.name, m.mode, 0) != 0) fail(name_, errno);
        link_xattrs(e);
    }

    void own_and_date(const Place &at, const Meta &m) {
        if ((m.uid != 0 || m.gid != 0 || at.setgid) &&
            ::fchownat(at.parent, at.name, m.uid, m.gid, AT_SYMLINK_NOFOLLOW) != 0)
            fail(name_, errno);
        const timespec times[2] = {m.mtime, m.mtime};
        if (::utimensat(at.parent, at.name, times, AT_SYMLINK_NOFOLLOW) != 0) fail(name_, errno);
    }

    void hard_link(archive_entry *e) {
        const std::string target = archive_entry_hardlink(e);
        const std::string target_path = clean_entry_path(target);
        if (path_.empty() || target_path.empty()) refuse(name_, "a hard link cannot be or name the root");
        if (target_path == path_) return;
        Place from = tree_.find(target_path);
        // place() of the link may recycle the cache slot behind from.parent.
        UniqueFd parent(from.parent < 0 ? -1 : ::fcntl(from.parent, F_DUPFD_CLOEXEC, 3));
        struct stat st {};
        if (!parent || ::fstatat(parent.get(), from.name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            refuse(name_, "the hard link's target " + target.substr(0, 200) + " is not in the layer");
        if (S_ISDIR(st.st_mode))
            refuse(name_, "the hard link's target " + target.substr(0, 200) + " is a directory");
        make_entry([&](const Place &p) { return ::linkat(parent.get(), from.name, p.parent, p.name, 0); });
        note(RecordedEntry::kHardLink, path_, target_path);
    }

    void xattrs(int fd, archive_entry *e) {
        if (archive_entry_xattr_count(e) == 0) return;
        each_xattr(e, [&](const char *key, const void *value, size_t size) {
            const int result = ::fsetxattr(fd, key, value, size, 0);
            if (result == 0 && record_) attributes_[key].assign(static_cast<const char *>(value), size);
            return result;
        });
    }
    /// Symlinks, devices and fifos can hold security.* only, and hardly any archive has that; names
    /// are still judged.
    void link_xattrs(archive_entry *e) {
        if (archive_entry_xattr_count(e) == 0) return;
        each_xattr(e, [](const char *, const void *, size_t) { return 0; });
    }
    template <typename Set> void each_xattr(archive_entry *e, Set set) {
        if (static_cast<size_t>(archive_entry_xattr_reset(e)) > kMaxXattrs)
            refuse(name_, "it has too many extended attributes");
        const char *key = nullptr;
        const void *value = nullptr;
        size_t size = 0;
        while (archive_entry_xattr_next(e, &key, &value, &size) == ARCHIVE_OK) {
            const std::string_view k = key;
            // overlayfs believes what these say about other files; a layer must not.
            if (k.starts_with("trusted.") || k.starts_with("user.overlay."))
                refuse(name_, "the extended attribute " + std::string(k.substr(0, 80)) +
                                  " is not allowed in a layer");
            if (k != "security.capability" && !k.starts_with("user.")) continue; // labels of the maker's host
            if (k.size() > 255 || size > kMaxXattrValue) refuse(name_, "an extended attribute is too large");
            if (set(key, value, size) != 0 && !(errno == EOPNOTSUPP && k.starts_with("user.")))
                throw Error::from_errno(errno,
                                        "unpack entry " + name_.substr(0, 200) + ": set " + std::string(k));
        }
    }

    // Whiteouts act on the layers below only: what this layer itself brings stays, whatever the order.
    void whiteout(std::string_view base) {
        const std::string folder = path_.substr(0, path_.size() - base.size());
        const std::string dir = folder.empty() ? "" : folder.substr(0, folder.size() - 1);
        if (base == kOpaqueName) {
            note(RecordedEntry::kOpaque, dir);
            if (whiteout_ == GANTRY_WHITEOUT_NONE) {
                tree_.clear(dir, [this](const std::string &p) { return mine_.contains(p); });
                return;
            }
            if (dir.empty()) return make_opaque(root_dir());
            const Place above = tree_.place(path_); // makes the directory if the archive has not yet
            UniqueFd fd(::openat(above.parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
            if (!fd) fail(name_, errno);
            return make_opaque(fd.get());
        }
        if (base.starts_with(kMetaPrefix)) return; // aufs' own bookkeeping
        const std::string hidden(base.substr(kWhiteoutPrefix.size()));
        if (hidden.empty() || hidden == "." || hidden == "..")
            refuse(name_, "the whiteout names nothing that can be deleted");
        const std::string victim = folder + hidden;
        note(RecordedEntry::kWhiteout, victim);
        if (whiteout_ == GANTRY_WHITEOUT_NONE) {
            tree_.remove(victim, [this](const std::string &p) { return mine_.contains(p); });
            return;
        }
        const Place at = tree_.place(victim);
        if (whiteout_ == GANTRY_WHITEOUT_AUFS) {
            struct stat st {};
            if (::fstatat(at.parent, at.name, &st, AT_SYMLINK_NOFOLLOW) != 0)
                return mark(at.parent, std::string(base).c_str());
        } else {
            if (::mknodat(at.parent, at.name, S_IFCHR, makedev(0, 0)) == 0) return;
            if (errno != EEXIST) fail(name_, errno);
        }
        UniqueFd dir_fd(
            ::openat(at.parent, at.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
        if (dir_fd) make_opaque(dir_fd.get()); // the directory replaces the one below
    }
    /// aufs' whiteouts are empty files; what they say is in their names.
    void mark(int dir, const char *name) {
        const UniqueFd fd(::openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444));
        if (!fd && errno != EEXIST) fail(name_, errno);
    }
    /// A whiteout and then the name again: true when the mark was there and is gone. aufs would believe it.
    bool unmark(const Place &at) const {
        return whiteout_ == GANTRY_WHITEOUT_AUFS &&
               ::unlinkat(at.parent, (std::string(kWhiteoutPrefix) + at.name).c_str(), 0) == 0;
    }
    void make_opaque(int dir) {
        if (whiteout_ == GANTRY_WHITEOUT_AUFS) return mark(dir, std::string(kOpaqueName).c_str());
        if (::fsetxattr(dir, "trusted.overlay.opaque", "y", 1, 0) != 0)
            throw Error::from_errno(errno,
                                    "unpack entry " + name_.substr(0, 200) + ": set trusted.overlay.opaque");
    }

    void remember(const std::string &path) {
        // The directories above are this layer's too, listed or not.
        for (std::string p = path; mine_.insert(p).second;) {
            const size_t slash = p.rfind('/');
            if (slash == std::string::npos) break;
            p.resize(slash);
        }
    }
    void forget_times(const std::string &path) {
        const std::string below = path + "/";
        directory_times_.erase(path);
        for (auto it = directory_times_.lower_bound(below);
             it != directory_times_.end() && it->first.starts_with(below);)
            it = directory_times_.erase(it);
    }
    int root_dir() {
        // The caller's fd may be O_PATH, which fchmod and fsetxattr refuse.
        if (!root_dir_) root_dir_.reset(::openat(root_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root_dir_) throw Error::from_errno(errno, "open the root of the layer");
        return root_dir_.get();
    }
    std::string reader_error() const {
        const char *text = archive_error_string(reader_);
        return text ? text : "the archive is damaged";
    }

    int root_;
    UniqueFd root_dir_;
    RootedTree tree_;
    gantry_whiteout whiteout_;
    const UnpackLimits &limits_;
    archive *reader_;
    LayerRecord *record_;
    ContentSum sum_;
    std::map<std::string, std::string> attributes_; // that were set on the present entry
    std::string name_, path_;
    std::map<std::string, timespec> directory_times_;
    std::unordered_set<std::string> mine_;
    uint64_t entries_ = 0;
    const bool &source_ended_; // changes while entries are read
    bool cut_ = false;
};

struct PipeReader {
    BytePipe &pipe;
    BytePipe::Buffer buffer{};
    bool ended = false;
    std::exception_ptr error{};
};

la_ssize_t read_pipe(archive *reader, void *ctx, const void **bytes) {
    auto &from = *static_cast<PipeReader *>(ctx);
    try {
        if (!from.pipe.pop(from.buffer)) {
            from.ended = true;
            return 0;
        }
        *bytes = from.buffer.bytes.get();
        return static_cast<la_ssize_t>(from.buffer.size);
    } catch (...) {
        from.error = std::current_exception();
        archive_set_error(reader, EIO, "the layer's stream failed");
        return -1;
    }
}

// The second thread. Leaves the pipe only when everything is read, so that trailing bytes are hashed.
uint64_t write_tree(BytePipe &pipe, int root_fd, gantry_whiteout whiteout, const UnpackLimits &limits,
                    LayerRecord *record) {
    if (::unshare(CLONE_FS) != 0) throw Error::from_errno(errno, "unpack layer: unshare the umask");
    ::umask(0);
    // Pax names are UTF-8; in the C locale libarchive would drop those that are not ASCII.
    const std::unique_ptr<std::remove_pointer_t<locale_t>, void (*)(locale_t)> utf8(
        ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr), [](locale_t l) {
            if (l) ::freelocale(l);
        });
    if (utf8) ::uselocale(utf8.get());
    struct Restore {
        ~Restore() { ::uselocale(LC_GLOBAL_LOCALE); }
    } restore;

    const std::unique_ptr<archive, int (*)(archive *)> reader(archive_read_new(), archive_read_free);
    if (!reader) throw std::bad_alloc();
    archive_read_support_format_tar(reader.get());
    archive_read_support_format_empty(reader.get());
    PipeReader from{pipe};
    const auto check = [&](int result) {
        if (result >= ARCHIVE_WARN) return;
        if (from.error) std::rethrow_exception(from.error);
        const char *text = archive_error_string(reader.get());
        throw Error(ErrorClass::kDataLoss,
                    std::string("read layer tar: ") + (text ? text : "damaged archive"));
    };
    check(archive_read_open(reader.get(), &from, nullptr, read_pipe, nullptr));
    TreeWriter writer(root_fd, whiteout, limits, reader.get(), record, from.ended);
    try {
        for (;;) {
            archive_entry *entry = nullptr;
            const int result = archive_read_next_header(reader.get(), &entry);
            if (result == ARCHIVE_EOF) break;
            check(result);
            writer.entry(entry);
            failpoint("unpack.entry");
            if (writer.cut()) break;
        }
    } catch (...) {
        if (from.error) std::rethrow_exception(from.error); // the cause, not "truncated archive"
        throw;
    }
    while (pipe.pop(from.buffer)) {
    }
    writer.finish();
    return writer.entries();
}

} // namespace

UnpackResult unpack_layer(const ByteSource &source, int root_fd, gantry_whiteout whiteout,
                          const UnpackLimits &limits, const Call &call, LayerRecord *record,
                          TarSkeleton *skeleton) {
    UnpackResult result;
    BytePipe pipe;
    std::exception_ptr writer_error;
    std::thread writer([&] {
        try {
            result.entries = write_tree(pipe, root_fd, whiteout, limits, record);
        } catch (...) {
            writer_error = std::current_exception();
        }
        pipe.leave_reader();
    });
    std::exception_ptr own_error;
    Hasher hasher;
    try {
        const auto stream = open_decompressor(source);
        BytePipe::Buffer buffer;
        while (pipe.acquire(buffer)) {
            call.check("unpack layer");
            buffer.size = stream->read(buffer.bytes.get(), BytePipe::kBufferSize);
            if (buffer.size == 0) break;
            hasher.update(buffer.bytes.get(), buffer.size);
            if (skeleton) skeleton->feed(buffer.bytes.get(), buffer.size);
            result.bytes += buffer.size;
            if (result.bytes > limits.max_bytes)
                throw Error(ErrorClass::kInvalidArgument, "unpack layer: it is larger than " +
                                                              std::to_string(limits.max_bytes) +
                                                              " bytes unpacked");
            if (result.bytes > kRatioFloor && result.bytes / limits.max_ratio > stream->consumed())
                throw Error(ErrorClass::kInvalidArgument, "unpack layer: it expands more than " +
                                                              std::to_string(limits.max_ratio) + " times");
            pipe.push(std::move(buffer));
        }
    } catch (...) {
        own_error = std::current_exception();
    }
    pipe.finish(own_error);
    writer.join();
    if (own_error) std::rethrow_exception(own_error);
    if (writer_error) std::rethrow_exception(writer_error);
    result.diff_id = hasher.digest();
    return result;
}

} // namespace gantry
