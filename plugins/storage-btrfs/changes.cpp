#include "plugins/storage-btrfs/changes.h"

#include <gantry/changes.hpp>
#include <gantry/directory.hpp>

#include <algorithm>
#include <linux/btrfs_tree.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

namespace gantry::btrfs {
namespace {

constexpr size_t kMaxPath = 4095;

bool same_target(int lower, int upper, const std::string &name) {
    std::string a(4097, '\0'), b(4097, '\0');
    const ssize_t n = ::readlinkat(lower, name.c_str(), a.data(), a.size()),
                  m = ::readlinkat(upper, name.c_str(), b.data(), b.size());
    return n >= 0 && n == m && a.compare(0, static_cast<size_t>(n), b, 0, static_cast<size_t>(m)) == 0;
}

bool same_bytes(int lower, int upper, const std::string &name, const Call &call) {
    const UniqueFd a(::openat(lower, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    const UniqueFd b(::openat(upper, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!a || !b) throw Error::from_errno(errno, "open " + name);
    std::string x(256 << 10, '\0'), y(x.size(), '\0');
    for (off_t at = 0;;) {
        call.check("list changes");
        const ssize_t n = ::pread(a.get(), x.data(), x.size(), at),
                      m = ::pread(b.get(), y.data(), y.size(), at);
        if (n < 0 || m < 0) throw Error::from_errno(errno, "read " + name);
        if (n != m || std::memcmp(x.data(), y.data(), static_cast<size_t>(n)) != 0) return false;
        if (n == 0) return true;
        at += n;
    }
}

std::string path_of(int dir, const std::string &name) {
    return "/proc/self/fd/" + std::to_string(dir) + "/" + name;
}

class Walk {
  public:
    Walk(const ChangeInput &in, const Call &call, ChangeReporter &out)
        : in_(in), upper_(in.upper), touched_(in.touched), call_(call), out_(out) {}

    void directory(const std::string &path, bool in_lower, bool same, uint64_t inode) {
        call_.check("list changes");
        if (path.size() > kMaxPath)
            throw Error(ErrorClass::kInvalidArgument, "list changes: " + path.substr(0, 200) +
                                                          "... is a longer path than a layer can carry");
        for (const Entry &entry : entries(path, in_lower, same, inode)) {
            const std::string child = path + "/" + entry.name;
            const bool told = entry.kind != kSame;
            if (told) out_.report(static_cast<gantry_change_kind>(entry.kind), child);
            if (!entry.directory) continue;
            out_.enter(child, told);
            const int upper = upper_;
            const Touched *const touched = touched_;
            if (entry.nested) { // a tree of its own, with inode numbers of its own
                upper_ = in_.live;
                touched_ = nullptr;
            }
            directory(child, entry.directory_in_lower, entry.same, entry.inode);
            upper_ = upper;
            touched_ = touched;
            out_.leave();
        }
    }

  private:
    static constexpr int kSame = -1;
    struct Entry {
        std::string name;
        uint64_t inode = 0;
        int kind = kSame;
        bool directory = false, directory_in_lower = false, same = false, nested = false;
    };

    // What is nested in the live tree is a container's: no link is followed.
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

    std::vector<Entry> entries(const std::string &path, bool in_lower, bool same, uint64_t inode) const {
        std::vector<Entry> out;
        const UniqueFd up = open_below(upper_, path);
        const UniqueFd low = in_lower ? open_below(in_.lower, path) : UniqueFd();
        if (!up && upper_ == in_.live && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
            return out; // changed under our eyes
        if (!up || (in_lower && !low)) throw Error::from_errno(errno, "open " + path.substr(0, 300));
        // A directory that has not changed itself has the same names in both: its touched ones matter.
        const bool passed = same && touched_ && !touched_->changed.contains(inode);
        std::vector<std::string> names;
        each_entry(up.get(), path, [&](const dirent &entry) {
            if (!passed || touched_->concerns(entry.d_ino)) names.emplace_back(entry.d_name);
        });
        if (low && !passed)
            each_entry(low.get(), path, [&](const dirent &entry) { names.emplace_back(entry.d_name); });
        std::sort(names.begin(), names.end());
        names.erase(std::unique(names.begin(), names.end()), names.end());
        for (const std::string &name : names) {
            Entry entry = compare(low.get(), up.get(), name, path);
            if (entry.kind != kSame || entry.directory) out.push_back(std::move(entry));
        }
        return out;
    }

    Entry compare(int low, int up, const std::string &name, const std::string &path) const {
        Entry entry{name};
        struct stat below {
        }, above{};
        const bool was = stat_at(low, name, below);
        if (!stat_at(up, name, above)) {
            if (was) entry.kind = GANTRY_CHANGE_DELETED;
            return entry;
        }
        // A snapshot shows an empty directory in place of a nested subvolume.
        entry.nested = in_.live >= 0 && upper_ == in_.upper && S_ISDIR(above.st_mode) &&
                       above.st_ino == BTRFS_EMPTY_SUBVOL_DIR_OBJECTID;
        UniqueFd live;
        if (entry.nested) {
            live = open_below(in_.live, path + "/" + name);
            if (!live || ::fstat(live.get(), &above) != 0) return entry; // gone meanwhile
        }
        entry.inode = above.st_ino;
        entry.same = was && touched_ && !entry.nested && above.st_ino == below.st_ino &&
                     (above.st_mode & S_IFMT) == (below.st_mode & S_IFMT);
        if (entry.same && !touched_->concerns(above.st_ino)) return entry;
        entry.directory = S_ISDIR(above.st_mode);
        entry.directory_in_lower = entry.directory && was && S_ISDIR(below.st_mode);
        if (!was)
            entry.kind = GANTRY_CHANGE_ADDED;
        else if (entry.same && !touched_->changed.contains(above.st_ino))
            entry.kind = kSame; // on the way to a change
        else if (!same_attributes(below, above) ||
                 layer_xattrs(path_of(low, name)) !=
                     layer_xattrs(entry.nested ? path_of(live.get(), ".") : path_of(up, name)) ||
                 !same_content(low, up, name, below, above, entry.same))
            entry.kind = GANTRY_CHANGE_MODIFIED;
        return entry;
    }

    // Behind equal size and time: the walk of the core cannot afford to look, this one knows where to.
    bool same_content(int low, int up, const std::string &name, const struct stat &below,
                      const struct stat &above, bool same) const {
        if (S_ISLNK(above.st_mode)) return same_target(low, up, name);
        if (!S_ISREG(above.st_mode) || above.st_size == 0) return true;
        if (same && extent_map(low, below.st_ino, call_) == extent_map(up, above.st_ino, call_)) return true;
        return same_bytes(low, up, name, call_);
    }

    const ChangeInput &in_;
    int upper_;
    const Touched *touched_;
    const Call &call_;
    ChangeReporter &out_;
};

} // namespace

void compare(const ChangeInput &in, const Call &call, const std::function<void(const Change &)> &found) {
    ChangeReporter out(found);
    Walk(in, call, out).directory("", in.lower >= 0, true, BTRFS_FIRST_FREE_OBJECTID);
}

} // namespace gantry::btrfs
