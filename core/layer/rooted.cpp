#include "core/layer/rooted.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <memory>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

namespace gantry {
namespace {

constexpr size_t kMaxName = 255, kMaxPath = 4095;

std::string shown(std::string_view path) { return std::string(path.substr(0, 200)); }

} // namespace

std::string clean_entry_path(std::string_view path) {
    std::string out;
    if (path.size() > kMaxPath)
        throw Error(ErrorClass::kInvalidArgument,
                    "unpack entry " + shown(path) + "...: the path is longer than 4095 bytes");
    for (size_t at = 0; at <= path.size();) {
        const size_t end = std::min(path.find('/', at), path.size());
        const std::string_view part = path.substr(at, end - at);
        at = end + 1;
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (out.empty())
                throw Error(ErrorClass::kInvalidArgument,
                            "unpack entry " + shown(path) + ": the path leaves the layer");
            const size_t slash = out.rfind('/');
            out.resize(slash == std::string::npos ? 0 : slash);
            continue;
        }
        if (part.size() > kMaxName)
            throw Error(ErrorClass::kInvalidArgument,
                        "unpack entry " + shown(path) + ": a name is longer than 255 bytes");
        if (!out.empty()) out += '/';
        out += part;
    }
    return out;
}

UniqueFd RootedTree::resolve(const std::string &path) const {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    for (;;) {
        const long fd = ::syscall(SYS_openat2, root_, path.empty() ? "." : path.c_str(), &how, sizeof how);
        // EAGAIN: a rename raced with "..": only other layers' renames can, so trying again ends.
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return UniqueFd(static_cast<int>(fd));
    }
}

RootedTree::Parent *RootedTree::open_parent(std::string_view path, bool make) {
    Parent *oldest = &cache_[0];
    for (Parent &p : cache_) {
        if (p.fd && p.path == path) {
            p.used = ++clock_;
            return &p;
        }
        if (p.used < oldest->used) oldest = &p;
    }
    const std::string wanted(path);
    UniqueFd fd = resolve(wanted);
    if (!fd && errno == ENOENT && !make) return nullptr;
    if (!fd && errno == ENOENT) {
        const size_t slash = wanted.rfind('/');
        const std::string up = slash == std::string::npos ? "" : wanted.substr(0, slash);
        const char *name = slash == std::string::npos ? wanted.c_str() : wanted.c_str() + slash + 1;
        Parent *above = open_parent(up, true);
        if (::mkdirat(above->fd.get(), name, 0755) != 0)
            throw Error::from_errno(errno, "make directory " + shown(wanted)); // EEXIST: a dangling symlink
        fd = resolve(wanted);
        oldest = &cache_[0]; // the recursion has used slots
        for (Parent &p : cache_)
            if (p.used < oldest->used) oldest = &p;
    }
    if (!fd) {
        if (!make && errno == ENOTDIR) return nullptr;
        throw Error::from_errno(errno, "enter directory " + shown(wanted));
    }
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) throw Error::from_errno(errno, "stat " + shown(wanted));
    *oldest = {wanted, std::move(fd), (st.st_mode & S_ISGID) != 0, ++clock_};
    return oldest;
}

RootedTree::Place RootedTree::place(const std::string &path) {
    const size_t slash = path.rfind('/');
    const bool top = slash == std::string::npos;
    Parent *parent = open_parent(top ? std::string_view() : std::string_view(path).substr(0, slash), true);
    return {parent->fd.get(), path.c_str() + (top ? 0 : slash + 1), parent->setgid};
}

RootedTree::Place RootedTree::find(const std::string &path) {
    const size_t slash = path.rfind('/');
    const bool top = slash == std::string::npos;
    Parent *parent = open_parent(top ? std::string_view() : std::string_view(path).substr(0, slash), false);
    return {parent ? parent->fd.get() : -1, path.c_str() + (top ? 0 : slash + 1), parent && parent->setgid};
}

bool RootedTree::remove_at(int parent, const std::string &path, const char *name,
                           const std::function<bool(const std::string &)> &keep, int depth) {
    const bool spared = keep && keep(path);
    if (!spared && ::unlinkat(parent, name, 0) == 0) return true;
    if (!spared && errno == ENOENT) return true;
    if (!spared && errno != EISDIR && errno != EPERM) throw Error::from_errno(errno, "remove " + shown(path));
    UniqueFd dir(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!dir && spared && (errno == ENOTDIR || errno == ELOOP)) return false;
    if (!dir) throw Error::from_errno(errno, "remove " + shown(path));
    std::unique_ptr<DIR, int (*)(DIR *)> stream(::fdopendir(dir.dup().release()), ::closedir);
    if (!stream) throw Error::from_errno(errno, "read directory " + shown(path));
    if (depth > 2048)
        throw Error(ErrorClass::kInvalidArgument, "remove " + shown(path) + ": nested too deeply");
    bool empty = true;
    while (const dirent *entry = ::readdir(stream.get())) {
        const std::string child = entry->d_name;
        if (child == "." || child == "..") continue;
        empty =
            remove_at(dir.get(), path.empty() ? child : path + "/" + child, child.c_str(), keep, depth + 1) &&
            empty;
    }
    if (spared || !empty) return false;
    if (::unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        throw Error::from_errno(errno, "remove " + shown(path));
    return true;
}

bool RootedTree::remove(const std::string &path, const std::function<bool(const std::string &)> &keep) {
    const Place at = find(path);
    if (at.parent < 0) return true;
    const UniqueFd parent(::fcntl(at.parent, F_DUPFD_CLOEXEC, 3));
    if (!parent) throw Error::from_errno(errno, "remove " + shown(path));
    forget(); // cached parents may lie below, or be reached through a symlink that goes now
    return remove_at(parent.get(), path, at.name, keep, 0);
}

void RootedTree::clear(const std::string &path, const std::function<bool(const std::string &)> &keep) {
    forget();
    const auto spare = [&](const std::string &p) { return p == path || keep(p); };
    if (!path.empty()) {
        const Place at = find(path);
        if (at.parent < 0) return;
        struct stat st {};
        if (::fstatat(at.parent, at.name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(st.st_mode)) return;
        const UniqueFd parent(::fcntl(at.parent, F_DUPFD_CLOEXEC, 3));
        forget();
        remove_at(parent.get(), path, at.name, spare, 0);
    } else {
        remove_at(root_, path, ".", spare, 0);
    }
}

} // namespace gantry
