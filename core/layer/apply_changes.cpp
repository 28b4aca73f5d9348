#include "core/layer/apply_changes.h"

#include <gantry/directory.hpp>

#include <cstring>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <map>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

namespace gantry {
namespace {

[[noreturn]] void fail(const std::string &path) {
    throw Error::from_errno(errno, "move " + path.substr(0, 300));
}

UniqueFd open_beneath(int root, const std::string &path) {
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const std::string relative = "." + path;
    UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, root, relative.c_str(), &how, sizeof how)));
    if (!fd) fail(path);
    return fd;
}

// Marks of the drivers themselves, and properties that only one file system knows.
bool belongs_to_the_backend(const char *key) {
    return std::strncmp(key, "trusted.overlay.", 16) == 0 || std::strncmp(key, "btrfs.", 6) == 0;
}

class Applier {
  public:
    Applier(int source, const ApplyTarget &target, const Call &call,
            const std::function<void(uint64_t)> &copied)
        : source_(source), target_(target), call_(call), copied_(copied) {}

    void change(const Change &change) {
        call_.check("move layer");
        if (change.path == "/") return; // the root is always done
        enter(change.path);
        const size_t slash = change.path.rfind('/');
        name_ = change.path.substr(slash + 1);
        path_ = change.path;
        if (change.kind == GANTRY_CHANGE_DELETED) return remove();
        struct stat st {};
        if (::fstatat(from_.get(), name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) fail(path_);
        if (S_ISDIR(st.st_mode)) return directory();
        remove_tree(to_.get(), name_);
        if (st.st_nlink > 1) {
            const auto [first, fresh] = links_.insert({{st.st_dev, st.st_ino}, path_});
            if (!fresh) return link(first->second);
        }
        if (S_ISREG(st.st_mode))
            file(st);
        else
            special(st);
    }
    /// Last and inner ones first: every entry made in a directory moves its time.
    void finish() {
        for (auto path = directories_.rbegin(); path != directories_.rend(); ++path)
            attributes(open_beneath(source_, *path).get(), open_beneath(target_.root, *path).get(), *path);
        // Mounts come as O_PATH descriptors, which take no attributes.
        attributes(open_beneath(source_, "").get(), open_beneath(target_.root, "").get(), "/");
    }

  private:
    /// Changes come by directory: both parents mostly stay open from one to the next.
    void enter(const std::string &path) {
        const std::string parent = path.substr(0, path.rfind('/'));
        if (from_ && parent == parent_) return;
        from_ = {};
        to_ = open_beneath(target_.root, parent);
        // The parent of a deletion is always there too: drivers tell deletions by their topmost name.
        from_ = open_beneath(source_, parent);
        parent_ = parent;
    }

    void remove() {
        switch (target_.whiteout) {
        case GANTRY_WHITEOUT_NONE: return remove_tree(to_.get(), name_);
        case GANTRY_WHITEOUT_OVERLAY:
            if (::mknodat(to_.get(), name_.c_str(), S_IFCHR, makedev(0, 0)) != 0) fail(path_);
            return;
        case GANTRY_WHITEOUT_AUFS:
            if (!UniqueFd(::openat(to_.get(), (".wh." + name_).c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444)))
                fail(path_);
            return;
        }
        throw Error(ErrorClass::kInternal, "move " + path_ + ": the driver's whiteouts are unknown");
    }

    void directory() {
        struct stat there {};
        const bool exists = ::fstatat(to_.get(), name_.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0;
        if (exists && !S_ISDIR(there.st_mode)) remove_tree(to_.get(), name_);
        if ((!exists || !S_ISDIR(there.st_mode)) && ::mkdirat(to_.get(), name_.c_str(), 0700) != 0)
            fail(path_);
        directories_.push_back(path_);
    }

    void link(const std::string &first) {
        const size_t slash = first.rfind('/');
        const UniqueFd folder = open_beneath(target_.root, first.substr(0, slash));
        if (::linkat(folder.get(), first.c_str() + slash + 1, to_.get(), name_.c_str(), 0) != 0) fail(path_);
    }

    void file(const struct stat &st) {
        const UniqueFd in(::openat(from_.get(), name_.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
        const UniqueFd out(
            ::openat(to_.get(), name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!in || !out) fail(path_);
        if (st.st_size > 0 && !(reflink_ && ::ioctl(out.get(), FICLONE, in.get()) == 0)) {
            reflink_ = false; // one pair of file systems: what failed once fails always
            data(in.get(), out.get(), st.st_size);
        }
        attributes(in.get(), out.get(), path_);
    }
    void data(int in, int out, off_t size) {
        for (off_t at = 0; at < size;) {
            const off_t start = ::lseek(in, at, SEEK_DATA);
            if (start < 0 && errno == ENXIO) break; // only a hole is left
            off_t end = start < 0 ? size : ::lseek(in, start, SEEK_HOLE);
            if (start >= 0) at = start;
            if (end <= at) end = size;
            while (at < end) {
                call_.check("move layer");
                off_t source = at, target = at;
                const size_t length = static_cast<size_t>(std::min<off_t>(end - at, 16 << 20));
                ssize_t n = ::copy_file_range(in, &source, out, &target, length, 0);
                if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
                    n = ::pread(in, buffer_.data(), std::min(length, buffer_.size()), at);
                    if (n > 0) n = ::pwrite(out, buffer_.data(), static_cast<size_t>(n), at);
                }
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) fail(path_);
                if (n == 0)
                    throw Error(ErrorClass::kDataLoss,
                                "move " + path_ + ": the file is shorter than it says");
                at += n;
                if (copied_) copied_(static_cast<uint64_t>(n));
            }
        }
        if (::ftruncate(out, size) != 0) fail(path_);
    }

    void special(const struct stat &st) {
        if (S_ISLNK(st.st_mode)) {
            std::string text(4097, '\0');
            const ssize_t n = ::readlinkat(from_.get(), name_.c_str(), text.data(), text.size());
            if (n < 0) fail(path_);
            text.resize(static_cast<size_t>(n));
            if (::symlinkat(text.c_str(), to_.get(), name_.c_str()) != 0) fail(path_);
        } else if (::mknodat(to_.get(), name_.c_str(), (st.st_mode & S_IFMT) | 0600, st.st_rdev) != 0) {
            fail(path_);
        }
        if (::fchownat(to_.get(), name_.c_str(), st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) != 0) fail(path_);
        // Made here a moment ago and no symlink: nothing to follow.
        if (!S_ISLNK(st.st_mode) && ::fchmodat(to_.get(), name_.c_str(), st.st_mode & 07777, 0) != 0)
            fail(path_);
        const auto at = [&](const UniqueFd &dir) {
            return "/proc/self/fd/" + std::to_string(dir.get()) + "/" + name_;
        };
        xattrs(at(from_), at(to_), path_);
        const timespec times[2] = {st.st_atim, st.st_mtim};
        if (::utimensat(to_.get(), name_.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) fail(path_);
    }

    void attributes(int from, int to, const std::string &path) {
        struct stat st {};
        if (::fstat(from, &st) != 0 || ::fchown(to, st.st_uid, st.st_gid) != 0 ||
            ::fchmod(to, st.st_mode & 07777) != 0)
            fail(path);
        const auto at = [](int fd) { return "/proc/self/fd/" + std::to_string(fd) + "/."; };
        // After chown, which drops security.capability.
        S_ISDIR(st.st_mode) ? xattrs(at(from), at(to), path) : xattrs(in_proc(from), in_proc(to), path, true);
        const timespec times[2] = {st.st_atim, st.st_mtim};
        if (::futimens(to, times) != 0) fail(path);
    }
    static std::string in_proc(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

    using Attributes = std::map<std::string, std::string>;
    static Attributes read_xattrs(const std::string &place, const std::string &path, bool follow) {
        Attributes out;
        const auto list = [&](char *names, size_t size) {
            return follow ? ::listxattr(place.c_str(), names, size)
                          : ::llistxattr(place.c_str(), names, size);
        };
        ssize_t size = list(nullptr, 0);
        if (size < 0 && errno == ENOTSUP) return out;
        if (size < 0) fail(path);
        std::string names(static_cast<size_t>(size), '\0'), value(64 << 10, '\0');
        if (size > 0 && (size = list(names.data(), names.size())) < 0) fail(path);
        for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(std::strlen(names.c_str() + at)) + 1) {
            const char *key = names.c_str() + at;
            if (belongs_to_the_backend(key)) continue;
            const ssize_t n = follow ? ::getxattr(place.c_str(), key, value.data(), value.size())
                                     : ::lgetxattr(place.c_str(), key, value.data(), value.size());
            if (n < 0) fail(path);
            out.emplace(key, value.substr(0, static_cast<size_t>(n)));
        }
        return out;
    }
    // What the target has and the source lacks goes too: a directory may be there from the parent layer.
    static void xattrs(const std::string &from, const std::string &to, const std::string &path,
                       bool follow = false) {
        const Attributes wanted = read_xattrs(from, path, follow), present = read_xattrs(to, path, follow);
        for (const auto &[key, value] : present)
            if (!wanted.contains(key) && (follow ? ::removexattr(to.c_str(), key.c_str())
                                                 : ::lremovexattr(to.c_str(), key.c_str())) != 0)
                fail(path);
        for (const auto &[key, value] : wanted) {
            if (const auto it = present.find(key); it != present.end() && it->second == value) continue;
            if ((follow ? ::setxattr(to.c_str(), key.c_str(), value.data(), value.size(), 0)
                        : ::lsetxattr(to.c_str(), key.c_str(), value.data(), value.size(), 0)) != 0)
                throw Error::from_errno(errno, "move " + path.substr(0, 300) + ": set attribute " + key);
        }
    }

    int source_;
    const ApplyTarget &target_;
    const Call &call_;
    const std::function<void(uint64_t)> &copied_;
    UniqueFd from_, to_;
    std::string parent_, name_, path_;
    bool reflink_ = true;
    std::string buffer_ = std::string(256 << 10, '\0');
    std::map<std::pair<dev_t, ino_t>, std::string> links_;
    std::vector<std::string> directories_;
};

} // namespace

void apply_changes(int source, const ApplyTarget &target, const std::vector<Change> &changes,
                   const Call &call, const std::function<void(uint64_t)> &copied) {
    Applier applier(source, target, call, copied);
    for (const Change &change : changes)
        applier.change(change);
    applier.finish();
}

} // namespace gantry
