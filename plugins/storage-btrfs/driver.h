// Layers as btrfs subvolumes: root/<id>/fs is a snapshot of the parent's, so that nothing is copied,
// and read-only after the commit. A layer is complete in itself, hence unpacked on top of its parent:
// layers of one image are made one after the other (independent_layers would mean to merge them file by
// file afterwards, which costs more than unpacking in order). How many there are below costs nothing.
#pragma once

#include "plugins/storage-btrfs/quota.h"
#include "plugins/storage/layer_root.h"

#include <gantry/storage.hpp>

namespace gantry {

class BtrfsDriver final : public StorageDriver {
  public:
    struct Settings {
        bool quota = false; // turn quotas on where they are off
    };
    /// kUnsupported where the root is no btrfs.
    BtrfsDriver(const std::string &root, Settings settings, const Call &call);

    StorageCaps caps(const Call &) override { return caps_; }
    void create(const Call &, const std::string &id, const LayerIds &parents, uint64_t size_limit) override;
    std::vector<Mount> mounts(const Call &, const std::string &id, const LayerIds &parents,
                              bool read_only) override;
    void commit(const Call &, const std::string &id, const LayerIds &parents, bool durable) override;
    void remove(const Call &, const std::string &id) override;
    Usage usage(const Call &, const std::string &id) override;
    std::vector<std::string> list(const Call &) override { return root_.list(); }
    bool has_changes() const override { return true; }
    void changes(const Call &, const std::string &id, const LayerIds &parents,
                 const std::function<void(const Change &)> &found) override;

  private:
    storage::LayerRoot root_;
    btrfs::Quota quota_;
    StorageCaps caps_;
};

} // namespace gantry
