// Networks and endpoints: the records, and the calls to the network driver.
#pragma once

#include <gantry/network.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

class Db;
class Events;

struct Network {
    std::string id, name, driver; // driver "bridge", "host", "null"
    NetworkSpec spec;
    int64_t created_ns = 0;
};

struct Endpoint {
    std::string id, network_id, network_name, owner;
    EndpointSpec spec;
    EndpointInfo info;
    std::vector<PortBinding> ports;
};

struct AttachRequest {
    std::string network; // name or id prefix; "" or "default": the default bridge
    std::string owner;   // container or sandbox id
    int netns_fd = -1;
    std::string ipv4, ipv6, mac, hostname;
    std::vector<std::string> aliases;
};

/// Thread-safe. The predefined networks "bridge", "host" and "none" exist always.
class Networks {
  public:
    Networks(Db &db, std::shared_ptr<NetworkDriver> driver, std::string driver_name, Events &events);
    ~Networks();

    /// Makes the predefined networks, tells the driver the whole truth. `live_owners`: who still runs;
    /// endpoints of others are detached.
    void recover(const std::vector<std::string> &live_owners);

    Endpoint attach(const AttachRequest &request);
    /// Hands a warm sandbox's endpoint to the container that takes it.
    void adopt(const std::string &endpoint_id, const std::string &owner);
    /// All or nothing; returns the settled bindings. kAlreadyExists when a port is taken.
    std::vector<PortBinding> publish(const std::string &endpoint_id, const std::vector<PortBinding> &ports);
    /// Idempotent: detaches every endpoint of the owner.
    void detach_all(const std::string &owner);
    std::vector<Endpoint> endpoints_of(const std::string &owner) const;
    std::vector<Endpoint> endpoints_on(const std::string &network_id) const;
    std::optional<NetworkStats> stats(const std::string &endpoint_id, int netns_fd) const;

    std::vector<Network> list() const;
    Network get(const std::string &name_or_id) const; // kNotFound "network X not found"
    NetworkCaps caps() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
