// Layers are directories below the root that the engine gives this driver:
//
//   <id>/fs          the layer's tree
//   <id>/work        overlayfs's own
//   <id>/committed   "bytes inodes"; there once the layer is read-only for ever
//
// A process may be killed at any instruction. So a layer is made beside as "new.N" and renamed when it is
// whole, and renamed to "gone.N" before it is taken apart; ids have no dot, and the next start sweeps both.
#pragma once

#include <gantry/fd.hpp>
#include <gantry/storage.hpp>

#include <atomic>
#include <optional>

class @CLASS@ : public gantry::StorageDriver {
  public:
    @CLASS@(std::string root, std::vector<std::string> mount_options);

    gantry::StorageCaps caps(const gantry::Call &call) override;
    void create(const gantry::Call &call, const std::string &id, const gantry::LayerIds &parents,
                uint64_t size_limit) override;
    std::vector<gantry::Mount> mounts(const gantry::Call &call, const std::string &id,
                                      const gantry::LayerIds &parents, bool read_only) override;
    void commit(const gantry::Call &call, const std::string &id, const gantry::LayerIds &parents,
                bool durable) override;
    void remove(const gantry::Call &call, const std::string &id) override;
    gantry::Usage usage(const gantry::Call &call, const std::string &id) override;
    std::vector<std::string> list(const gantry::Call &call) override;

  private:
    gantry::UniqueFd open(const std::string &id) const;
    std::string path(const std::string &id, const char *below) const;

    std::string root_;
    std::vector<std::string> mount_options_;
    gantry::UniqueFd dir_;
    std::atomic<unsigned> serial_{0};
};
