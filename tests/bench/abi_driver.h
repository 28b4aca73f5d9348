// The same driver linked in and behind the ABI: its calls do next to nothing, so what is measured is the way.
#pragma once

#include <gantry/storage.hpp>

class BenchDriver : public gantry::StorageDriver {
  public:
    gantry::StorageCaps caps(const gantry::Call &) override { return {}; }
    void create(const gantry::Call &, const std::string &, const gantry::LayerIds &, uint64_t) override {}
    std::vector<gantry::Mount> mounts(const gantry::Call &, const std::string &id,
                                      const gantry::LayerIds &parents, bool) override {
        return {{"overlay", id, "", parents, false}};
    }
    void commit(const gantry::Call &, const std::string &, const gantry::LayerIds &, bool) override {}
    void remove(const gantry::Call &, const std::string &) override {}
    gantry::Usage usage(const gantry::Call &, const std::string &id) override {
        return {id.size(), ++count_};
    }
    std::vector<std::string> list(const gantry::Call &) override { return {}; }

  private:
    uint64_t count_ = 0;
};
