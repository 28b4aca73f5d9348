#include "plugins/storage-vfs/driver.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

using storage::Fd;

bool can_reflink(int root) {
    const Fd from(::openat(root, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
    const Fd to(::openat(root, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
    return from && to && ::write(from.get(), "x", 1) == 1 && ::ioctl(to.get(), FICLONE, from.get()) == 0;
}

} // namespace

VfsDriver::VfsDriver(const std::string &root) : root_(root), quota_(root_) {
    caps_.quota = quota_.usable();
    caps_.whiteout = GANTRY_WHITEOUT_NONE;
    caps_.reflink = can_reflink(root_.fd());
}

void VfsDriver::create(const Call &call, const std::string &id, const LayerIds &parents,
                       uint64_t size_limit) {
    root_.make(id, [&](int dir) {
        if (size_limit != 0) quota_.limit(dir, id, size_limit);
        root_.make_tree(dir, id, {});
        if (parents.empty()) return;
        const Fd from = storage::open_directory(root_.open(parents.front()).get(), "fs");
        const Fd to = storage::open_directory(dir, "fs");
        if (size_limit != 0) // the copy of the parent does not count
            quota_.change(dir, size_limit + storage::measure_tree(from.get(), call).bytes);
        storage::copy_tree(from.get(), to.get(), call);
        storage::write_usage(dir, "base", storage::measure_tree(to.get(), call));
    });
}

std::vector<Mount> VfsDriver::mounts(const Call &, const std::string &id, const LayerIds &, bool read_only) {
    const Fd dir = root_.open(id);
    if (!read_only && root_.committed(id))
        throw Error(ErrorClass::kFailedPrecondition, "mount layer " + id + " for writing: it is committed");
    Mount mount;
    mount.type = "bind";
    mount.source = root_.path_of(id, "fs");
    mount.read_only = read_only;
    return {mount};
}

void VfsDriver::commit(const Call &call, const std::string &id, const LayerIds &, bool durable) {
    const auto before = root_.committed(id);
    if (before && !durable) return;
    root_.commit(id, before ? *before : usage(call, id), durable);
}

Usage VfsDriver::usage(const Call &call, const std::string &id) {
    if (const auto noted = root_.committed(id)) return *noted;
    const Fd dir = root_.open(id);
    const Usage all = storage::measure_tree(storage::open_directory(dir.get(), "fs").get(), call);
    const Usage base = storage::read_usage(dir.get(), "base").value_or(Usage{});
    // What was deleted of the parent cannot be told from what is new: never less than nothing.
    return {all.bytes > base.bytes ? all.bytes - base.bytes : 0,
            all.inodes > base.inodes ? all.inodes - base.inodes : 0};
}

} // namespace gantry
