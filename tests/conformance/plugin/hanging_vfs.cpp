// The real vfs driver, except that create hangs, deaf to everything, while the file RUN/hang is there: for
// trials of a whole engine.
#include "plugins/storage-vfs/driver.h"

#include <gantry/plugin.hpp>

#include <unistd.h>

class HangingVfs : public gantry::StorageDriver {
  public:
    HangingVfs(const std::string &root, std::string hang) : inner_(root), hang_(std::move(hang)) {}

    gantry::StorageCaps caps(const gantry::Call &c) override { return inner_.caps(c); }
    void create(const gantry::Call &c, const std::string &id, const gantry::LayerIds &parents,
                uint64_t size) override {
        while (::access(hang_.c_str(), F_OK) == 0)
            ::usleep(5000);
        inner_.create(c, id, parents, size);
    }
    std::vector<gantry::Mount> mounts(const gantry::Call &c, const std::string &id,
                                      const gantry::LayerIds &parents, bool read_only) override {
        return inner_.mounts(c, id, parents, read_only);
    }
    void commit(const gantry::Call &c, const std::string &id, const gantry::LayerIds &parents,
                bool durable) override {
        inner_.commit(c, id, parents, durable);
    }
    void remove(const gantry::Call &c, const std::string &id) override { inner_.remove(c, id); }
    gantry::Usage usage(const gantry::Call &c, const std::string &id) override { return inner_.usage(c, id); }
    std::vector<std::string> list(const gantry::Call &c) override { return inner_.list(c); }

  private:
    gantry::VfsDriver inner_;
    std::string hang_;
};

GANTRY_STORAGE_PLUGIN("hanging", "1", "vfs that can be told to hang", gantry::kNoOptions,
                      [](const gantry::Environment &env, const gantry::Config &, const gantry::Call &) {
                          return std::make_unique<HangingVfs>(env.root, env.run + "/hang");
                      });
