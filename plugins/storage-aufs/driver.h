// Layers as branches of aufs, for kernels that carry it: root/<id>/fs holds what the layer itself brings,
// deletions as ".wh.NAME" files and opaque directories as ".wh..wh..opq", so that a layer's tar is its
// directory. No work directory: aufs keeps its own files in the writable branch.
#pragma once

#include "plugins/storage/quota.h"

#include <gantry/storage.hpp>

namespace gantry {

class AufsDriver final : public StorageDriver {
  public:
    struct Settings {
        bool load_module = false; // ask the kernel for the module when aufs is not there yet
        bool check_kernel = true; // false: layers and mounts can be made without aufs, nothing mounted
        std::vector<std::string> mount_options;
    };
    /// kUnsupported when the kernel has no aufs or cannot stack on this root.
    AufsDriver(const std::string &root, Settings settings);
    /// What can be told without touching anything; throws kUnsupported with the obstacle alone.
    static void judge(const std::string &root, bool load_module);

    StorageCaps caps(const Call &) override { return caps_; }
    void create(const Call &, const std::string &id, const LayerIds &parents, uint64_t size_limit) override;
    std::vector<Mount> mounts(const Call &, const std::string &id, const LayerIds &parents,
                              bool read_only) override;
    void commit(const Call &, const std::string &id, const LayerIds &parents, bool durable) override;
    void remove(const Call &, const std::string &id) override {
        quota_.release(id);
        root_.remove(id);
    }
    Usage usage(const Call &, const std::string &id) override;
    std::vector<std::string> list(const Call &) override { return root_.list(); }
    bool has_changes() const override { return true; }
    void changes(const Call &, const std::string &id, const LayerIds &parents,
                 const std::function<void(const Change &)> &found) override;

  private:
    void probe() const;

    storage::LayerRoot root_;
    storage::ProjectQuota quota_;
    Settings settings_;
    StorageCaps caps_;
};

} // namespace gantry
