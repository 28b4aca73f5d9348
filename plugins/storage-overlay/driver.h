// Layers as directories stacked by overlayfs: root/<id>/fs holds what the layer itself brings,
// root/<id>/work is overlayfs' own. Nothing is copied at create or commit.
#pragma once

#include "plugins/storage/quota.h"

#include <gantry/storage.hpp>

namespace gantry {

class OverlayDriver final : public StorageDriver {
  public:
    struct Settings {
        bool volatile_mounts = false;
        std::vector<std::string> mount_options;
    };
    /// Probes that overlayfs works on this root; kUnsupported when it does not.
    OverlayDriver(const std::string &root, Settings settings);

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
    storage::LayerRoot root_;
    storage::ProjectQuota quota_;
    Settings settings_;
    StorageCaps caps_;
    std::vector<std::string> quiet_options_; // features off that would put redirects into layers
};

} // namespace gantry
