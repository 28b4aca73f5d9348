// The raw slots of a storage driver, one call each with its own recorder, and the trees it shows.
#pragma once

#include "bench.h"

#include <gantry/fd.hpp>
#include <gantry/storage.hpp>

namespace gantry::kit {

class StorageBench : public Bench {
  public:
    StorageBench(const Subject &subject, const std::string &dir) : Bench(subject, dir) {}
    /// Removes all layers: nobody else knows how (subvolumes, say).
    ~StorageBench();

    gantry_storage_caps caps();
    gantry_status create(const RecordedCall &call, const std::string &id, const LayerIds &parents = {},
                         uint64_t limit = 0);
    gantry_status mounts(const RecordedCall &call, const std::string &id, const LayerIds &parents,
                         bool read_only, std::vector<Mount> &out);
    gantry_status commit(const RecordedCall &call, const std::string &id, const LayerIds &parents = {},
                         bool durable = false);
    gantry_status remove(const RecordedCall &call, const std::string &id);
    gantry_status usage(const RecordedCall &call, const std::string &id, Usage &out);
    std::set<std::string> list();
    /// Native changes; unsupported without the ability.
    gantry_status changes(const RecordedCall &call, const std::string &id, const LayerIds &parents,
                          std::vector<Change> &out);
    bool has_changes() const;

    // The same as steps of a case that must succeed.
    void make(const std::string &id, const LayerIds &parents = {});
    void seal(const std::string &id, const LayerIds &parents = {});
    void drop(const std::string &id);
    /// The layer's tree, detached from every table of mounts.
    UniqueFd view(const std::string &id, const LayerIds &parents, bool read_only);
    /// make, work on the tree, seal.
    void layer(const std::string &id, const LayerIds &parents, const std::function<void(int)> &work);
    std::vector<Change> changes_of(const std::string &id, const LayerIds &parents);

    /// Everything below the driver's root, by path.
    std::set<std::string> files() const;
};

void write_file(int root, const std::string &path, const std::string &content);
std::string read_file_at(int root, const std::string &path); // "(absent)" when it is not there

} // namespace gantry::kit
