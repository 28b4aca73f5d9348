// Each container is a machine of its own on the parent's network: a macvlan link in bridge mode with a MAC
// and a leased address, made by one rtnetlink message directly inside the container's namespace. Nothing is
// made on the host, so nothing can be left there; ports need not be published. The kernel's rule: the host
// itself and its own macvlan links do not see each other.
#pragma once

#include <gantry/lease.hpp>
#include <gantry/network.hpp>

class MacvlanDriver : public gantry::NetworkDriver {
  public:
    struct Settings {
        std::string parent, subnet, gateway, range;
    };
    explicit MacvlanDriver(Settings settings);

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
    gantry::Leases4::Network settle(const gantry::NetworkSpec &spec) const;

    Settings settings_;
    gantry::Leases4 leases_;
};
