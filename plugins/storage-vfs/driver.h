// Layers as complete copies of their parents: works on every file system, costs a copy a layer (a
// cheap one where the file system has reflinks). root/<id>/fs is the tree; root/<id>/base notes what
// the copy brought, so that usage excludes the parents.
#pragma once

#include "plugins/storage/quota.h"

#include <gantry/storage.hpp>

namespace gantry {

class VfsDriver final : public StorageDriver {
  public:
    explicit VfsDriver(const std::string &root);

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

  private:
    storage::LayerRoot root_;
    storage::ProjectQuota quota_;
    StorageCaps caps_;
};

} // namespace gantry
