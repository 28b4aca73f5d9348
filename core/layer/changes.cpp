#include "core/layer/changes.h"

#include "core/base/fd.h"

#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int kMaxDepth = 1024; // each level holds descriptors open

std::set<std::string> names_in(int dir, const std::string &shown) {
    std::set<std::string> names;
    const UniqueFd fd(::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::unique_ptr<DIR, int (*)(DIR *)> stream(fd ? ::fdopendir(fd.dup().release()) : nullptr, ::closedir);
    if (!stream) throw Error::from_errno(errno, "read directory " + shown);
    while (const dirent *entry = ::readdir(stream.get()))
        if (const std::string name = entry->d_name; name != "." && name != "..") names.insert(name);
    return names;
}

bool stat_at(int dir, const std::string &name, struct stat &st) {
    if (dir < 0) return false;
    if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return true;
    if (errno == ENOENT) return false;
    throw Error::from_errno(errno, "stat " + name);
}

// Times to the nanosecond: copies keep them, and every write moves ctime's companion mtime.
bool differs(const struct stat &a, const struct stat &b) {
    if (a.st_mode != b.st_mode || a.st_uid != b.st_uid || a.st_gid != b.st_gid || a.st_rdev != b.st_rdev)
        return true;
    if (S_ISDIR(a.st_mode)) return false;
    return a.st_size != b.st_size || a.st_mtim.tv_sec != b.st_mtim.tv_sec ||
           a.st_mtim.tv_nsec != b.st_mtim.tv_nsec;
}

void compare(int lower, int upper, const std::string &path, int depth, std::vector<Change> &out,
             const Call &call) {
    call.check("list changes");
    if (depth > kMaxDepth)
        throw Error(ErrorClass::kInvalidArgument, "list changes: " + path + " is nested too deeply");
    std::set<std::string> names = names_in(upper, path);
    if (lower >= 0)
        for (const std::string &name : names_in(lower, path))
            names.insert(name);
    for (const std::string &name : names) {
        struct stat below {
        }, above{};
        const bool was = stat_at(lower, name, below), is = stat_at(upper, name, above);
        const std::string child = path + "/" + name;
        if (!is) {
            if (was) out.push_back({GANTRY_CHANGE_DELETED, child});
            continue;
        }
        const size_t mark = out.size();
        if (!was)
            out.push_back({GANTRY_CHANGE_ADDED, child});
        else if (differs(below, above))
            out.push_back({GANTRY_CHANGE_MODIFIED, child});
        if (!S_ISDIR(above.st_mode)) continue;
        const UniqueFd up(::openat(upper, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!up) throw Error::from_errno(errno, "open " + child);
        const UniqueFd low(
            was && S_ISDIR(below.st_mode)
                ? ::openat(lower, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                : -1);
        compare(low.get(), up.get(), child, depth + 1, out, call);
        // A directory whose content changed counts as modified, as `docker diff` shows it.
        if (was && S_ISDIR(below.st_mode) && out.size() > mark && out[mark].path != child)
            out.insert(out.begin() + static_cast<ptrdiff_t>(mark), {GANTRY_CHANGE_MODIFIED, child});
    }
}

} // namespace

std::vector<Change> compare_trees(int lower_fd, int upper_fd, const Call &call) {
    std::vector<Change> out;
    compare(lower_fd, upper_fd, "", 0, out, call);
    return out;
}

} // namespace gantry
