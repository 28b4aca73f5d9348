// The smallest registry plugin: it wants one registry and knows nothing there.
#include <gantry/plugin.hpp>

class Nothing : public gantry::RegistryDriver {
  public:
    explicit Nothing(std::string host) : host_(std::move(host)) {}
    bool handles(const gantry::Call &, const gantry::RegistryReference &ref) override {
        return ref.registry == host_;
    }
    gantry::Descriptor resolve(const gantry::Call &, const gantry::RegistryReference &ref,
                               const std::optional<gantry::Credential> &, std::string *) override {
        throw gantry::Error(gantry::ErrorClass::kNotFound, "resolve " + ref.repository + ": nothing is here");
    }
    void fetch(const gantry::Call &, const gantry::Fetch &, const gantry::BlobSink &) override {
        throw gantry::Error(gantry::ErrorClass::kNotFound, "fetch blob: nothing is here");
    }
    std::vector<gantry::EndpointLine> explain(const gantry::Call &,
                                              const gantry::RegistryReference &) override {
        return {};
    }

  private:
    std::string host_;
};

static const gantry_option kOptions[] = {
    gantry::option_string("host", "\"nothing.example\"", "the registry")};

GANTRY_PLUGIN_INIT([](const gantry::Host &host, const gantry::Call &) {
    host.log(GANTRY_LOG_DEBUG, "hello");
});
GANTRY_REGISTRY_PLUGIN("sample", "0.1", "knows nothing", kOptions,
                       [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                           return std::make_unique<Nothing>(config.string("host"));
                       });
