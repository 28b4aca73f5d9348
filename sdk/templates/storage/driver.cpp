#include "driver.h"

#include <gantry/directory.hpp>

#include <cinttypes>
#include <cstdio>
#include <set>
#include <sys/stat.h>

using gantry::Call;
using gantry::Error;
using gantry::ErrorClass;
using gantry::UniqueFd;

namespace {

constexpr uint32_t kMaxParents = 499; // overlayfs stacks 500; a read-only view spends one on the layer

bool is_id(const std::string &id) {
    return !id.empty() && id.size() <= 32 &&
           id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") == std::string::npos;
}

void check_id(const std::string &id) { // it becomes a path
    if (!is_id(id))
        throw Error(ErrorClass::kInvalidArgument, "use layer '" + id.substr(0, 64) + "': not a layer id");
}

void check(int result, const std::string &doing) {
    if (result < 0) throw Error::from_errno(errno, doing);
}

std::optional<gantry::Usage> committed(int layer) {
    const UniqueFd file(::openat(layer, "committed", O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!file && errno == ENOENT) return {};
    char text[64] = {};
    gantry::Usage usage;
    if (!file || ::read(file.get(), text, sizeof text - 1) <= 0 ||
        std::sscanf(text, "%" SCNu64 " %" SCNu64, &usage.bytes, &usage.inodes) != 2)
        throw Error(ErrorClass::kDataLoss, "read mark of a committed layer: it is not as it was written");
    return usage;
}

/// Whiteouts hide nothing in a layer without parents, and would be seen: `strip` removes them.
class Measure {
  public:
    Measure(const Call &call, bool strip) : call_(call), strip_(strip) {}

    /// A container nests directories deeper than descriptors or stack reach: one directory is open at a
    /// time, and ".." leads back.
    gantry::Usage run(UniqueFd here) {
        struct Level {
            ino_t inode;
            std::vector<std::string> left;
        };
        std::vector<Level> levels;
        const auto enter = [&] { levels.push_back({inode_of(here.get()), visit(here.get())}); };
        for (enter();;) {
            call_.check("measure layer");
            auto &left = levels.back().left;
            if (!left.empty()) {
                UniqueFd below(::openat(here.get(), left.back().c_str(),
                                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
                left.pop_back();
                if (!below && errno == ENOENT) continue; // an active layer changes meanwhile
                check(below.get(), "measure layer");
                here = std::move(below);
                enter();
                continue;
            }
            levels.pop_back();
            if (levels.empty()) return usage_;
            here = gantry::open_directory(here.get(), "..");
            if (inode_of(here.get()) != levels.back().inode)
                throw Error(ErrorClass::kUnavailable, "measure layer: directories were moved meanwhile");
        }
    }

  private:
    static ino_t inode_of(int dir) {
        struct stat st {};
        check(::fstat(dir, &st), "measure layer");
        return st.st_ino;
    }
    std::vector<std::string> visit(int dir) {
        std::vector<std::string> directories;
        for (const std::string &name : gantry::names_in(dir, "a layer")) {
            struct stat st {};
            if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
            if (strip_ && S_ISCHR(st.st_mode) && st.st_rdev == 0) {
                check(::unlinkat(dir, name.c_str(), 0), "remove a whiteout of nothing");
                continue;
            }
            if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !seen_.insert(st.st_ino).second) continue;
            usage_.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
            ++usage_.inodes;
            if (S_ISDIR(st.st_mode)) directories.push_back(name);
        }
        return directories;
    }

    const Call &call_;
    bool strip_;
    gantry::Usage usage_;
    std::set<ino_t> seen_;
};

} // namespace

@CLASS@::@CLASS@(std::string root, std::vector<std::string> mount_options)
    : root_(std::move(root)), mount_options_(std::move(mount_options)),
      dir_(gantry::open_directory(AT_FDCWD, root_)) {
    for (const std::string &name : gantry::names_in(dir_.get(), root_))
        if (name.starts_with("new.") || name.starts_with("gone.")) gantry::remove_tree(dir_.get(), name);
}

gantry::StorageCaps @CLASS@::caps(const Call &) {
    gantry::StorageCaps caps;
    caps.whiteout = GANTRY_WHITEOUT_OVERLAY;
    caps.independent_layers = true; // a layer is unpacked without, and in parallel to, its parents
    caps.max_parents = kMaxParents;
    return caps;
}

UniqueFd @CLASS@::open(const std::string &id) const {
    check_id(id);
    UniqueFd layer(::openat(dir_.get(), id.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!layer) throw Error::from_errno(errno, "use layer " + id);
    return layer;
}

std::string @CLASS@::path(const std::string &id, const char *below) const {
    check_id(id);
    return root_ + "/" + id + "/" + below;
}

void @CLASS@::create(const Call &call, const std::string &id, const gantry::LayerIds &parents,
                     uint64_t size_limit) {
    const std::string doing = "make layer " + id.substr(0, 32);
    check_id(id);
    call.check(doing);
    if (size_limit != 0)
        throw Error(ErrorClass::kUnsupported, doing + ": this driver cannot limit the size of a layer");
    if (::faccessat(dir_.get(), id.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        throw Error(ErrorClass::kAlreadyExists, doing + ": it is there already");
    const std::string name = "new." + std::to_string(++serial_);
    check(::mkdirat(dir_.get(), name.c_str(), 0700), doing);
    try {
        const UniqueFd layer = gantry::open_directory(dir_.get(), name);
        check(::mkdirat(layer.get(), "work", 0700), doing);
        check(::mkdirat(layer.get(), "fs", 0755), doing);
        const UniqueFd fs = gantry::open_directory(layer.get(), "fs");
        if (parents.empty()) {
            check(::fchmod(fs.get(), 0755), doing); // whatever the umask is
        } else { // the root of a container looks like its image's
            struct stat st {};
            check(::fstat(gantry::open_directory(open(parents.front()).get(), "fs").get(), &st), doing);
            check(::fchown(fs.get(), st.st_uid, st.st_gid), doing);
            check(::fchmod(fs.get(), st.st_mode & 07777), doing);
            const timespec times[2] = {st.st_atim, st.st_mtim};
            check(::futimens(fs.get(), times), doing);
        }
        check(::renameat2(dir_.get(), name.c_str(), dir_.get(), id.c_str(), RENAME_NOREPLACE), doing);
    } catch (...) {
        gantry::remove_tree(dir_.get(), name);
        throw;
    }
}

std::vector<gantry::Mount> @CLASS@::mounts(const Call &, const std::string &id,
                                           const gantry::LayerIds &parents, bool read_only) {
    if (committed(open(id).get()) && !read_only)
        throw Error(ErrorClass::kFailedPrecondition, "mount layer " + id + " for writing: it is committed");
    if (parents.size() > kMaxParents)
        throw Error(ErrorClass::kUnsupported, "mount layer " + id + ": overlayfs stacks at most 500 layers");
    gantry::Mount mount;
    mount.read_only = read_only;
    if (parents.empty()) {
        mount.type = "bind";
        mount.source = path(id, "fs");
        return {mount};
    }
    mount.type = mount.source = "overlay";
    if (read_only) mount.options.push_back("lowerdir+=" + path(id, "fs"));
    for (const std::string &parent : parents)
        mount.options.push_back("lowerdir+=" + path(parent, "fs"));
    if (!read_only) {
        mount.options.push_back("upperdir=" + path(id, "fs"));
        mount.options.push_back("workdir=" + path(id, "work"));
    }
    // Layers are trees of their own, which redirects and metadata-only copies would end.
    for (const char *feature : {"index", "redirect_dir", "metacopy"})
        if (::access((std::string("/sys/module/overlay/parameters/") + feature).c_str(), F_OK) == 0)
            mount.options.push_back(std::string(feature) + "=off");
    mount.options.insert(mount.options.end(), mount_options_.begin(), mount_options_.end());
    return {mount};
}

void @CLASS@::commit(const Call &call, const std::string &id, const gantry::LayerIds &parents, bool durable) {
    const std::string doing = "commit layer " + id.substr(0, 32);
    const UniqueFd layer = open(id);
    if (!committed(layer.get())) {
        const gantry::Usage usage =
            Measure(call, parents.empty()).run(gantry::open_directory(layer.get(), "fs"));
        const std::string text = std::to_string(usage.bytes) + " " + std::to_string(usage.inodes) + "\n";
        const UniqueFd file(
            ::openat(layer.get(), "committing", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        check(file.get(), doing);
        check(static_cast<int>(::write(file.get(), text.data(), text.size())), doing);
        if (durable) check(::fsync(file.get()), doing);
        check(::renameat(layer.get(), "committing", layer.get(), "committed"), doing);
    }
    if (durable) check(::syncfs(layer.get()), doing);
}

void @CLASS@::remove(const Call &, const std::string &id) {
    check_id(id);
    const std::string name = "gone." + std::to_string(++serial_);
    if (::renameat(dir_.get(), id.c_str(), dir_.get(), name.c_str()) != 0) {
        if (errno == ENOENT) return;
        throw Error::from_errno(errno, "remove layer " + id);
    }
    gantry::remove_tree(dir_.get(), name);
}

gantry::Usage @CLASS@::usage(const Call &call, const std::string &id) {
    const UniqueFd layer = open(id);
    if (const auto noted = committed(layer.get())) return *noted;
    return Measure(call, false).run(gantry::open_directory(layer.get(), "fs"));
}

std::vector<std::string> @CLASS@::list(const Call &) {
    std::vector<std::string> ids = gantry::names_in(dir_.get(), root_);
    std::erase_if(ids, [](const std::string &name) { return !is_id(name); });
    return ids;
}
