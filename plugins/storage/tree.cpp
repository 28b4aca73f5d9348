#include "plugins/storage/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <map>
#include <memory>
#include <set>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry::storage {
namespace {

constexpr int kMaxCopyDepth = 1024; // descriptors are open on every level

class Measurer {
  public:
    explicit Measurer(const Call &call) : call_(call) {}
    void measure(int dir, int depth) {
        call_.check("measure layer");
        if (depth > kMaxCopyDepth)
            return; // a container can nest for ever; what lies deeper is not worth an error
        for (const std::string &name : names_in(dir, "layer")) {
            struct stat st {};
            if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue; // gone: containers run
            if (st.st_nlink > 1 && !S_ISDIR(st.st_mode) && !links_.insert({st.st_dev, st.st_ino}).second)
                continue;
            usage.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
            ++usage.inodes;
            if (!S_ISDIR(st.st_mode)) continue;
            const Fd fd(::openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (fd) measure(fd.get(), depth + 1);
        }
    }
    Usage usage;

  private:
    const Call &call_;
    std::set<std::pair<dev_t, ino_t>> links_;
};

class Copier {
  public:
    Copier(int root, const Call &call) : root_(root), call_(call) {}

    void directory(int from, int to, const std::string &path, int depth) {
        call_.check("copy layer");
        if (depth > kMaxCopyDepth)
            throw Error(ErrorClass::kInvalidArgument,
                        "copy layer: " + path.substr(0, 200) + "... is nested too deeply");
        for (const std::string &name : names_in(from, path)) {
            const std::string child = path.empty() ? name : path + "/" + name;
            struct stat st {};
            if (::fstatat(from, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) fail(child);
            if (S_ISDIR(st.st_mode)) {
                if (::mkdirat(to, name.c_str(), 0700) != 0) fail(child);
                const Fd below = open_directory(from, name), copy = open_directory(to, name);
                directory(below.get(), copy.get(), child, depth + 1);
                copy_attributes(below.get(), copy.get(), child);
                continue;
            }
            if (st.st_nlink > 1) {
                const auto [it, fresh] = links_.insert({{st.st_dev, st.st_ino}, child});
                if (!fresh) {
                    if (::linkat(root_, it->second.c_str(), to, name.c_str(), 0) != 0) fail(child);
                    continue;
                }
            }
            if (S_ISREG(st.st_mode))
                file(from, to, name, child, st);
            else
                special(from, to, name, child, st);
        }
    }

  private:
    [[noreturn]] static void fail(const std::string &path) {
        throw Error::from_errno(errno, "copy layer: /" + path.substr(0, 200));
    }

    void file(int from, int to, const std::string &name, const std::string &path, const struct stat &st) {
        const Fd in(::openat(from, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
        const Fd out(::openat(to, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!in || !out) fail(path);
        if (st.st_size > 0 && !(reflink_ && ::ioctl(out.get(), FICLONE, in.get()) == 0)) {
            reflink_ =
                reflink_ && errno != EOPNOTSUPP && errno != EXDEV && errno != ENOTTY && errno != EINVAL;
            extents(in.get(), out.get(), path, st.st_size);
        }
        copy_attributes(in.get(), out.get(), path);
    }
    void extents(int in, int out, const std::string &path, off_t size) {
        off_t at = 0;
        while (at < size) {
            const off_t data = ::lseek(in, at, SEEK_DATA);
            if (data < 0 && errno == ENXIO) break; // only a hole is left
            off_t end = data < 0 ? size : ::lseek(in, data, SEEK_HOLE);
            if (data >= 0) at = data;
            if (end <= at) end = size;
            while (at < end) {
                call_.check("copy layer");
                off_t source = at, target = at;
                const size_t length = static_cast<size_t>(std::min<off_t>(end - at, 64 << 20));
                ssize_t n = ::copy_file_range(in, &source, out, &target, length, 0);
                if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
                    char buffer[65536];
                    n = ::pread(in, buffer, std::min(length, sizeof buffer), at);
                    if (n > 0) n = ::pwrite(out, buffer, static_cast<size_t>(n), at);
                }
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) fail(path);
                if (n == 0) break;
                at += n;
            }
            if (at < end) break; // the file is shorter than it was
        }
        if (::ftruncate(out, size) != 0) fail(path);
    }
    static void special(int from, int to, const std::string &name, const std::string &path,
                        const struct stat &st) {
        if (S_ISLNK(st.st_mode)) {
            std::string target(static_cast<size_t>(st.st_size) + 1, '\0');
            const ssize_t n = ::readlinkat(from, name.c_str(), target.data(), target.size());
            if (n < 0) fail(path);
            target.resize(static_cast<size_t>(n));
            if (::symlinkat(target.c_str(), to, name.c_str()) != 0) fail(path);
        } else if (::mknodat(to, name.c_str(), (st.st_mode & S_IFMT) | 0600, st.st_rdev) != 0) {
            fail(path);
        }
        if (::fchownat(to, name.c_str(), st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) != 0) fail(path);
        // Made here a moment ago and no symlink: nothing to follow.
        if (!S_ISLNK(st.st_mode) && ::fchmodat(to, name.c_str(), st.st_mode & 07777, 0) != 0) fail(path);
        const timespec times[2] = {st.st_atim, st.st_mtim};
        if (::utimensat(to, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) fail(path);
    }

    int root_;
    const Call &call_;
    bool reflink_ = true;
    std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

} // namespace

Usage measure_tree(int dir, const Call &call) {
    Measurer measurer(call);
    measurer.measure(dir, 0);
    return measurer.usage;
}

void copy_attributes(int from, int to, const std::string &shown) {
    struct stat st {};
    const auto fail = [&] { throw Error::from_errno(errno, "copy attributes of " + shown.substr(0, 200)); };
    if (::fstat(from, &st) != 0 || ::fchown(to, st.st_uid, st.st_gid) != 0 ||
        ::fchmod(to, st.st_mode & 07777) != 0)
        fail();
    // After chown, which drops security.capability.
    if (const ssize_t size = ::flistxattr(from, nullptr, 0); size > 0) {
        std::string names(static_cast<size_t>(size), '\0');
        const ssize_t got = ::flistxattr(from, names.data(), names.size());
        if (got < 0) fail();
        for (size_t at = 0; at < static_cast<size_t>(got); at += std::strlen(names.c_str() + at) + 1) {
            const char *key = names.c_str() + at;
            std::string value(64 << 10, '\0');
            const ssize_t n = ::fgetxattr(from, key, value.data(), value.size());
            if (n < 0 && errno == ENODATA) continue;
            if (n < 0 || ::fsetxattr(to, key, value.data(), static_cast<size_t>(n), 0) != 0) fail();
        }
    }
    const timespec times[2] = {st.st_atim, st.st_mtim};
    if (::futimens(to, times) != 0) fail();
}

void copy_tree(int from, int to, const Call &call) {
    Copier(to, call).directory(from, to, "", 0);
    copy_attributes(from, to, "/");
}

} // namespace gantry::storage
