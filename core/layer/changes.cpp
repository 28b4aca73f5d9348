// Both trees side by side, by path from their roots: no descriptor stays open across levels, however
// deep a container has nested them. A container may be changing the upper tree meanwhile; directories are
// opened without following a link anywhere in the path, and what vanishes counts as deleted.
#include "core/layer/changes.h"

#include "core/base/fd.h"

#include <gantry/changes.hpp>
#include <gantry/directory.hpp>

#include <cerrno>
#include <fcntl.h>
#include <linux/openat2.h>
#include <set>
#include <sys/syscall.h>

namespace gantry {
namespace {

constexpr size_t kMaxPath = 4095;

class Comparison {
  public:
    Comparison(int lower, int upper, bool links, ChangeReporter &out, const Call &call)
        : lower_(lower), upper_(upper), links_(links), out_(out), call_(call) {}

    void directory(const std::string &path, bool in_lower) {
        call_.check("list changes");
        if (path.size() > kMaxPath)
            throw Error(ErrorClass::kInvalidArgument, "list changes: " + path.substr(0, 200) +
                                                          "... is a longer path than a layer can carry");
        for (const Entry &entry : entries(path, in_lower)) {
            const std::string child = path + "/" + entry.name;
            const bool told = entry.kind != kSame;
            if (told) out_.report(static_cast<gantry_change_kind>(entry.kind), child);
            if (!entry.directory) continue;
            out_.enter(child, told);
            directory(child, entry.directory_in_lower);
            out_.leave();
        }
    }

  private:
    static constexpr int kSame = -1;
    struct Entry {
        std::string name;
        int kind = kSame;
        bool directory = false, directory_in_lower = false;
    };

    static UniqueFd open_below(int root, const std::string &path) {
        open_how how{};
        how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
        how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
        const std::string relative = "." + path;
        return UniqueFd(static_cast<int>(::syscall(SYS_openat2, root, relative.c_str(), &how, sizeof how)));
    }
    static bool stat_at(int dir, const std::string &name, struct stat &st) {
        if (dir < 0) return false;
        if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return true;
        if (errno == ENOENT) return false;
        throw Error::from_errno(errno, "stat " + name);
    }
    static std::string path_of(int dir, const std::string &name) {
        return "/proc/self/fd/" + std::to_string(dir) + "/" + name;
    }

    std::vector<Entry> entries(const std::string &path, bool in_lower) const {
        std::vector<Entry> out;
        const UniqueFd up = open_below(upper_, path), low = in_lower ? open_below(lower_, path) : UniqueFd();
        if (!up) {
            if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return out; // changed under our eyes
            throw Error::from_errno(errno, "open " + path.substr(0, 300));
        }
        if (in_lower && !low) throw Error::from_errno(errno, "open " + path.substr(0, 300));
        std::set<std::string> names; // sorted: the answer does not depend on the file system
        for (std::string &name : names_in(up.get(), path))
            names.insert(std::move(name));
        if (low)
            for (std::string &name : names_in(low.get(), path))
                names.insert(std::move(name));
        for (const std::string &name : names) {
            struct stat below {
            }, above{};
            const bool was = stat_at(low.get(), name, below), is = stat_at(up.get(), name, above);
            if (!links_) below.st_nlink = above.st_nlink;
            Entry entry{name};
            if (!is) {
                if (!was) continue;
                entry.kind = GANTRY_CHANGE_DELETED;
            } else if (!was) {
                entry.kind = GANTRY_CHANGE_ADDED;
            } else if (!same_attributes(below, above) ||
                       layer_xattrs(path_of(low.get(), name)) != layer_xattrs(path_of(up.get(), name))) {
                entry.kind = GANTRY_CHANGE_MODIFIED;
            }
            entry.directory = is && S_ISDIR(above.st_mode);
            entry.directory_in_lower = entry.directory && was && S_ISDIR(below.st_mode);
            if (entry.kind != kSame || entry.directory) out.push_back(std::move(entry));
        }
        return out;
    }

    int lower_, upper_;
    bool links_;
    ChangeReporter &out_;
    const Call &call_;
};

} // namespace

std::vector<Change> compare_trees(int lower_fd, int upper_fd, const Call &call, bool links) {
    std::vector<Change> out;
    const std::function<void(const Change &)> found = [&](const Change &change) { out.push_back(change); };
    ChangeReporter reporter(found);
    Comparison(lower_fd, upper_fd, links, reporter, call).directory("", lower_fd >= 0);
    return out;
}

} // namespace gantry
