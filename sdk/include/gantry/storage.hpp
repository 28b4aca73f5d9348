// The storage driver as a C++ class. A plugin derives from StorageDriver; the core talks to every
// driver, loaded or linked in, through the same class. Semantics of each call: <gantry/storage.h>.
#pragma once

#include <gantry/call.hpp>
#include <gantry/storage.h>

#include <functional>
#include <string>
#include <vector>

namespace gantry {

struct Mount {
    std::string type; // "overlay", "bind", ...
    std::string source;
    std::string target; // relative to the layer's root, "" for the root
    std::vector<std::string> options;
    bool read_only = false;
};

struct StorageCaps {
    gantry_whiteout whiteout = GANTRY_WHITEOUT_NONE;
    bool independent_layers = false;
    bool idmapped = false;
    bool quota = false;
    bool reflink = false;
    uint32_t max_parents = 0;
};

struct Usage {
    uint64_t bytes = 0;
    uint64_t inodes = 0;
};

struct Change {
    gantry_change_kind kind;
    std::string path;
};

using LayerIds = std::vector<std::string>; // nearest parent first

class StorageDriver {
  public:
    virtual ~StorageDriver() = default;
    virtual StorageCaps caps(const Call &call) = 0;
    virtual void create(const Call &call, const std::string &id, const LayerIds &parents,
                        uint64_t size_limit) = 0;
    virtual std::vector<Mount> mounts(const Call &call, const std::string &id, const LayerIds &parents,
                                      bool read_only) = 0;
    virtual void commit(const Call &call, const std::string &id, const LayerIds &parents, bool durable) = 0;
    virtual void remove(const Call &call, const std::string &id) = 0;
    virtual Usage usage(const Call &call, const std::string &id) = 0;
    virtual std::vector<std::string> list(const Call &call) = 0;

    /// Ability gantry.storage.diff/1. A driver without it leaves both alone.
    virtual bool has_changes() const { return false; }
    virtual void changes(const Call &, const std::string &, const LayerIds &,
                         const std::function<void(const Change &)> &) {
        throw Error(ErrorClass::kUnsupported, "list changes: this driver has no native diff");
    }
};

} // namespace gantry
