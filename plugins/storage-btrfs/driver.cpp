#include "plugins/storage-btrfs/driver.h"

#include "plugins/storage-btrfs/changes.h"
#include "plugins/storage-btrfs/subvolume.h"

#include <atomic>
#include <fcntl.h>
#include <unistd.h>

namespace gantry {
namespace {

using storage::Fd;

const std::string &checked(const std::string &root) {
    btrfs::check_filesystem(root);
    return root;
}

Fd open_fs(const storage::LayerRoot &root, const std::string &id) {
    return storage::open_directory(root.open(id).get(), "fs");
}

// An active layer as it is at one moment: the tree search sees what has reached the file system's trees,
// and taking a snapshot brings everything written so far there, of this one subvolume. Swept at start
// after a kill.
class Moment {
  public:
    Moment(const storage::LayerRoot &root, const std::string &id, int fs) : root_(root) {
        static std::atomic<unsigned> counter{0};
        name_ = ".view-" + id + "-" + std::to_string(::getpid()) + "-" + std::to_string(++counter);
        btrfs::make_snapshot(fs, root.fd(), name_, true);
        try {
            tree = storage::open_directory(root.fd(), name_);
        } catch (...) {
            end();
            throw;
        }
    }
    ~Moment() {
        tree.reset();
        end();
    }
    Moment(const Moment &) = delete;
    Moment &operator=(const Moment &) = delete;
    Fd tree;

  private:
    void end() noexcept {
        try {
            btrfs::discard(root_.fd(), name_);
        } catch (const std::exception &) {
            // swept at the next start
        }
    }
    const storage::LayerRoot &root_;
    std::string name_;
};

// Of a subvolume without a source everything is its own, even what shares its first transaction.
uint64_t own_since(const btrfs::SubvolumeInfo &info) {
    return info.origin.find_first_not_of('\0') == std::string::npos ? 0 : info.made_at;
}

} // namespace

BtrfsDriver::BtrfsDriver(const std::string &root, Settings settings, const Call &call)
    : root_(checked(root), btrfs::discard) {
    quota_.open(root_.fd(), settings.quota, call);
    caps_.whiteout = GANTRY_WHITEOUT_NONE;
    caps_.quota = quota_.on();
    caps_.reflink = true;
}

void BtrfsDriver::create(const Call &, const std::string &id, const LayerIds &parents, uint64_t size_limit) {
    if (size_limit != 0 && !quota_.on())
        throw Error(ErrorClass::kUnsupported,
                    "make layer " + id + ": quotas of the btrfs file system are off",
                    "set quota = true in the table [storage.btrfs]");
    root_.make(id, [&](int dir) {
        if (parents.empty())
            btrfs::make_subvolume(dir, "fs");
        else
            btrfs::make_snapshot(open_fs(root_, parents.front()).get(), dir, "fs", false);
        if (size_limit != 0) quota_.limit(root_.fd(), storage::open_directory(dir, "fs").get(), size_limit);
    });
}

std::vector<Mount> BtrfsDriver::mounts(const Call &, const std::string &id, const LayerIds &,
                                       bool read_only) {
    const Fd dir = root_.open(id);
    if (!read_only && root_.committed(id))
        throw Error(ErrorClass::kFailedPrecondition, "mount layer " + id + " for writing: it is committed");
    Mount mount;
    mount.type = "bind";
    mount.source = root_.path_of(id, "fs");
    mount.read_only = read_only;
    return {mount};
}

void BtrfsDriver::commit(const Call &call, const std::string &id, const LayerIds &, bool durable) {
    const auto before = root_.committed(id);
    if (before && !durable) return;
    if (!before) {
        const Fd fs = open_fs(root_, id);
        btrfs::flatten_nested(fs.get(), call);
        btrfs::set_read_only(fs.get(), true);
    }
    root_.commit(id, before ? *before : usage(call, id), durable);
}

void BtrfsDriver::remove(const Call &call, const std::string &id) {
    if (quota_.on()) {
        try {
            quota_.forget(root_.fd(), btrfs::describe(open_fs(root_, id).get()).id, call);
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kInvalidArgument) throw;
            // No whole layer any more; a group without a subvolume is released at the next start.
        }
    }
    root_.remove(id);
}

Usage BtrfsDriver::usage(const Call &call, const std::string &id) {
    call.check("measure layer " + id);
    if (const auto noted = root_.committed(id)) return *noted;
    const Fd fs = open_fs(root_, id);
    const uint64_t since = own_since(btrfs::describe(fs.get()));
    const Moment now(root_, id, fs.get());
    return btrfs::own_usage(now.tree.get(), since, call);
}

void BtrfsDriver::changes(const Call &call, const std::string &id, const LayerIds &parents,
                          const std::function<void(const Change &)> &found) {
    const bool committed = root_.committed(id).has_value();
    const Fd fs = open_fs(root_, id);
    const btrfs::SubvolumeInfo info = btrfs::describe(fs.get());
    std::optional<Moment> now;
    if (!committed) now.emplace(root_, id, fs.get());
    btrfs::ChangeInput in;
    in.upper = committed ? fs.get() : now->tree.get();
    in.live = committed ? -1 : fs.get();
    Fd lower;
    btrfs::Touched touched;
    if (!parents.empty()) {
        lower = open_fs(root_, parents.front());
        in.lower = lower.get();
        // A layer that is no snapshot of this parent is compared as a whole.
        if (btrfs::describe(lower.get()).uuid == info.origin) {
            touched = btrfs::find_touched(in.upper, info.made_at, call);
            in.touched = &touched;
        }
    }
    btrfs::compare(in, call, found);
}

} // namespace gantry
