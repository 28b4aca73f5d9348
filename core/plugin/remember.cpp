// restore() is told once, after create, and a network driver may keep in its memory what it and later calls
// settled. Its process may die at any time, so what was settled is kept here too and told again.
#include "core/plugin/process.h"

#include <map>

namespace gantry {
namespace {

class Remembering : public NetworkDriver {
  public:
    Remembering(std::shared_ptr<NetworkDriver> inner, const std::shared_ptr<PluginProcess> &process)
        : inner_(std::move(inner)), process_(process) {
        process->set_replay([memory = memory_, timeout = process->setup().hosting.timeout_of("restore")] {
            const std::lock_guard lock(memory->mutex);
            if (!memory->told) return std::string();
            wire::Encoder out;
            std::vector<int> fds;
            encode_request(out, "restore", Call::now_ns() + timeout, nullptr, fds);
            std::vector<NetworkSpec> networks;
            for (const auto &[id, network] : memory->networks)
                networks.push_back(network);
            std::vector<EndpointState> endpoints;
            for (const auto &[id, endpoint] : memory->endpoints)
                endpoints.push_back(endpoint);
            out(networks);
            out(endpoints);
            return std::move(out.out);
        });
    }

    NetworkCaps caps(const Call &call) override { return inner_->caps(call); }
    std::vector<Subnet> create_network(const Call &call, const NetworkSpec &spec) override {
        std::vector<Subnet> settled = inner_->create_network(call, spec);
        remember([&](Memory &m) {
            m.networks[spec.id] = spec;
            m.networks[spec.id].subnets = settled;
        });
        return settled;
    }
    void remove_network(const Call &call, const NetworkSpec &spec) override {
        inner_->remove_network(call, spec);
        remember([&](Memory &m) { m.networks.erase(spec.id); });
    }
    EndpointInfo attach(const Call &call, const EndpointSpec &spec) override {
        EndpointInfo info = inner_->attach(call, spec);
        remember([&](Memory &m) {
            m.endpoints[spec.id] = {spec, info, {}};
            m.endpoints[spec.id].spec.netns_fd = -1;
        });
        return info;
    }
    void detach(const Call &call, const EndpointSpec &spec) override {
        inner_->detach(call, spec);
        remember([&](Memory &m) { m.endpoints.erase(spec.id); });
    }
    std::vector<PortBinding> publish(const Call &call, const std::string &endpoint_id,
                                     const EndpointInfo &info,
                                     const std::vector<PortBinding> &ports) override {
        std::vector<PortBinding> settled = inner_->publish(call, endpoint_id, info, ports);
        if (settled.size() != ports.size())
            throw Error(ErrorClass::kInternal, "plugin " + process_->setup().record->plugin +
                                                   ": settled another number of ports than asked for");
        remember([&](Memory &m) {
            const auto found = m.endpoints.find(endpoint_id);
            if (found != m.endpoints.end()) found->second.ports = settled;
        });
        return settled;
    }
    void restore(const Call &call, const std::vector<NetworkSpec> &networks,
                 const std::vector<EndpointState> &endpoints) override {
        inner_->restore(call, networks, endpoints);
        remember([&](Memory &m) {
            m.networks.clear();
            m.endpoints.clear();
            for (const NetworkSpec &n : networks)
                m.networks[n.id] = n;
            for (const EndpointState &e : endpoints) {
                m.endpoints[e.spec.id] = e;
                m.endpoints[e.spec.id].spec.netns_fd = -1;
            }
        });
    }
    NetworkStats stats(const Call &call, const EndpointSpec &spec) override {
        return inner_->stats(call, spec);
    }
    void clean(const Call &call) override {
        inner_->clean(call);
        remember([](Memory &m) {
            m.networks.clear();
            m.endpoints.clear();
        });
    }

  private:
    struct Memory {
        std::mutex mutex;
        bool told = false; // there is something to say
        std::map<std::string, NetworkSpec> networks;
        std::map<std::string, EndpointState> endpoints;
    };
    template <typename F> void remember(F &&change) {
        const std::lock_guard lock(memory_->mutex);
        memory_->told = true;
        change(*memory_);
    }

    const std::shared_ptr<NetworkDriver> inner_;
    const std::shared_ptr<PluginProcess> process_;
    const std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
};

} // namespace

std::shared_ptr<NetworkDriver> make_remembering(std::shared_ptr<NetworkDriver> driver,
                                                const std::shared_ptr<PluginProcess> &process) {
    return std::make_shared<Remembering>(std::move(driver), process);
}

} // namespace gantry
