// Each container gets a leased address on a veth whose other end is in its own namespace: a link that leads nowhere
// and, unlike "dummy", is part of every kernel that runs containers. (A bridge without ports would lose its carrier a
// moment after it came up.) It is made inside the container's namespace by ip(8), which the engine runs within the deadline of the call; nothing is made on the host, so
// nothing can be left there. Leases live in the engine's database (<gantry/lease.hpp>).
#pragma once

#include <gantry/lease.hpp>
#include <gantry/network.hpp>

class @CLASS@ : public gantry::NetworkDriver {
  public:
    explicit @CLASS@(std::string subnet);

    gantry::NetworkCaps caps(const gantry::Call &call) override;
    std::vector<gantry::Subnet> create_network(const gantry::Call &call,
                                               const gantry::NetworkSpec &spec) override;
    void remove_network(const gantry::Call &call, const gantry::NetworkSpec &spec) override;
    gantry::EndpointInfo attach(const gantry::Call &call, const gantry::EndpointSpec &spec) override;
    void detach(const gantry::Call &call, const gantry::EndpointSpec &spec) override;
    std::vector<gantry::PortBinding> publish(const gantry::Call &call, const std::string &endpoint_id,
                                             const gantry::EndpointInfo &info,
                                             const std::vector<gantry::PortBinding> &ports) override;
    void restore(const gantry::Call &call, const std::vector<gantry::NetworkSpec> &networks,
                 const std::vector<gantry::EndpointState> &endpoints) override;
    gantry::NetworkStats stats(const gantry::Call &call, const gantry::EndpointSpec &spec) override;
    void clean(const gantry::Call &call) override;

  private:
    std::string subnet_;
    gantry::Leases4 leases_;
};
