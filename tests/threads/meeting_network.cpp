// A network driver of which every call that containers make meets the others inside.
#include "meeting.h"

namespace {

using namespace gantry;

class Network : public NetworkDriver {
  public:
    explicit Network(int64_t members) : meeting_(members) {}

    NetworkCaps caps(const Call &call) override {
        meeting_.attend(call);
        return {.ports = true, .multiple = true};
    }
    std::vector<Subnet> create_network(const Call &call, const NetworkSpec &spec) override {
        meeting_.attend(call);
        return {{"10.7.0.0/16", "10.7.0.1", spec.subnets.empty() ? "" : spec.subnets[0].range}};
    }
    void remove_network(const Call &call, const NetworkSpec &) override { meeting_.attend(call); }
    EndpointInfo attach(const Call &call, const EndpointSpec &spec) override {
        meeting_.attend(call);
        call.log(GANTRY_LOG_DEBUG, "attached");
        EndpointInfo info;
        info.ipv4 = "10.7.0.2";
        info.ipv4_prefix = 16;
        info.host_interface = spec.id.substr(0, 8);
        return info;
    }
    void detach(const Call &call, const EndpointSpec &) override { meeting_.attend(call); }
    std::vector<PortBinding> publish(const Call &call, const std::string &, const EndpointInfo &,
                                     const std::vector<PortBinding> &ports) override {
        meeting_.attend(call);
        auto settled = ports;
        for (PortBinding &port : settled)
            port.host_port = port.host_port_end = 4000;
        return settled;
    }
    void restore(const Call &, const std::vector<NetworkSpec> &,
                 const std::vector<EndpointState> &) override {}
    NetworkStats stats(const Call &call, const EndpointSpec &spec) override {
        meeting_.attend(call);
        plugin_host().count("stats", 1);
        plugin_host().gauge("last", static_cast<int64_t>(spec.id.size()));
        return {};
    }
    void clean(const Call &) override {}

  private:
    Meeting meeting_;
};

} // namespace

GANTRY_NETWORK_PLUGIN("meeting", "1", "calls meet inside", kMeetingOptions,
                      [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                          return std::make_unique<Network>(config.integer("members"));
                      });
