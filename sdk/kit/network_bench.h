// A host of its own for one case: the case's process moves to a fresh network namespace, with containers in
// further ones, so neither this machine's network nor its routes are seen or touched. No ip(8) is needed.
#pragma once

#include "bench.h"

#include <gantry/convert.hpp>
#include <gantry/fd.hpp>

#include <optional>

namespace gantry::kit {

/// Moves this process to a network namespace with lo and a link "out0" that has 192.0.2.1/24.
const Subject &on_own_host(const Subject &subject);

UniqueFd new_network_namespace();
/// Runs `work` on a thread inside the namespace.
void inside(int netns, const std::function<void()> &work);

/// Link, state, addresses and the routes of the namespace that the thread is in, as lines.
std::string network_state();

struct Container {
    UniqueFd netns = new_network_namespace();
    EndpointState state;
};

class NetworkBench : public Bench {
  public:
    NetworkBench(const Subject &subject, const std::string &dir) : Bench(on_own_host(subject), dir) {
        network.id = std::string(60, 'a') + "0001";
        network.name = "kit";
    }

    NetworkSpec network;
    /// Asks for caps with `caps.struct_size` as it is.
    gantry_network_caps caps();
    gantry_status create_network(const RecordedCall &call, const NetworkSpec &spec, std::vector<Subnet> &out);
    gantry_status remove_network(const RecordedCall &call, const NetworkSpec &spec);
    gantry_status attach(const RecordedCall &call, const EndpointSpec &spec, EndpointInfo &out);
    gantry_status detach(const RecordedCall &call, const EndpointSpec &spec);
    gantry_status publish(const RecordedCall &call, const Container &container,
                          const std::vector<PortBinding> &ports, std::vector<PortBinding> &out);
    gantry_status restore(const RecordedCall &call, const std::vector<NetworkSpec> &networks,
                          const std::vector<const Container *> &containers);
    gantry_status stats(const RecordedCall &call, const EndpointSpec &spec, NetworkStats &out);
    gantry_status clean(const RecordedCall &call);

    // The same as steps of a case that must succeed.
    void make(); // the network; its settled subnets are in `network` then
    /// The n-th container, attached.
    Container join(int n);
    void part(const Container &container);
    void settle(Container &container, const std::vector<PortBinding> &ports);
    void recover(const std::vector<const Container *> &containers);
};

EndpointSpec endpoint_spec(const NetworkBench &bench, int n, int netns);
PortBinding published(uint16_t host, uint16_t container, const std::string &ip = "");

/// Listens in the namespace; one connection from this host to `address`:`port` comes through.
UniqueFd listen_in(int netns, uint16_t port);
bool reaches(const std::string &address, uint16_t port, const UniqueFd &server);

} // namespace gantry::kit
