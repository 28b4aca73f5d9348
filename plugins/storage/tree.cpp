#include "plugins/storage/tree.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <linux/fs.h>
#include <map>
#include <set>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry::storage {
namespace {

// A way down a tree that keeps a bounded number of descriptors: upper levels are closed and found again
// by "..", and must then be the same directory.
class Descent {
  public:
    explicit Descent(int top) { enter(UniqueFd(::openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))); }
    int fd() const noexcept { return levels_.back().fd.get(); }
    size_t depth() const noexcept { return levels_.size(); }
    void enter(UniqueFd below) {
        struct stat st {};
        if (!below || ::fstat(below.get(), &st) != 0) throw Error::from_errno(errno, "enter directory");
        levels_.push_back({std::move(below), st.st_dev, st.st_ino});
        if (levels_.size() > kOpen + 1) levels_[levels_.size() - kOpen - 1].fd.reset();
    }
    void leave() {
        const UniqueFd below = std::move(levels_.back().fd);
        levels_.pop_back();
        Level &up = levels_.back();
        if (up.fd) return;
        UniqueFd fd(::openat(below.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        struct stat st {};
        if (!fd || ::fstat(fd.get(), &st) != 0) throw Error::from_errno(errno, "leave directory");
        if (st.st_dev != up.device || st.st_ino != up.inode)
            throw Error(ErrorClass::kUnavailable, "leave directory: it was moved meanwhile", "try again");
        up.fd = std::move(fd);
    }

  private:
    static constexpr size_t kOpen = 24;
    struct Level {
        UniqueFd fd;
        dev_t device;
        ino_t inode;
    };
    std::vector<Level> levels_; // the first is never closed: nothing above it is ours
};

class Measurer {
  public:
    Measurer(const Call &call, const StrayWhiteout &stray) : call_(call), stray_(stray) {}

    Usage measure(int top) {
        Descent at(top);
        std::vector<std::vector<std::string>> pending{directory(at.fd())};
        for (;;) {
            if (pending.back().empty()) {
                pending.pop_back();
                if (pending.empty()) return usage_;
                at.leave();
                continue;
            }
            const std::string name = std::move(pending.back().back());
            pending.back().pop_back();
            UniqueFd fd(::openat(at.fd(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (!fd) continue; // gone: containers run
            at.enter(std::move(fd));
            pending.push_back(directory(at.fd()));
        }
    }

  private:
    /// Counts the entries and returns the directories among them.
    std::vector<std::string> directory(int dir) {
        call_.check("measure layer");
        std::vector<std::string> below;
        for (std::string &name : names_in(dir, "layer")) {
            struct stat st {};
            if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue; // gone
            if (stray_ && stray_(dir, name, st)) continue;
            if (st.st_nlink > 1 && !S_ISDIR(st.st_mode) && !links_.insert({st.st_dev, st.st_ino}).second)
                continue;
            usage_.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
            ++usage_.inodes;
            if (S_ISDIR(st.st_mode)) below.push_back(std::move(name));
        }
        return below;
    }

    const Call &call_;
    const StrayWhiteout &stray_;
    Usage usage_;
    std::set<std::pair<dev_t, ino_t>> links_;
};

// Opens a directory by a path of any length, in steps that open(2) takes.
UniqueFd open_long(int root, std::string_view path) {
    UniqueFd at(::openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    while (at && !path.empty()) {
        size_t end = path.size();
        if (end > 4000) end = path.rfind('/', 4000);
        at = open_directory(at.get(), std::string(path.substr(0, end)));
        path.remove_prefix(std::min(end + 1, path.size()));
    }
    return at;
}

class Copier {
  public:
    Copier(int from, int to, const Call &call) : root_(to), from_(from), to_(to), call_(call) {}

    void run() {
        std::vector<std::vector<std::string>> pending{directory()};
        for (;;) {
            if (!pending.back().empty()) {
                const std::string name = std::move(pending.back().back());
                pending.back().pop_back();
                if (::mkdirat(to_.fd(), name.c_str(), 0700) != 0) fail(name);
                UniqueFd below = open_directory(from_.fd(), name), copy = open_directory(to_.fd(), name);
                from_.enter(std::move(below));
                to_.enter(std::move(copy));
                path_ += (path_.empty() ? "" : "/") + name;
                pending.push_back(directory());
                continue;
            }
            // Last, because everything made in a directory moves its time.
            copy_attributes(from_.fd(), to_.fd(), "/" + path_);
            pending.pop_back();
            if (pending.empty()) return;
            from_.leave();
            to_.leave();
            const size_t slash = path_.rfind('/');
            path_.resize(slash == std::string::npos ? 0 : slash);
        }
    }

  private:
    [[noreturn]] void fail(const std::string &name) const {
        throw Error::from_errno(
            errno, "copy layer: /" + (path_.size() > 200 ? "..." + path_.substr(path_.size() - 200) : path_) +
                       "/" + name);
    }

    /// Copies what is no directory and returns the directories.
    std::vector<std::string> directory() {
        std::vector<std::string> below;
        unsigned count = 0;
        for (std::string &name : names_in(from_.fd(), path_)) {
            if (count++ % 16 == 0) call_.check("copy layer");
            struct stat st {};
            if (::fstatat(from_.fd(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) fail(name);
            if (S_ISDIR(st.st_mode)) {
                below.push_back(std::move(name));
                continue;
            }
            if (st.st_nlink > 1 && link(name, st)) continue;
            if (S_ISREG(st.st_mode))
                file(name, st);
            else
                special(name, st);
        }
        return below;
    }

    bool link(const std::string &name, const struct stat &st) {
        const auto [it, fresh] =
            links_.insert({{st.st_dev, st.st_ino}, path_.empty() ? name : path_ + "/" + name});
        if (fresh) return false;
        const std::string &first = it->second;
        if (first.size() < 4000) {
            if (::linkat(root_, first.c_str(), to_.fd(), name.c_str(), 0) != 0) fail(name);
            return true;
        }
        const size_t slash = first.rfind('/');
        const UniqueFd dir = open_long(root_, std::string_view(first).substr(0, slash));
        if (::linkat(dir.get(), first.c_str() + slash + 1, to_.fd(), name.c_str(), 0) != 0) fail(name);
        return true;
    }

    void file(const std::string &name, const struct stat &st) {
        const UniqueFd in(::openat(from_.fd(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
        const UniqueFd out(
            ::openat(to_.fd(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!in || !out) fail(name);
        if (st.st_size > 0 && !(reflink_ && ::ioctl(out.get(), FICLONE, in.get()) == 0)) {
            reflink_ =
                reflink_ && errno != EOPNOTSUPP && errno != EXDEV && errno != ENOTTY && errno != EINVAL;
            extents(in.get(), out.get(), name, st);
        }
        copy_attributes(in.get(), out.get(), name);
    }
    void extents(int in, int out, const std::string &name, const struct stat &st) {
        const bool holes = st.st_blocks * 512 < st.st_size;
        off_t at = 0;
        while (at < st.st_size) {
            const off_t data = holes ? ::lseek(in, at, SEEK_DATA) : at;
            if (data < 0 && errno == ENXIO) break; // only a hole is left
            off_t end = !holes || data < 0 ? st.st_size : ::lseek(in, data, SEEK_HOLE);
            if (data >= 0) at = data;
            if (end <= at) end = st.st_size;
            while (at < end) {
                if (end - at > kStep) call_.check("copy layer");
                const ssize_t n = piece(in, out, at, static_cast<size_t>(std::min(end - at, kStep)));
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) fail(name);
                if (n == 0) break;
                at += n;
            }
            if (at < end) break; // the file is shorter than it was
        }
        if ((holes || at != st.st_size) && ::ftruncate(out, st.st_size) != 0) fail(name);
    }
    ssize_t piece(int in, int out, off_t at, size_t length) {
        off_t source = at, target = at;
        ssize_t n = in_kernel_ ? ::copy_file_range(in, &source, out, &target, length, 0) : -1;
        // 0 in the middle of a file: some file systems (procfs, FUSE) say so instead of an error.
        if (n > 0 || (n < 0 && in_kernel_ && errno != EXDEV && errno != EINVAL && errno != ENOSYS &&
                      errno != EOPNOTSUPP))
            return n;
        in_kernel_ = false;
        char buffer[65536];
        n = ::pread(in, buffer, std::min(length, sizeof buffer), at);
        return n > 0 ? ::pwrite(out, buffer, static_cast<size_t>(n), at) : n;
    }

    void special(const std::string &name, const struct stat &st) {
        const int from = from_.fd(), to = to_.fd();
        if (S_ISLNK(st.st_mode)) {
            std::string target(static_cast<size_t>(st.st_size) + 1, '\0');
            const ssize_t n = ::readlinkat(from, name.c_str(), target.data(), target.size());
            if (n < 0) fail(name);
            target.resize(static_cast<size_t>(n));
            if (::symlinkat(target.c_str(), to, name.c_str()) != 0) fail(name);
        } else if (::mknodat(to, name.c_str(), (st.st_mode & S_IFMT) | 0600, st.st_rdev) != 0) {
            fail(name);
        }
        if (::fchownat(to, name.c_str(), st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) != 0) fail(name);
        // Made here a moment ago and no symlink: nothing to follow.
        if (!S_ISLNK(st.st_mode) && ::fchmodat(to, name.c_str(), st.st_mode & 07777, 0) != 0) fail(name);
        const std::string source = "/proc/self/fd/" + std::to_string(from) + "/" + name,
                          target = "/proc/self/fd/" + std::to_string(to) + "/" + name;
        copy_xattrs(
            name, [&](char *list, size_t size) { return ::llistxattr(source.c_str(), list, size); },
            [&](const char *key, void *value, size_t size) {
                return ::lgetxattr(source.c_str(), key, value, size);
            },
            [&](const char *key, const void *value, size_t size) {
                return ::lsetxattr(target.c_str(), key, value, size, 0);
            });
        const timespec times[2] = {st.st_atim, st.st_mtim};
        if (::utimensat(to, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) fail(name);
    }

  public:
    template <typename List, typename Get, typename Set>
    static void copy_xattrs(const std::string &shown, List list, Get get, Set set) {
        const ssize_t size = list(nullptr, 0);
        if (size <= 0) return; // none, or a file system without
        const auto fail = [&] {
            throw Error::from_errno(errno, "copy attributes of " + shown.substr(0, 200));
        };
        std::string names(static_cast<size_t>(size), '\0'), value(64 << 10, '\0');
        const ssize_t got = list(names.data(), names.size());
        if (got < 0) fail();
        for (size_t at = 0; at < static_cast<size_t>(got); at += std::strlen(names.c_str() + at) + 1) {
            const char *key = names.c_str() + at;
            const ssize_t n = get(key, value.data(), value.size());
            if (n < 0 && errno == ENODATA) continue;
            if (n < 0 || set(key, value.data(), static_cast<size_t>(n)) != 0) fail();
        }
    }

  private:
    // Between two looks at cancellation; a disk writes it in a fraction of a second.
    static constexpr off_t kStep = 16 << 20;

    int root_;
    Descent from_, to_;
    std::string path_; // of the directory at hand, from the root
    const Call &call_;
    bool reflink_ = true, in_kernel_ = true;
    std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

} // namespace

Usage measure_tree(int dir, const Call &call, const StrayWhiteout &stray) {
    return Measurer(call, stray).measure(dir);
}

void copy_attributes(int from, int to, const std::string &shown) {
    struct stat st {};
    const auto fail = [&] { throw Error::from_errno(errno, "copy attributes of " + shown.substr(0, 200)); };
    if (::fstat(from, &st) != 0 || ::fchown(to, st.st_uid, st.st_gid) != 0 ||
        ::fchmod(to, st.st_mode & 07777) != 0)
        fail();
    // After chown, which drops security.capability.
    Copier::copy_xattrs(
        shown, [&](char *list, size_t size) { return ::flistxattr(from, list, size); },
        [&](const char *key, void *value, size_t size) { return ::fgetxattr(from, key, value, size); },
        [&](const char *key, const void *value, size_t size) {
            return ::fsetxattr(to, key, value, size, 0);
        });
    const timespec times[2] = {st.st_atim, st.st_mtim};
    if (::futimens(to, times) != 0) fail();
}

void copy_tree(int from, int to, const Call &call) { Copier(from, to, call).run(); }

} // namespace gantry::storage
