// Every virtual function throws what the option `throws` names.
#include <gantry/plugin.hpp>

#include <new>

namespace {

struct Custom {
    int value = 7;
};

class Thrower {
  public:
    explicit Thrower(std::string what) : what_(std::move(what)) {}
    [[noreturn]] void go() const {
        if (what_ == "int") throw 42;
        if (what_ == "memory") throw std::bad_alloc();
        if (what_ == "custom") throw Custom{};
        throw gantry::Error(gantry::ErrorClass::kDataLoss, "do it: on purpose", "do not", 5);
    }

  private:
    std::string what_;
};

#define UNLESS_CREATE                                                                                        \
    const std::string what = config.string("throws");                                                        \
    if (config.boolean("in_create")) Thrower(what).go();

const gantry_option kOptions[] = {gantry::option_string("throws", "\"int\"", "what is thrown"),
                                  gantry::option_bool("in_create", "false", "throw there")};

} // namespace

#if defined(HOSTILE_STORAGE)
class Hostile : public gantry::StorageDriver {
  public:
    explicit Hostile(std::string what) : t_(std::move(what)) {}
    gantry::StorageCaps caps(const gantry::Call &) override { t_.go(); }
    void create(const gantry::Call &, const std::string &, const gantry::LayerIds &, uint64_t) override {
        t_.go();
    }
    std::vector<gantry::Mount> mounts(const gantry::Call &, const std::string &, const gantry::LayerIds &,
                                      bool) override {
        t_.go();
    }
    void commit(const gantry::Call &, const std::string &, const gantry::LayerIds &, bool) override {
        t_.go();
    }
    void remove(const gantry::Call &, const std::string &) override { t_.go(); }
    gantry::Usage usage(const gantry::Call &, const std::string &) override { t_.go(); }
    std::vector<std::string> list(const gantry::Call &) override { t_.go(); }
    void changes(const gantry::Call &, const std::string &, const gantry::LayerIds &,
                 const std::function<void(const gantry::Change &)> &) override {
        t_.go();
    }

  private:
    Thrower t_;
};
GANTRY_STORAGE_PLUGIN_WITH_DIFF("hostile", "1", "throws", kOptions,
                                [](const gantry::Environment &, const gantry::Config &config,
                                   const gantry::Call &) {
                                    UNLESS_CREATE
                                    return std::make_unique<Hostile>(what);
                                });
#elif defined(HOSTILE_NETWORK)
using namespace gantry;
class Hostile : public NetworkDriver {
  public:
    explicit Hostile(std::string what) : t_(std::move(what)) {}
    NetworkCaps caps(const Call &) override { t_.go(); }
    std::vector<Subnet> create_network(const Call &, const NetworkSpec &) override { t_.go(); }
    void remove_network(const Call &, const NetworkSpec &) override { t_.go(); }
    EndpointInfo attach(const Call &, const EndpointSpec &) override { t_.go(); }
    void detach(const Call &, const EndpointSpec &) override { t_.go(); }
    std::vector<PortBinding> publish(const Call &, const std::string &, const EndpointInfo &,
                                     const std::vector<PortBinding> &) override {
        t_.go();
    }
    void restore(const Call &, const std::vector<NetworkSpec> &,
                 const std::vector<EndpointState> &) override {
        t_.go();
    }
    NetworkStats stats(const Call &, const EndpointSpec &) override { t_.go(); }
    void clean(const Call &) override { t_.go(); }

  private:
    Thrower t_;
};
GANTRY_NETWORK_PLUGIN("hostile", "1", "throws", kOptions,
                      [](const Environment &, const Config &config, const Call &) {
                          UNLESS_CREATE
                          return std::make_unique<Hostile>(what);
                      });
#else
using namespace gantry;
class Hostile : public RegistryDriver {
  public:
    explicit Hostile(std::string what) : t_(std::move(what)) {}
    bool handles(const Call &, const RegistryReference &) override { t_.go(); }
    Descriptor resolve(const Call &, const RegistryReference &, const std::optional<Credential> &,
                       std::string *) override {
        t_.go();
    }
    void fetch(const Call &, const Fetch &, const BlobSink &) override { t_.go(); }
    void push(const Call &, const Push &, const BlobSource &) override { t_.go(); }
    std::vector<std::string> tags(const Call &, const RegistryReference &,
                                  const std::optional<Credential> &) override {
        t_.go();
    }
    std::vector<SearchResult> search(const Call &, const std::string &, const std::string &, uint32_t,
                                     const std::optional<Credential> &) override {
        t_.go();
    }
    std::vector<EndpointLine> explain(const Call &, const RegistryReference &) override { t_.go(); }
    std::string login(const Call &, const Credential &) override { t_.go(); }
    std::string referrers(const Call &, const RegistryReference &, const std::string &,
                          const std::optional<Credential> &) override {
        t_.go();
    }
    std::vector<EndpointLine> status(const Call &) override { t_.go(); }
    std::vector<EndpointLine> test(const Call &, const RegistryReference &,
                                   const std::optional<Credential> &) override {
        t_.go();
    }

  private:
    Thrower t_;
};
GANTRY_REGISTRY_PLUGIN("hostile", "1", "throws", kOptions,
                       [](const Environment &, const Config &config, const Call &) {
                           UNLESS_CREATE
                           return std::make_unique<Hostile>(what);
                       });
#endif
