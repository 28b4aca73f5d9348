// The layer's own directory tells what changed: its entries, whiteouts and opaque directories. Three things
// are not what they seem. An entry may be a copy made for a change that never came or was taken back
// (chmod twice, open for writing), so each is compared with what lies below. A metadata-only copy
// (overlay's metacopy) has no data here: its content is the lower file's by definition. And a redirected
// directory shows the lower tree of another name; this driver mounts with redirect_dir=off, so such a
// layer was written by somebody else's mount and is left to the walk of both trees.
//
// The directory belongs to a running container: what is below it is opened by path without following a
// link. Committed parents do not move; they are looked up by path too, so that 500 of them cost no
// descriptors.
#include "plugins/storage/stacked_changes.h"

#include <gantry/changes.hpp>

#include <cstring>
#include <fcntl.h>
#include <linux/openat2.h>
#include <set>
#include <sys/syscall.h>

namespace gantry::storage {
namespace {

constexpr size_t kMaxPath = 4000; // "<id>/fs" comes before it

bool is_whiteout(const struct stat &st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

class UpperWalk {
  public:
    UpperWalk(const LayerRoot &root, gantry_whiteout whiteout, const std::string &id, const LayerIds &parents,
              const Call &call, ChangeReporter &out)
        : root_(root), aufs_(whiteout == GANTRY_WHITEOUT_AUFS), parents_(parents), call_(call), out_(out),
          upper_(open_directory(root.open(id).get(), "fs")) {}

    void run() {
        std::vector<size_t> below;
        for (size_t i = 0; i < parents_.size(); ++i) {
            root_.open(parents_[i]); // kNotFound
            below.push_back(i);
            if (is_opaque(i, "")) break;
        }
        directory("", below, false);
    }

  private:
    struct Entry {
        std::string name;
        gantry_change_kind kind = GANTRY_CHANGE_MODIFIED;
        bool told = false, directory = false, merges = false;
    };

    /// `below`: the parents that hold this directory, nearest first, down to the first opaque one. Nothing
    /// of them shows in an opaque directory and in all that it holds.
    void directory(const std::string &path, const std::vector<size_t> &below, bool opaque) {
        call_.check("list changes");
        if (path.size() > kMaxPath)
            throw Error(ErrorClass::kInvalidArgument, "list changes: " + path.substr(0, 200) +
                                                          "... is a longer path than a layer can carry");
        for (const Entry &entry : entries(path, below, opaque)) {
            const std::string child = path + "/" + entry.name;
            if (entry.told) out_.report(entry.kind, child);
            if (!entry.directory) continue;
            out_.enter(child, entry.told);
            directory(child, entry.merges ? enter_below(child, below) : std::vector<size_t>{}, opaque);
            out_.leave();
        }
    }

    std::vector<Entry> entries(const std::string &path, const std::vector<size_t> &below,
                               bool &opaque) const {
        std::vector<Entry> out;
        open_how how{};
        how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
        how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
        const UniqueFd dir(
            static_cast<int>(::syscall(SYS_openat2, upper_.get(), ("." + path).c_str(), &how, sizeof how)));
        if (!dir) {
            if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return out; // changed under our eyes
            throw Error::from_errno(errno, "open " + path.substr(0, 300));
        }
        const bool redirected = ::fgetxattr(dir.get(), "trusted.overlay.redirect", nullptr, 0) > 0;
        if (!aufs_ && redirected)
            throw Error(ErrorClass::kUnsupported,
                        "list changes: " + path.substr(0, 300) + " is a redirected directory");
        std::set<std::string> here, names; // sorted, as the walk of both trees gives them
        for (std::string &name : names_in(dir.get(), path)) {
            if (!aufs_ || !name.starts_with(kAufsPrefix))
                here.insert(std::move(name));
            else if (!name.starts_with(kAufsMeta))
                names.insert(name.substr(kAufsPrefix.size()));
        }
        names.insert(here.begin(), here.end());
        char value[2] = {};
        if (aufs_)
            opaque = opaque || ::faccessat(dir.get(), kAufsOpaque.data(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        else
            opaque = opaque || (::fgetxattr(dir.get(), "trusted.overlay.opaque", value, sizeof value) == 1 &&
                                value[0] == 'y');
        if (opaque)
            for (const size_t parent : below) { // whatever the layer does not bring again is deleted
                const std::string lower = parents_[parent] + "/fs" + path;
                for (std::string &name : names_in(open_directory(root_.fd(), lower).get(), path))
                    if (!aufs_ || !name.starts_with(kAufsPrefix)) names.insert(std::move(name));
            }
        for (const std::string &name : names) {
            struct stat above {
            }, under{};
            const std::string child = path + "/" + name;
            const bool is = here.contains(name) &&
                            ::fstatat(dir.get(), name.c_str(), &above, AT_SYMLINK_NOFOLLOW) == 0 &&
                            (aufs_ || !is_whiteout(above));
            const std::string *parent = find_below(child, below, under);
            Entry entry{name};
            if (!is) {
                entry.told = parent != nullptr;
                entry.kind = GANTRY_CHANGE_DELETED;
            } else if (!parent) {
                entry.told = true;
                entry.kind = GANTRY_CHANGE_ADDED;
            } else {
                entry.told = changed(dir.get(), name, above, *parent + "/fs" + child, under);
            }
            entry.directory = is && S_ISDIR(above.st_mode);
            entry.merges = entry.directory && parent && S_ISDIR(under.st_mode);
            if (entry.told || entry.directory) out.push_back(std::move(entry));
        }
        return out;
    }

    bool changed(int dir, const std::string &name, const struct stat &above, const std::string &lower,
                 const struct stat &under) const {
        if (!same_attributes(under, above)) return true;
        const std::string upper = "/proc/self/fd/" + std::to_string(dir) + "/" + name;
        if (layer_xattrs(root_.path() + "/" + lower) != layer_xattrs(upper)) return true;
        if (!S_ISREG(above.st_mode)) {
            if (!S_ISLNK(above.st_mode)) return false;
            char a[4096], b[4096];
            const ssize_t n = ::readlinkat(dir, name.c_str(), a, sizeof a);
            return n < 0 || ::readlinkat(root_.fd(), lower.c_str(), b, sizeof b) != n ||
                   std::memcmp(a, b, static_cast<size_t>(n)) != 0;
        }
        if (::lgetxattr(upper.c_str(), "trusted.overlay.metacopy", nullptr, 0) >= 0) return false;
        return content_differs(dir, name, lower);
    }
    bool content_differs(int dir, const std::string &name, const std::string &lower) const {
        const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
        const UniqueFd a(::openat(dir, name.c_str(), flags)), b(::openat(root_.fd(), lower.c_str(), flags));
        if (!a || !b) return true;
        std::vector<char> left(256 << 10), right(256 << 10);
        for (off_t at = 0;;) {
            call_.check("list changes");
            const ssize_t n = ::pread(a.get(), left.data(), left.size(), at);
            const ssize_t m = ::pread(b.get(), right.data(), right.size(), at);
            if (n != m || n < 0) return true;
            if (n == 0) return false;
            if (std::memcmp(left.data(), right.data(), static_cast<size_t>(n)) != 0) return true;
            at += n;
        }
    }

    /// The nearest parent that shows the path; null when none does or it is deleted there.
    const std::string *find_below(const std::string &path, const std::vector<size_t> &below,
                                  struct stat &st) const {
        for (const size_t parent : below)
            if (const Found found = look(parent, path, st); found != Found::kNothing)
                return found == Found::kEntry ? &parents_[parent] : nullptr;
        return nullptr;
    }
    std::vector<size_t> enter_below(const std::string &path, const std::vector<size_t> &below) const {
        std::vector<size_t> out;
        for (const size_t parent : below) {
            struct stat st {};
            const Found found = look(parent, path, st);
            if (found == Found::kNothing) continue;
            if (found == Found::kWhiteout || !S_ISDIR(st.st_mode)) break; // hides what lies further below
            out.push_back(parent);
            if (is_opaque(parent, path)) break;
        }
        return out;
    }
    enum class Found { kNothing, kEntry, kWhiteout };
    Found look(size_t parent, const std::string &path, struct stat &st) const {
        const std::string at = parents_[parent] + "/fs" + path;
        if (exists(at, st)) return !aufs_ && is_whiteout(st) ? Found::kWhiteout : Found::kEntry;
        if (!aufs_) return Found::kNothing;
        const size_t name = at.rfind('/') + 1;
        struct stat mark {};
        return exists(at.substr(0, name) + std::string(kAufsPrefix) + at.substr(name), mark)
                   ? Found::kWhiteout
                   : Found::kNothing;
    }
    bool exists(const std::string &at, struct stat &st) const {
        if (::fstatat(root_.fd(), at.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return true;
        // A name too long for the prefix has no whiteout.
        if (errno == ENOENT || errno == ENAMETOOLONG) return false;
        throw Error::from_errno(errno, "stat " + at.substr(0, 300));
    }
    bool is_opaque(size_t parent, const std::string &path) const {
        const std::string at = root_.path_of(parents_[parent], "fs") + path;
        if (aufs_)
            return ::faccessat(AT_FDCWD, (at + "/" + std::string(kAufsOpaque)).c_str(), F_OK,
                               AT_SYMLINK_NOFOLLOW) == 0;
        char value[2] = {};
        return ::lgetxattr(at.c_str(), "trusted.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y';
    }

    const LayerRoot &root_;
    bool aufs_;
    const LayerIds &parents_;
    const Call &call_;
    ChangeReporter &out_;
    UniqueFd upper_;
};

} // namespace

void stacked_changes(const LayerRoot &root, gantry_whiteout whiteout, const std::string &id,
                     const LayerIds &parents, const Call &call,
                     const std::function<void(const Change &)> &found) {
    ChangeReporter reporter(found);
    UpperWalk(root, whiteout, id, parents, call, reporter).run();
}

StrayWhiteout stray_whiteouts(gantry_whiteout whiteout) {
    if (whiteout == GANTRY_WHITEOUT_AUFS)
        return [](int dir, const std::string &name, const struct stat &) {
            if (!name.starts_with(kAufsPrefix)) return false;
            remove_tree(dir, name);
            return true;
        };
    return [](int dir, const std::string &name, const struct stat &st) {
        return is_whiteout(st) && ::unlinkat(dir, name.c_str(), 0) == 0;
    };
}

} // namespace gantry::storage
